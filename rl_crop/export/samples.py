"""Observations to compare the file with the policy on: real ones, where there are any."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from rl_crop.export.actor import MASKS, Actor
from rl_crop.export.source import Source
from rl_crop.sb3.observations import sampled

N_OBSERVATIONS, N_IMAGES = 256, 32


@dataclass(frozen=True)
class Observations:
    """
    Observations as the file takes them.

    :param observations: one array for each input that is an observation, batch first
    :param masks: masks of actions, where the environment gives some
    :param origin: in words, where they are from
    """

    observations: list[np.ndarray]
    masks: np.ndarray | None
    origin: str

    def __len__(self) -> int:
        return len(self.observations[0])


def collect_samples(model: Any, actor: Actor, source: Source, seed: int = 0) -> Observations:
    """
    Step an environment with the policy's actions: the one that the caller gave, or a fresh one of the kind that the agent
    trains in, which is itself never moved. Where there is none: the observations that the agent's buffers hold, and samples
    of the space.

    :param model: an algorithm or a bare policy
    :param actor: its actor
    :param source: what the file takes
    :param seed: of environment and samples
    :return: the observations
    """
    images = any(len(port.shape) == 3 for port in actor.inputs[: actor.n_observations])
    n = N_IMAGES if images else N_OBSERVATIONS
    if source.env is not None and not source.own:
        return _step(model, actor, source, source.env, n, "the environment")
    fresh = _fresh_env(source, seed)
    if fresh is not None:
        try:
            return _step(model, actor, source, fresh, n, "a fresh environment")
        except Exception:  # it may want masks, say, that only a wrapper gives
            pass
        finally:
            fresh.close()
    parts = [_columns(actor, sampled(source.space, n, seed))]
    held = [_columns(actor, observations) for observations in _held(model, source, n)]
    parts += held
    origin = "the agent's buffer and the space" if held else "the space"
    return Observations([np.concatenate(columns) for columns in zip(*parts)], None, origin)


def _fresh_env(source: Source, seed: int) -> VecEnv | None:
    if source.env is None:
        return None
    try:  # simulators need not be gym environments, and anything can go wrong in the making of one
        spec = source.env.get_attr("spec", [0])[0]
        if spec is None:
            return None
        env = gym.make(spec.id, **(spec.kwargs | {"render_mode": None}))
    except Exception:  # samples of the space are good enough
        return None
    if env.observation_space != source.space:  # it was wrapped
        env.close()
        return None
    vec = DummyVecEnv([lambda: env])
    vec.seed(seed)
    return vec


def _step(model: Any, actor: Actor, source: Source, env: VecEnv, n: int, origin: str) -> Observations:
    masked = any(port.name == MASKS for port in actor.inputs) and _gives_masks(env)
    rows, masks, keywords = [], [], {}
    observation: Any = env.reset()
    for _ in range(-(-n // env.num_envs)):
        rows.append(_columns(actor, copy.deepcopy(observation)))
        if masked:
            masks.append(np.stack(env.env_method(MASKS)))
            keywords = {MASKS: masks[-1]}
        action, _ = model.predict(source.wrap(observation), deterministic=True, **keywords)
        observation, _, _, _ = env.step(action)
    columns = [np.concatenate(column)[:n] for column in zip(*rows)]
    return Observations(columns, np.concatenate(masks)[:n].reshape(n, -1).astype(bool) if masked else None, origin)


def _gives_masks(env: VecEnv) -> bool:
    try:
        return env.has_attr(MASKS)
    except Exception:  # a simulator need not be able to say it
        return False


def _columns(actor: Actor, observation: Any) -> list[np.ndarray]:
    """:return: one array for each input that is an observation, of its type."""
    parts = [observation] if actor.keys is None else [observation[key] for key in actor.keys]
    ports = actor.inputs[: actor.n_observations]
    return [np.asarray(part).reshape(-1, *port.shape).astype(port.dtype) for part, port in zip(parts, ports)]


def _held(model: Any, source: Source, n: int) -> Iterator[Any]:
    """:return: up to about ``n`` observations that each of the agent's buffers holds, as the environment gave them."""
    rollouts, replay = getattr(model, "rollout_buffer", None), getattr(model, "replay_buffer", None)
    if rollouts is not None and rollouts.full:
        yield _unwrap(_rows(rollouts.observations, n, 1 if rollouts.generator_ready else 2), source, normalized=True)
    if replay is not None and replay.size() > 0:
        # Replay buffers keep observations as they are before normalisation.
        yield _unwrap(_rows(replay.observations, n, 2, replay.size()), source, normalized=False)


def _rows(observations: Any, n: int, n_axes: int, size: int | None = None) -> Any:
    """:return: the last observations of those before ``size``, the axes of steps and environments in one."""
    if isinstance(observations, dict):
        return {key: _rows(value, n, n_axes, size) for key, value in observations.items()}
    n_envs = observations.shape[1] if n_axes == 2 else 1
    rows = observations[:size][-n // n_envs :]
    return rows.reshape(-1, *rows.shape[n_axes:])


def _unwrap(observation: Any, source: Source, normalized: bool) -> Any:
    for wrapper in reversed(source.wrappers):
        if not isinstance(wrapper, VecNormalize):
            observation = _channels_last(observation, getattr(wrapper, "image_space_keys", None))
        elif normalized:
            observation = wrapper.unnormalize_obs(observation)
    return observation


def _channels_last(observation: Any, keys: list[str] | None) -> Any:
    if isinstance(observation, dict):
        return {key: np.moveaxis(value, 1, -1) if key in (keys or ()) else value for key, value in observation.items()}
    return np.moveaxis(observation, 1, -1)
