"""Sizes that would be found all along dense runs: when is the size stable, and how much has been learnt by then?

Planning changes nothing, so the runs are dense ones. Every line of the file of results is one run; runs that are there are not
made again. Prints a Markdown table.

Example::

    python scripts/lab/sizes_over_time.py configs/ppo_tracking.yaml configs/ppo_cartpole.yaml --seeds 2
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Small networks on a CPU are fastest on one thread. It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))  # where `lab` is

import numpy as np
import tyro
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

import rl_crop
from lab.kept import keep_lines, kept_lines
from rl_crop.evaluation import load_config
from rl_crop.evaluation.building import build_env, build_model
from rl_crop.sb3.between_rollouts import training_batches
from rl_crop.sb3.data import BATCH_SIZE, RolloutMemory

N_BATCHES = 8


@dataclass(frozen=True)
class Args:
    configs: tyro.conf.Positional[tuple[Path, ...]]
    """The tasks: YAML files of `configs/`."""
    seeds: int = 1
    """Seeds 0, 1, … of each task."""
    n_looks: int = 20
    """How often sizes are looked for in a run."""
    tolerances: tuple[float, ...] = (1e-2, 1e-3, 1e-4)
    """By which."""
    timesteps: int | None = None
    """In place of the run's own length."""
    out: Path = Path("runs/sizes_over_time/results.jsonl")
    """Where the lines are kept."""


class Looker(BaseCallback):
    """Notes the sizes that would be found, at equal intervals."""

    def __init__(self, args: Args, total: int) -> None:
        super().__init__()
        self.args, self.every, self.looks = args, total / args.n_looks, []  # type: ignore[var-annotated]
        self.memory = RolloutMemory(N_BATCHES * BATCH_SIZE)

    def _on_rollout_end(self) -> None:
        if isinstance(self.model, OnPolicyAlgorithm):
            self.memory.add(self.model.rollout_buffer, self.num_timesteps)
        if self.num_timesteps < self.every * (len(self.looks) + 1):
            return
        returns = [episode["r"] for episode in self.model.ep_info_buffer or []]
        look: dict[str, Any] = {"at": self.num_timesteps, "return": float(np.mean(returns)) if returns else None, "left": {}}
        try:
            batches = training_batches(self.model, self.memory, N_BATCHES, BATCH_SIZE, 0)
        except rl_crop.PruningError:
            return  # nothing has been collected yet
        for tolerance in self.args.tolerances:
            plan = rl_crop.plan_policy_pruning(self.model, "auto", batches=batches, tolerance=tolerance, seed=0)
            look["left"][f"{tolerance:g}"] = {name: 1.0 - share for name, share in plan.sparsity.items()}
            look.setdefault("widths", {})[f"{tolerance:g}"] = dict(plan.widths_after)
        self.looks.append(look)

    def _on_step(self) -> bool:
        return True


def run(path: Path, seed: int, args: Args) -> dict[str, Any]:
    """:return: what was found along one run."""
    config = load_config(path)
    env = build_env(config, seed)
    total = args.timesteps or config.n_timesteps
    looker = Looker(args, total)
    build_model(config, env, seed).learn(total, callback=looker)
    env.close()
    return {"task": path.stem, "seed": seed, "timesteps": total, "looks": looker.looks}


def table(lines: list[dict[str, Any]]) -> str:
    """:return: a row a look: what has been learnt, and the share of prunable parameters that would be left."""
    rows = ["| task | seed | time | return | left |", "|---|---|---|---|---|"]
    for line in lines:
        for look in line["looks"]:
            left = "; ".join(
                f"{tolerance}: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
                for tolerance, shares in look["left"].items()
            )
            reached = "" if look["return"] is None else f"{look['return']:.1f}"
            rows.append(f"| {line['task']} | {line['seed']} | {look['at'] / line['timesteps']:.0%} | {reached} | {left} |")
    return "\n".join(rows)


def main(args: Args) -> None:
    """Make the runs that are missing, and print the table."""
    lines = kept_lines(args.out)
    done = {(line["task"], line["seed"], line["timesteps"]) for line in lines}
    for path in args.configs:
        for seed in range(args.seeds):
            if (path.stem, seed, args.timesteps or load_config(path).n_timesteps) not in done:
                lines.append(run(path, seed, args))
                keep_lines(args.out, lines)
    print(table(lines))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
