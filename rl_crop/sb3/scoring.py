"""What a run is scored on while it trains."""

from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from rl_crop.core.errors import PruningError
from rl_crop.sb3.data import RolloutMemory, agent_batches, replay_batches


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
        return memory.batches(batch_size)
    learning_starts = getattr(model, "learning_starts", 0)
    if model.num_timesteps < learning_starts:
        raise PruningError(f"learning has not started: train for more than learning_starts={learning_starts:,} steps.")
    if not isinstance(model, OffPolicyAlgorithm):  # it keeps no data
        return agent_batches(model, n_batches, batch_size, seed)
    return replay_batches(model, n_batches, batch_size, seed + model.num_timesteps)
