"""When an agent that trains may be cut, and what it is scored on: between two rollouts, on its own data."""

from collections.abc import Callable, Mapping
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from rl_crop.core.errors import PruningError
from rl_crop.core.recipes.timetable import Limits
from rl_crop.sb3.data import RolloutMemory, agent_batches, first_data, replay_batches

STEPS_BETWEEN = {True: 250, False: 1000}
"""Optimizer steps between two moves of masks, at least: of on-policy algorithms, and of others."""
CHECK_EVERY = 250
"""Timesteps between two checks of a trigger, at least, where there is no rollout to wait for."""
_PROGRESS = "_update_current_progress_remaining"


def agent_limits(model: BaseAlgorithm, length: int, batch_size: int, memory: RolloutMemory, start: int = 0) -> Limits:
    """
    :param model: an agent whose training starts or goes on.
    :param length: timesteps at which the run ends, counted from ``start``.
    :param batch_size: transitions in a scoring batch.
    :param memory: rollouts that are known already.
    :param start: timesteps of the agent at which the run began.
    :return: what an engine has to know of its time, in timesteps.
    """
    on_policy = isinstance(model, OnPolicyAlgorithm)
    data_from = 0 if memory.parts else first_data(model, batch_size)
    untrained = 0 if on_policy else getattr(model, "learning_starts", 0)
    return Limits(
        length, max(data_from - start, 0), max(untrained - start, 0), 0 if on_policy else CHECK_EVERY, STEPS_BETWEEN[on_policy]
    )


def training_batches(
    model: BaseAlgorithm, memory: RolloutMemory, n_batches: int, batch_size: int, seed: int, at_end: bool = False
) -> list[Any]:
    """
    :param model: an agent that trains.
    :param memory: its latest rollouts, of an on-policy agent.
    :param n_batches: number of batches.
    :param batch_size: transitions in each.
    :param seed: of the choice.
    :param at_end: whether training is over, so that a rollout may be collected where none was finished.
    :return: scoring batches.
    :raises PruningError: there is no data yet.
    """
    if isinstance(model, OnPolicyAlgorithm) and (memory.parts or not at_end):
        return memory.batches(batch_size)[-n_batches:]
    learning_starts = getattr(model, "learning_starts", 0)
    if model.num_timesteps < learning_starts:
        raise PruningError(f"learning has not started: train for more than learning_starts={learning_starts:,} steps.")
    if not isinstance(model, OffPolicyAlgorithm):  # it keeps no data
        return agent_batches(model, n_batches, batch_size, seed)
    return replay_batches(model, n_batches, batch_size, seed + model.num_timesteps)


def between_updates(model: Any, action: Callable[[], None]) -> None:
    """
    Do something to an agent without rollout or replay buffer (ARS) once its running update has ended, before the next one.

    An update holds perturbations of all parameters from before its rollouts until after them, so no callback comes at a
    time at which shapes may change. What every update begins with is wrapped, once.

    :param model: the agent, in training.
    :param action: what to do; see :func:`no_longer`, where training ends before.
    """
    original = model._update_current_progress_remaining

    def wrapped(*args: Any) -> None:
        no_longer(model)
        original(*args)
        action()

    model._update_current_progress_remaining = wrapped


def no_longer(model: Any) -> None:
    """Forget what was to be done between two updates; the agent can be saved again."""
    vars(model).pop(_PROGRESS, None)


def refuse_workers(local_names: Mapping[str, Any]) -> None:
    """:raises PruningError: candidates are evaluated in other processes, whose policies would keep their old shape."""
    if local_names.get("async_eval") is not None:
        raise PruningError("async_eval holds copies of the policy in other processes: train without it until the cut.")


def has_buffers(model: BaseAlgorithm) -> bool:
    """:return: whether an agent keeps rollouts or replay data, so that it may be cut before every rollout."""
    return isinstance(model, (OnPolicyAlgorithm, OffPolicyAlgorithm))
