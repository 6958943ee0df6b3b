"""Scoring data of an agent: its own rollouts or replay samples, normalised as in training, without moving a generator."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from rl_crop.core.errors import PruningError
from rl_crop.core.model import mapped
from rl_crop.core.rng import eval_mode, isolated_rng
from rl_crop.sb3.batches import Samples
from rl_crop.sb3.policies.recurrent import STATES
from rl_crop.sb3.policies.soft import kept_noise

N_BATCHES = 8
BATCH_SIZE = 256


def rollout_samples(buffer: RolloutBuffer, n_samples: int, seed: int) -> Samples:
    """
    A random choice of the transitions in a full rollout buffer; the buffer is only read.

    :param buffer: after ``compute_returns_and_advantage``, flattened or not.
    :param n_samples: how many; all, where it holds fewer.
    :param seed: of the choice.
    :return: one row a transition, under the names of SB3's samples: action masks and the LSTM's states before each
        transition too, where the buffer holds them.
    :raises PruningError: the buffer is not full.
    """
    if not buffer.full:
        raise PruningError("The rollout buffer is not full: there is nothing to score on yet.")
    total = buffer.buffer_size * buffer.n_envs
    index = np.random.default_rng(seed).permutation(total)[:n_samples]

    def column(values: Any) -> Any:
        flat = values if buffer.generator_ready else buffer.swap_and_flatten(values)
        return buffer.to_torch(flat.reshape(total, *flat.shape[1:])[index])

    columns = {name: mapped(column, getattr(buffer, name)) for name in ("observations", "actions")}
    columns["actions"] = columns["actions"].float()
    for name, given in (("old_values", "values"), ("old_log_prob", "log_probs"), ("advantages",) * 2, ("returns",) * 2):
        columns[name] = column(getattr(buffer, given)).flatten()
    if hasattr(buffer, "action_masks"):
        columns["action_masks"] = column(buffer.action_masks)
    if hasattr(buffer, STATES[0]):
        for name in STATES:
            states = getattr(buffer, name)  # environments come second in them once they are flattened
            columns[name] = column(states if buffer.generator_ready else states.swapaxes(1, 2))
        columns["episode_starts"] = column(buffer.episode_starts).flatten()
    return Samples(**columns)


def split(samples: Samples, batch_size: int) -> list[Samples]:
    """:return: the samples in batches of ``batch_size`` (a remainder is left out unless it is all there is)."""
    total = n_rows(samples)
    size = min(batch_size, total)
    return [take(samples, slice(start, start + size)) for start in range(0, total - size + 1, size)]


def n_rows(samples: Samples) -> int:
    """:return: the number of observations."""
    value = samples.observations
    while isinstance(value, dict):
        value = next(iter(value.values()))
    return len(value)


def join(parts: list[Samples]) -> Samples:
    """:return: the samples of all parts, in order."""
    columns = ((name, [getattr(part, name) for part in parts]) for name in vars(parts[0]))
    return Samples(**{name: mapped(lambda *pieces: th.cat(pieces), *values) for name, values in columns})


def take(samples: Samples, rows: slice) -> Samples:
    """:return: the given rows."""
    return Samples(**{name: mapped(lambda tensor: tensor[rows], value) for name, value in vars(samples).items()})


class RolloutMemory:
    """
    The latest transitions of an on-policy run, from as many rollouts as it takes.

    A rollout can be shorter than what scoring wants; the older ones are of slightly older policies, which the policy
    loss at ratio 1 allows.

    :param n_samples: transitions to keep.
    """

    def __init__(self, n_samples: int) -> None:
        self.n_samples = n_samples
        self.parts: list[Samples] = []

    def add(self, buffer: RolloutBuffer, seed: int) -> None:
        """Copy a full buffer's transitions (a random choice, where it holds more than wanted)."""
        samples = rollout_samples(buffer, self.n_samples, seed)
        self.parts = [*(part for part in self.parts if _alike(part, samples)), samples]
        while sum(n_rows(part) for part in self.parts[1:]) >= self.n_samples:
            self.parts.pop(0)

    def batches(self, batch_size: int) -> list[Samples]:
        """
        :return: the latest transitions in batches.
        :raises PruningError: there are none.
        """
        if not self.parts:
            raise PruningError("No rollout has been collected yet: there is nothing to score on.")
        samples = join(self.parts)
        return split(take(samples, slice(max(n_rows(samples) - self.n_samples, 0), None)), batch_size)

    def clear(self) -> None:
        """Forget everything: it was collected by another network."""
        self.parts = []


def _alike(one: Samples, other: Samples) -> bool:
    """Whether the states in samples, if any, are of the same size: those of before a cut of the LSTM are not."""
    return all(getattr(one, name).shape[1:] == getattr(other, name).shape[1:] for name in STATES if hasattr(other, name))


def replay_batches(model: OffPolicyAlgorithm, n_batches: int, batch_size: int, seed: int, buffer: Any = None) -> list[Any]:
    """
    Samples from the agent's replay buffer, normalised as in training, with n-step discounts where the buffer has them.

    :param model: the agent.
    :param n_batches: number of batches.
    :param batch_size: transitions in each.
    :param seed: of the choice; global generators stay where they are.
    :param buffer: another buffer than the agent's own.
    :return: ``ReplayBufferSamples``.
    :raises PruningError: the buffer is empty.
    """
    buffer = model.replay_buffer if buffer is None else buffer
    if buffer is None or buffer.size() == 0:
        raise PruningError("The replay buffer is empty: there is nothing to score on yet.")
    with isolated_rng(seed):
        return [buffer.sample(batch_size, env=model.get_vec_normalize_env()) for _ in range(n_batches)]


def first_data(model: BaseAlgorithm, batch_size: int) -> int:
    """
    :param model: an agent whose training starts or goes on.
    :param batch_size: transitions in a scoring batch.
    :return: the timesteps before which there is nothing to score on: the end of the first rollout of on-policy agents, else
        ``learning_starts``, or later where an agent was loaded without its replay buffer.
    """
    if isinstance(model, OnPolicyAlgorithm):
        return model.num_timesteps + model.n_steps * model.n_envs
    learning_starts = max(getattr(model, "learning_starts", 0), 1)
    replay = getattr(model, "replay_buffer", None)
    if model.num_timesteps and replay is not None and replay.size() == 0:
        return max(learning_starts, model.num_timesteps + batch_size)
    return learning_starts


def agent_batches(model: BaseAlgorithm, n_batches: int, batch_size: int, seed: int) -> list[Any]:
    """
    Scoring batches of an agent: what it has, or, where that is not even one batch, a rollout collected for the purpose.

    Collecting moves the environment on; ``num_timesteps``, buffers, normalisation statistics and global generators
    stay as they are.

    :param model: the agent.
    :param n_batches: number of batches.
    :param batch_size: transitions in each.
    :param seed: of everything random.
    :return: the batches.
    :raises PruningError: there is no data and no environment to collect it from.
    """
    if isinstance(model, OnPolicyAlgorithm):
        buffer = model.rollout_buffer
        short = buffer.buffer_size * buffer.n_envs < batch_size and model.get_env() is not None
        if short or not buffer.full:
            buffer = collect(model, n_batches * batch_size, seed)
        return split(rollout_samples(buffer, n_batches * batch_size, seed), batch_size)
    if isinstance(model, OffPolicyAlgorithm):
        replay = model.replay_buffer
        if replay is None or replay.size() * replay.n_envs < batch_size:
            replay = collect(model, n_batches * batch_size, seed)
        return replay_batches(model, n_batches, batch_size, seed, replay)
    return split(collect(model, n_batches * batch_size, seed), batch_size)


def collect(model: Any, n_samples: int, seed: int) -> Any:
    """
    Fill a buffer of its own with the agent's experience (of an agent that has no buffers, observations alone).

    :param model: the agent.
    :param n_samples: transitions, at least.
    :param seed: of actions; the environment goes on with its own generator.
    :return: the buffer, full, or samples of observations. Only where the environment stands has changed.
    :raises PruningError: there is no environment.
    """
    env = model.get_env()
    if env is None:
        raise PruningError("The agent has no data and no environment: give batches, or load it with env=...")
    steps = max(-(-n_samples // env.num_envs), 1)
    silent: BaseCallback = ConvertCallback(None)
    silent.init_callback(model)
    with isolated_rng(seed), _unmoved(model):
        if model._last_obs is None:
            model._last_obs = env.reset()
            model._last_episode_starts = np.ones((env.num_envs,), dtype=bool)
            if model.get_vec_normalize_env() is not None:
                model._last_original_obs = model.get_vec_normalize_env().get_original_obs()
        if isinstance(model, OnPolicyAlgorithm):
            own: Any = model.rollout_buffer
            shapes = {"hidden_state_shape": (steps, *own.hidden_state_shape[1:])} if hasattr(own, STATES[0]) else {}
            buffer = type(own)(
                steps, model.observation_space, model.action_space, device=model.device, gamma=model.gamma,
                gae_lambda=model.gae_lambda, n_envs=env.num_envs, **shapes, **getattr(model, "rollout_buffer_kwargs", {}),
            )  # fmt: skip
            masking = {"use_masking": _has_masks(env)} if hasattr(own, "action_masks") else {}
            model.collect_rollouts(env, silent, buffer, steps, **masking)
            return buffer
        if not isinstance(model, OffPolicyAlgorithm):
            return _watch(model, env, steps)
        assert model.replay_buffer_class is not None
        if issubclass(model.replay_buffer_class, HerReplayBuffer):
            raise PruningError("A hindsight replay buffer fills by whole episodes: train first, or give batches.")
        replay = model.replay_buffer_class(
            steps * env.num_envs, model.observation_space, model.action_space, device=model.device, n_envs=env.num_envs,
            optimize_memory_usage=False, **model.replay_buffer_kwargs,
        )  # fmt: skip
        noise = copy.deepcopy(model.action_noise)
        model.collect_rollouts(env, silent, TrainFreq(steps, TrainFrequencyUnit.STEP), replay, noise)
        return replay


def _watch(model: Any, env: Any, steps: int) -> Samples:
    """Observations of an agent that acts without exploring."""
    seen = []
    for _ in range(steps):
        seen.append(obs_as_tensor(model._last_obs, model.device))
        model._last_obs = env.step(model.predict(model._last_obs, deterministic=True)[0])[0]
    return join([Samples(observations=observation) for observation in seen])


def _has_masks(env: Any) -> bool:
    from sb3_contrib.common.maskable.utils import is_masking_supported

    return is_masking_supported(env)


@contextmanager
def _unmoved(model: Any) -> Iterator[None]:
    """Counters, statistics, modes and exploration noise of an agent are put back after a block that acts with it."""
    kept = {name: getattr(model, name) for name in _COUNTERS if hasattr(model, name)}
    normalize = model.get_vec_normalize_env()
    training, returns = (normalize.training, normalize.returns.copy()) if normalize is not None else (None, None)
    actor = getattr(model.policy, "actor", model.policy)
    with eval_mode(model.policy), kept_noise(getattr(actor, "action_dist", None)):
        try:
            if normalize is not None:
                normalize.training = False
            model.ep_info_buffer, model.ep_success_buffer = _Discard(), _Discard()
            model._on_step = lambda: None  # DQN's moves the target network and the exploration rate
            model.action_space = copy.deepcopy(model.action_space)  # random actions move its generator
            model._total_timesteps = max(model._total_timesteps, 1)  # progress is computed by it
            yield
        finally:
            vars(model).pop("_on_step", None)
            for name, value in kept.items():
                setattr(model, name, value)
            if normalize is not None:
                normalize.training, normalize.returns = training, returns


_COUNTERS = (
    "num_timesteps", "ep_info_buffer", "ep_success_buffer", "_episode_num", "_current_progress_remaining", "_n_calls",
    "_total_timesteps", "action_space",
)  # fmt: skip


class _Discard(list):
    """An episode buffer that stays empty."""

    def extend(self, items: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass
