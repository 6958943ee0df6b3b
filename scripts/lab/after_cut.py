"""What the next updates do to a cut agent: returns after the cut and after each of a few rollouts, for weak and strong
refits, with optimizers that keep their state and that begin anew.

Example::

    python scripts/lab/after_cut.py configs/ppo_tracking.yaml
"""

import copy
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

# Small networks on a CPU are fastest on one thread. It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))  # where `lab` is

import numpy as np
import tyro
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

import rl_crop.core.pruning.compensation
import rl_crop.core.pruning.plan
from lab.partly_trained import partly_trained
from rl_crop import prune_policy
from rl_crop.core.pruning.compensation import RIDGE
from rl_crop.evaluation import load_config
from rl_crop.evaluation.agents import episode_returns
from rl_crop.evaluation.algorithms import algorithm_class
from rl_crop.evaluation.building import build_env
from rl_crop.evaluation.config import ConfigError, RunConfig
from rl_crop.evaluation.text import number
from rl_crop.files import write_json, write_text

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
            stack.enter_context(patch.object(rl_crop.core.pruning.cutting, "forget", lambda *_: None))
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


@dataclass(frozen=True)
class Args:
    config: tyro.conf.Positional[Path]
    """The task: a YAML file of `configs/`, of an on-policy algorithm."""
    criteria: tuple[str, ...] = ("random", "magnitude", "crop", "span_crop")
    """How units are scored."""
    sparsity: float = 0.9
    """Share of each network's prunable parameters to cut."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the cut; `random` differs most."""
    trained: float = 0.1
    """Share of the run that the agent is trained for before."""
    n_updates: int = 4
    """Rollouts trained on after the cut."""
    runs: Path = Path("runs/after_cut")
    """Where the trained agent is kept."""
    out: Path = Path("runs/after_cut")
    """Where the results go."""


def markdown(rows: list[dict[str, Any]]) -> str:
    """
    :param rows: one a criterion, way and seed
    :return: a table: one line a criterion and way, the seeds beside each other
    """
    columns = ("criterion", "ridge", "optimizers", "after the cut", "after the last update")
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for criterion in dict.fromkeys(row["criterion"] for row in rows):
        for way in WAYS:
            own = [row for row in rows if (row["criterion"], row["ridge"], row["keeps_state"]) == (criterion, *way)]
            cells = [criterion, f"{way[0]:g}", "go on" if way[1] else "begin anew"]
            cells += [", ".join(number(row["returns"][at]) for row in own) for at in (0, -1)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(args: Args) -> None:
    """Train the agent, cut it in every way, and write what followed."""
    config, task = load_config(args.config), args.config.stem
    env, test_env = build_env(config, 0), build_env(config, 10_000, 1, training=False)
    model, saved = partly_trained(config, env, task, 0, args.trained, args.runs)
    dense, rate = played(model, test_env), float(model.lr_schedule(1.0 - args.trained))
    rows = []
    for criterion in args.criteria:
        rows += next_updates(saved, config, env, test_env, rate, args.sparsity, criterion, args.seeds, args.n_updates)
    facts = {"task": task, "sparsity": args.sparsity, "trained": args.trained, "n_updates": args.n_updates, "dense": dense}
    write_json(args.out / f"{task}.json", facts | {"rows": rows})
    title = f"{task}, {args.sparsity:.0%} cut after {args.trained:.0%} of the run; return before the cut {number(dense)}"
    print(write_text(args.out / f"{task}.md", f"# {title}\n\n{markdown(rows)}").read_text())


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
