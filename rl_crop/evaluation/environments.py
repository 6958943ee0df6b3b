"""A single environment from a configuration: where its id is registered, and what is wrapped around it."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from stable_baselines3.common.atari_wrappers import AtariWrapper

from rl_crop.evaluation.config import ConfigError, RunConfig
from rl_crop.optional import require

Env = gym.Env[Any, Any]


def environment_maker(config: RunConfig) -> Callable[..., Env]:
    """
    :return: a function that makes one environment of a run, without wrappers of the configuration
    :raises ConfigError: the id is not known, or ``atari`` is asked for where there is no game
    """
    kwargs = dict(config.env_kwargs)
    if _is_atari(config):
        # Frames are skipped once, by the preprocessing.
        kwargs = {"frameskip": 1} | kwargs
    return functools.partial(gym.make, config.env, **kwargs)


def environment_wrapper(config: RunConfig) -> Callable[[Env], Env]:
    """
    What is wrapped around each environment of a run: Atari preprocessing, ``env_wrapper``, noise. It comes around the
    monitor, so returns are those of the task itself.

    :param config: the run
    :return: a function from an environment to the wrapped one
    :raises ConfigError: a wrapper is not known
    """
    wrappers: list[tuple[Callable[..., Any], dict[str, Any]]] = [(AtariWrapper, {})] if _is_atari(config) else []
    wrappers += [(_class(name), kwargs) for entry in config.env_wrapper for name, kwargs in entry.items()]
    if config.noise_dims:
        wrappers.append((importlib.import_module("rl_crop_envs").NoiseDimensions, {"noise_dims": config.noise_dims}))

    def wrap(env: Env) -> Env:
        for wrapper, kwargs in wrappers:
            try:
                env = wrapper(env, **kwargs)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{wrapper.__name__} cannot wrap {config.env}: {error}") from error
        return env

    return wrap


def _is_atari(config: RunConfig) -> bool:
    game = "AtariEnv" in str(_find(config.env).entry_point)
    if config.atari and not game:
        raise ConfigError(f"`atari: true`: {config.env} is no Atari game")
    return game and config.atari is not False


def _find(env_id: str) -> gym.envs.registration.EnvSpec:
    module, _, name = env_id.rpartition(":")  # gymnasium's way to name the package that registers an environment
    if module:
        importlib.import_module(module)
    elif name.startswith("rl_crop/"):
        importlib.import_module("rl_crop_envs")
    elif name.startswith("ALE/") or "NoFrameskip" in name:
        require("ale_py", "atari")
        require("cv2", "atari")
    try:
        return gym.spec(name)
    except gym.error.Error as error:
        raise ConfigError(f"`env: {env_id}`: {error}") from error


def _class(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"`env_wrapper: {name}` cannot be imported: {error}") from error
