"""Observations to run a policy on where no batches are given: the agent's own, else samples of the space; never invented."""

import copy
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import obs_as_tensor

from rl_crop.core.model import mapped
from rl_crop.core.rng import isolated_rng

N_EXAMPLES = 8
LARGEST = 10.0
"""Real observations of spaces without bounds are mostly small; networks say nothing sensible on others."""


def example_observations(policy: BasePolicy, model: BaseAlgorithm | None) -> Any:
    """
    A few observations as the policy sees them: masks, logarithms and codes in a policy need values that really occur.

    :param policy: the policy.
    :param model: the agent that holds it, if any; only read.
    :return: tensors on the policy's device, not yet preprocessed.
    """
    held = None if model is None else held_observations(model)
    values = sampled(policy.observation_space, N_EXAMPLES) if held is None else held
    return obs_as_tensor(mapped(np.asarray, values), policy.device)


def held_observations(model: Any) -> Any:
    """
    :param model: an agent; generators and environment stay as they are.
    :return: up to :data:`N_EXAMPLES` observations that it holds, normalised as in training; ``None`` where it holds none.
    """
    rollouts, replay = getattr(model, "rollout_buffer", None), getattr(model, "replay_buffer", None)
    if rollouts is not None and rollouts.full:  # of shape (steps, environments, ...) until it is trained on
        flat = rollouts.generator_ready
        return mapped(lambda values: (values if flat else values[:, 0])[-N_EXAMPLES:], rollouts.observations)
    if model._last_obs is not None:
        return mapped(lambda values: values[:N_EXAMPLES], model._last_obs)
    if replay is not None and replay.size() > 0:
        try:
            with isolated_rng(0):
                observations = replay.sample(N_EXAMPLES, env=model.get_vec_normalize_env()).observations
        except RuntimeError:  # a hindsight buffer without a whole episode
            return None
        return mapped(lambda values: values.cpu().numpy(), observations)
    return None


def sampled(space: spaces.Space, n: int, seed: int = 0) -> Any:
    """
    :param space: of observations; its generator stays where it is.
    :param n: how many.
    :param seed: of the choice.
    :return: ``n`` samples as one array, or one by key; floating ones without narrow bounds are at most :data:`LARGEST`.
    """
    space = copy.deepcopy(space)
    space.seed(seed)
    rows: list[Any] = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return {key: _small(np.stack([row[key] for row in rows]), part) for key, part in space.spaces.items()}
    return _small(np.stack(rows), space)


def _small(samples: np.ndarray, space: spaces.Space) -> np.ndarray:
    """Bounds that stand for none are to be found in many spaces."""
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        return samples
    centre = np.clip(0.0, space.low, space.high)
    small = np.clip(centre + space.np_random.uniform(-LARGEST, LARGEST, samples.shape), space.low, space.high)
    return np.where(np.abs(samples - centre) > LARGEST, small.astype(space.dtype), samples)


def lost_normalization(model: Any) -> bool:
    """
    Whether an agent that was loaded has been trained with ``VecNormalize``, and stands without it now.

    Stable-Baselines3 keeps the last observation as the environment gave it: on-policy agents beside ``VecNormalize`` alone,
    off-policy ones always. Without normalisation that is the one before the last step, which the replay buffer holds.

    :param model: the agent.
    """
    original = model._last_original_obs
    if original is None or model.get_vec_normalize_env() is not None:
        return False
    if isinstance(model, OnPolicyAlgorithm):
        return not model.rollout_buffer.full  # else it has been trained since
    replay = getattr(model, "replay_buffer", None)
    if replay is None or replay.size() == 0 or _same(model._last_obs, original):
        return False
    return not _same(mapped(lambda values: values[replay.pos - 1], replay.observations), original)


def _same(one: Any, other: Any) -> bool:
    if one is None or isinstance(one, dict) != isinstance(other, dict):
        return False
    pairs = [(one[key], other[key]) for key in one] if isinstance(one, dict) else [(one, other)]
    return all(np.size(a) == np.size(b) and np.allclose(np.ravel(a), np.ravel(b), equal_nan=True) for a, b in pairs)
