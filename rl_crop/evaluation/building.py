"""From a configuration to environments, a model and callbacks."""

import inspect
from typing import Any

import numpy as np
import torch as th
from gymnasium.spaces import Box
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize, VecTransposeImage

from rl_crop.evaluation.algorithms import algorithm_class
from rl_crop.evaluation.config import ConfigError, RunConfig
from rl_crop.evaluation.environments import environment_maker, environment_wrapper
from rl_crop.sb3.callback import PruningCallback

_NOISES: dict[str, Any] = {"normal": NormalActionNoise, "ornstein-uhlenbeck": OrnsteinUhlenbeckActionNoise}
# The hyperparameters that Stable-Baselines3 takes as functions of the progress.
_SCHEDULED = ("learning_rate", "clip_range", "clip_range_vf")


def build_env(config: RunConfig, seed: int, n_envs: int | None = None, *, training: bool = True) -> VecEnv:
    """
    Build vectorised environments as the configuration says: monitored, preprocessed (Atari), wrapped, with dimensions of
    noise, stacked, images with their channels first, and normalised.

    :param config: the run
    :param seed: the first environment's seed; the others count on from it
    :param n_envs: how many; the configuration's number by default
    :param training: whether normalisation statistics move and rewards are normalised
    :return: the environments
    :raises ConfigError: names the key whose value cannot be used
    """
    env: VecEnv = make_vec_env(
        environment_maker(config), n_envs=n_envs or config.n_envs, seed=seed, wrapper_class=environment_wrapper(config)
    )
    if config.frame_stack > 1:
        env = VecFrameStack(env, config.frame_stack)
    # Stable-Baselines3 does it by itself in training alone; evaluation environments must have the same layers.
    space = env.observation_space
    if isinstance(space, Box) and is_image_space(space) and not is_image_space_channels_first(space):
        env = VecTransposeImage(env)
    # The last layer, so that its statistics have the shape of what the agent sees and of what a replay buffer keeps.
    if config.normalize:
        # Rewards are scaled by the spread of the discounted return, so the discount must be the algorithm's.
        kwargs = {"gamma": config.hyperparams["gamma"]} if "gamma" in config.hyperparams else {}
        if isinstance(config.normalize, dict):
            kwargs |= config.normalize
        if is_image_space(env.observation_space) and kwargs.get("norm_obs", True):
            raise ConfigError("`normalize`: policies scale images by themselves; say `normalize: {norm_obs: false}`")
        env = VecNormalize(env, **kwargs)
        if not training:
            env.training = env.norm_reward = False
    return env


def build_model(config: RunConfig, env: VecEnv, seed: int) -> BaseAlgorithm:
    """
    Build an untrained agent.

    :param config: the run
    :param env: its training environments
    :param seed: seeds the agent, the environments and the global random generators
    :return: the agent
    :raises ConfigError: names the key whose value cannot be used
    """
    hyperparams = {"device": "cpu"} | config.hyperparams
    for key in _SCHEDULED:
        if isinstance(hyperparams.get(key), str):
            hyperparams[key] = _schedule(hyperparams[key], key)
    if isinstance(hyperparams.get("train_freq"), list):
        hyperparams["train_freq"] = tuple(hyperparams["train_freq"])
    if "noise_type" in hyperparams:
        kind, std = hyperparams.pop("noise_type"), hyperparams.pop("noise_std", 0.1)
        if kind not in _NOISES:
            raise ConfigError(f"`noise_type: {kind}` is not known, choose from {', '.join(_NOISES)}")
        mean = np.zeros(env.action_space.shape or 1)
        hyperparams["action_noise"] = _NOISES[kind](mean, np.full_like(mean, std))

    policy_kwargs = dict(config.policy_kwargs)
    activation = policy_kwargs.get("activation_fn")
    if isinstance(activation, str):
        policy_kwargs["activation_fn"] = getattr(th.nn, activation.removeprefix("nn."), None)
        if policy_kwargs["activation_fn"] is None:
            raise ConfigError(f"`policy_kwargs.activation_fn: {activation}` is not a class of torch.nn")
    policy = config.policy.replace("Mlp", "Cnn") if is_image_space(env.observation_space) else config.policy
    return algorithm_class(config.algo)(policy, env, policy_kwargs=policy_kwargs, seed=seed, **hyperparams)


def build_pruning_callback(pruning: dict[str, Any]) -> PruningCallback:
    """
    :return: the callback that prunes, with its keyword arguments
    :raises ConfigError: names the key that the callback does not know
    """
    known = inspect.signature(PruningCallback).parameters
    for key in pruning:
        if key not in known:
            raise ConfigError(f"The key `pruning.{key}` is not known, choose from {', '.join(known)}")
    return PruningCallback(**pruning)


def _schedule(text: str, key: str) -> LinearSchedule:
    # A class of Stable-Baselines3, not one of ours: the saved agent must load where this package is not installed.
    try:
        kind, value = text.split("_")
        if kind != "lin":
            raise ValueError
        return LinearSchedule(start=float(value), end=0.0, end_fraction=1.0)
    except ValueError:
        raise ConfigError(f"`{key}: {text}` is neither a number nor a schedule such as lin_0.001") from None
