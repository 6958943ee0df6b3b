"""Transitions that need not be real: what a criterion of the user's own is tried on before anything is trained."""

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from rl_crop.core.errors import PruningError
from rl_crop.core.model import Subject
from rl_crop.core.recipes.engine import PruningEngine
from rl_crop.core.recipes.own_criteria import criterion_is_own, try_criterion
from rl_crop.sb3.adapters import unwrap
from rl_crop.sb3.batches import Samples, as_samples
from rl_crop.sb3.data import n_rows
from rl_crop.sb3.observations import example_observations

NUMBERS = ("advantages", "returns", "old_values", "old_log_prob")
"""What a rollout buffer knows of each transition beside observation and action; here random, about zero."""


def example_transitions(model: BaseAlgorithm) -> Samples:
    """
    :param model: an agent; it stays as it is, generators included.
    :return: a few transitions with the fields and shapes that its buffer gives: observations that the agent holds, else of
        its space, random actions, and random numbers for what only an environment could say.
    """
    policy = unwrap(model.policy)
    observations = as_samples(example_observations(policy, model), policy.device).observations
    n, drawn = n_rows(Samples(observations=observations)), np.random.default_rng(0)
    space = copy.deepcopy(policy.action_space)
    space.seed(0)
    drawn_actions = np.stack([space.sample() for _ in range(n)])
    actions = drawn_actions.reshape(n, -1)

    def column(values: Any, dtype: th.dtype = th.float32) -> th.Tensor:
        return th.as_tensor(np.asarray(values), device=policy.device).to(dtype)

    if isinstance(model, OffPolicyAlgorithm):
        discrete = isinstance(space, spaces.Discrete)
        given = actions if discrete else policy.scale_action(drawn_actions).reshape(n, -1)
        return Samples(
            observations=observations, next_observations=observations,
            actions=column(given, th.int64 if discrete else th.float32),
            rewards=column(drawn.normal(size=(n, 1))), dones=column(np.zeros((n, 1))),
        )  # fmt: skip
    columns = {"observations": observations}
    if isinstance(model, OnPolicyAlgorithm):
        columns |= {"actions": column(actions)} | {name: column(drawn.normal(size=n)) for name in NUMBERS}
    return Samples(**columns)


def try_own_criterion(
    model: BaseAlgorithm, engine: PruningEngine, subject_of: Callable[[Sequence[Any]], Subject], on_error: str
) -> None:
    """
    :param model: the agent, whose training starts.
    :param engine: of its run; one that has nothing left to do tries nothing.
    :param subject_of: makes what is pruned of batches.
    :param on_error: ``"raise"``, or ``"warn"``: then it is tried again when it is due.
    :raises PruningError: the criterion is the user's own, and fails.
    """
    if engine.finished or not criterion_is_own(engine):
        return
    try:
        try_criterion(engine, subject_of([example_transitions(model)]))
    except PruningError as error:
        if on_error == "raise":
            raise
        warnings.warn(str(error), stacklevel=2)
