"""What the next updates do to an agent that was cut: the strength of the refit, and what optimizers remember."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

import rl_crop.core.pruning.compensation
import rl_crop.core.pruning.plan
from rl_crop import prune_policy
from rl_crop.core.pruning.compensation import RIDGE
from rl_crop.evaluation.agents import episode_returns
from rl_crop.evaluation.algorithms import algorithm_class
from rl_crop.evaluation.config import ConfigError, RunConfig

WAYS = ((1e-4, True), (1e-4, False), (RIDGE, True), (RIDGE, False))
"""Ridge of the least squares, and whether optimizers keep their state; the last one is what the package does."""


@contextmanager
def another_way(ridge: float, keeps_state: bool) -> Iterator[None]:
    """
    Compensate in another way than the package does.

    :param ridge: pull towards the plain cut
    :param keeps_state: whether optimizers keep their (cut) state although weights were refitted
    """
    with ExitStack() as stack:
        stack.enter_context(patch.object(rl_crop.core.pruning.compensation, "RIDGE", ridge))
        if keeps_state:
            stack.enter_context(patch.object(rl_crop.core.pruning.plan, "forget", lambda *_: None))
        yield


def next_updates(
    saved: Path, config: RunConfig, env: VecEnv, test_env: VecEnv, rate: float, sparsity: float, criterion: str,
    seeds: Sequence[int], n_updates: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """
    Cut a saved agent in every way, train it on for a few rollouts, and play after each.

    :param saved: the agent
    :param config: its run
    :param env: its training environments
    :param test_env: where it plays, with deterministic actions
    :param rate: learning rate after the cut
    :param sparsity: of every network
    :param criterion: by name
    :param seeds: of the cut
    :param n_updates: rollouts trained on after the cut
    :return: one row a way and seed: ``returns`` holds the mean return right after the cut and after every update
    :raises ConfigError: the algorithm has no rollouts
    """
    rows = []
    for seed in seeds:
        for ridge, keeps_state in WAYS:
            model: Any = algorithm_class(config.algo).load(saved, env=env, device="cpu")
            if not isinstance(model, OnPolicyAlgorithm):
                raise ConfigError(f"`algo: {config.algo}`: only on-policy agents are updated rollout by rollout")
            model.set_random_seed(seed)
            model.lr_schedule = lambda _: rate
            with another_way(ridge, keeps_state):
                prune_policy(model, sparsity, criterion=criterion, seed=seed)
            returns = [played(model, test_env)]
            for _ in range(n_updates):
                model.learn(model.n_steps * model.n_envs, reset_num_timesteps=False)
                returns.append(played(model, test_env))
            rows.append({"criterion": criterion, "seed": seed, "ridge": ridge, "keeps_state": keeps_state, "returns": returns})
    return rows


def played(model: Any, env: VecEnv, n_episodes: int = 10) -> float:
    """:return: the mean return of some episodes, the same ones whenever it is asked"""
    env.seed(0)
    return float(np.mean(episode_returns(copy.copy(model), env, n_episodes)[0]))
