"""What a pruned agent still does: it acts, trains on, saves, loads as it was and resumes."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from lab.fuzzing.building import build
from lab.fuzzing.checks import (
    CheckError,
    check,
    check_consistent,
    check_finite,
    check_same,
    moving,
    optimizers_of,
    state,
)
from lab.fuzzing.drawing import Combination
from lab.fuzzing.ways import SCORING, n_steps_of, observations_of
from rl_crop.core.errors import PruningError
from rl_crop.core.graph.tracer import tensors_in
from rl_crop.sb3.agent import plan_policy_pruning, prune_policy


def check_alive(model: BaseAlgorithm, chosen: Combination) -> None:
    """
    :param model: pruned.
    :param chosen: as what it was drawn; where the bare policy was pruned, the policy alone is looked at.
    :raises CheckError: it is inconsistent, does not train on, or is not loaded as it was.
    """
    bare = chosen.way == "policy"
    agent = model.policy if bare else model
    observations = observations_of(model)
    check_consistent(agent)
    for deterministic in (True, False):
        agent.predict(observations, deterministic=deterministic)
    if not bare:
        _train(model)
    elif optimizers_of(agent):  # random search has none
        _train_policy(model.policy)
    check_consistent(agent)
    if not bare:
        loaded = _check_saved(model, observations)
        if chosen.again:
            _prune_again(loaded)
            _check_saved(loaded, observations)
    elif _can_be_saved(build(chosen).policy, observations):
        _check_equal(model.policy, _saved(model.policy), observations)


def _train(model: BaseAlgorithm) -> None:
    with moving(model):
        model.learn(n_steps_of(model), reset_num_timesteps=False)
    check_finite(model)


def _train_policy(policy: BasePolicy) -> None:
    """Three steps of a loop of one's own, towards smaller outputs of every network."""
    runs = plan_policy_pruning(policy, 0.0, criterion="magnitude", compensation="none").subject.trained.runs
    with moving(policy):
        for _ in range(3):
            loss = th.stack([(value**2).mean() for run in runs for value in tensors_in(run(2))]).sum()
            for optimizer in optimizers_of(policy):
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers_of(policy):
                optimizer.step()
    check_finite(policy)


def _check_saved(model: BaseAlgorithm, observations: Any) -> BaseAlgorithm:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.zip"
        model.save(path)
        loaded = type(model).load(path, env=model.get_env(), device="cpu")
    _check_equal(model.policy, loaded.policy, observations)
    check(loaded.pruning_history == model.pruning_history, "the history was not saved")  # type: ignore[attr-defined]
    _train(loaded)
    check_consistent(loaded)
    return loaded


def _prune_again(model: BaseAlgorithm) -> None:
    """A second event; where too few units are left for it, it is refused."""
    before = state(model)
    try:
        prune_policy(model, 0.3, criterion="magnitude", compensation="bias", **SCORING)
    except PruningError as error:
        check("cannot be reached" in str(error), f"a second event was refused: {error}")
        check_same(before, state(model), "a refusal")
    check_consistent(model)


def _saved(policy: BasePolicy) -> BasePolicy:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "policy.zip")
        policy.save(path)
        return type(policy).load(path, device="cpu")


def _can_be_saved(policy: BasePolicy, observations: Any) -> bool:
    """Some policies forget arguments when they are saved alone: ``share_features_extractor``, the size of an LSTM."""
    try:
        _check_equal(policy, _saved(policy), observations)
    except (RuntimeError, CheckError):
        return False
    return True


def _check_equal(policy: BasePolicy, loaded: BasePolicy, observations: Any) -> None:
    first, second = policy.state_dict(), loaded.state_dict()
    different = [name for name in {**first, **second} if not th.equal(first[name], second[name])]
    check(not different, f"{different[:5]} were loaded with other values")
    first_actions, second_actions = (one.predict(observations, deterministic=True)[0] for one in (policy, loaded))
    check(np.allclose(first_actions, second_actions, atol=1e-5), "the loaded agent acts differently")
