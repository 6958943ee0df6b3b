"""When the automatic triggers cut: all of them, on every task, over several seeds.

Dense runs are watched until all triggers have fired. Writes one JSON file a task and prints a Markdown table. A task whose
file holds a seed already does not run it again.

Example::

    python scripts/lab/prune_times.py configs/ppo_cartpole.yaml configs/sac_pendulum.yaml --seeds 5
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Small networks on a CPU are fastest on one thread. It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))  # where `lab` is

import tyro
from stable_baselines3.common.callbacks import BaseCallback

from rl_crop.core.recipes.timetable import Timetable
from rl_crop.core.recipes.triggers import SETTLED, TRIGGERS, TriggerOptions, Watched
from rl_crop.evaluation import load_config
from rl_crop.evaluation.building import build_env, build_model
from rl_crop.files import read_json, write_json
from rl_crop.sb3.agent import plan_policy_pruning, prunable_parameters
from rl_crop.sb3.between_rollouts import agent_limits
from rl_crop.sb3.data import BATCH_SIZE, RolloutMemory


class PruneTimeRecorder(BaseCallback):
    """
    Follows triggers as ``PruningCallback`` does, cuts nothing, and ends training once all have fired.

    :param sparsity: of the proposals that the early pruning indicator compares, and of the paper's rule
    :param earliest: no cut before this share of the budget
    :param latest: a cut at this share of the budget at the latest
    :param n_timesteps: the budget
    :param kappas: of ``"lazy"``, which is watched once for each
    """

    def __init__(
        self, sparsity: float, earliest: float, latest: float, n_timesteps: int, kappas: Sequence[float] = (SETTLED,)
    ) -> None:
        super().__init__()
        self.sparsity = sparsity
        self.earliest, self.latest, self.n_timesteps = earliest, latest, n_timesteps
        self.kappas = kappas
        self.timetables: dict[str, Timetable] = {}
        self.fired: dict[str, dict[str, Any]] = {}

    def _on_training_start(self) -> None:
        limits = agent_limits(self.model, self.n_timesteps, BATCH_SIZE, RolloutMemory(0))
        parameters = prunable_parameters(self.model)
        lazy = [(f"lazy, κ = {kappa:g}", "lazy", kappa) for kappa in self.kappas]
        for name, rule, kappa in (*lazy, *((rule, rule, SETTLED) for rule in TRIGGERS if rule != "lazy")):
            options = TriggerOptions(self.earliest, self.latest, kappa)
            timetable = Timetable(rule, self.latest, options=options, limits=limits)
            timetable.trigger = TRIGGERS[rule](Watched(parameters, dict.fromkeys(parameters, self.sparsity), True, options))
            self.timetables[name] = timetable

    def _on_rollout_start(self) -> None:
        for rule, timetable in self.timetables.items():
            if rule not in self.fired and timetable.begins(self.num_timesteps, self._proposal):
                self.fired[rule] = {"timesteps": self.num_timesteps, "decided_by": timetable.decided_by}

    def _on_step(self) -> bool:
        return len(self.fired) < len(self.timetables)

    def _proposal(self) -> dict[str, int]:
        plan = plan_policy_pruning(self.model, self.sparsity, criterion="magnitude", compensation="none")
        return plan.widths_after


@dataclass(frozen=True)
class Args:
    configs: tyro.conf.Positional[tuple[Path, ...]]
    """The tasks: YAML files of `configs/`."""
    seeds: int = 5
    """Seeds 0, 1, … of each task."""
    sparsity: float = 0.95
    """Of the proposals that the early pruning indicator compares, and of the paper's rule."""
    earliest: float = 0.1
    """No cut before this share of the run."""
    latest: float = 0.3
    """A cut at this share of the run at the latest."""
    kappa: tuple[float, ...] = (0.3, 0.03)
    """Values of κ to watch `lazy` with."""
    out: Path = Path("runs/prune_times")
    """Where the results go."""


def watch(path: Path, seed: int, args: Args) -> dict[str, Any]:
    """
    :param path: a configuration
    :param seed: of the agent and its environments
    :param args: the arguments
    :return: by trigger, when it fired and what decided
    """
    config = load_config(path)
    env = build_env(config, seed)
    recorder = PruneTimeRecorder(args.sparsity, args.earliest, args.latest, config.n_timesteps, args.kappa)
    build_model(config, env, seed).learn(config.n_timesteps, callback=recorder)
    env.close()
    return recorder.fired


def main(args: Args) -> None:
    """Watch every task and seed."""
    lines = ["| task | steps | trigger | cut at (share of the run), by seed | decided by |", "|---|---|---|---|---|"]
    for path in args.configs:
        n_timesteps = load_config(path).n_timesteps
        target = args.out / f"{path.stem}.json"
        settings: dict[str, Any] = {name: getattr(args, name) for name in ("sparsity", "earliest", "latest")}
        settings |= {"kappa": list(args.kappa), "n_timesteps": n_timesteps}
        found = read_json(target) if target.exists() else {}
        seeds = found.get("seeds", {}) if found.get("settings") == settings else {}
        for seed in range(args.seeds):
            if str(seed) not in seeds:
                seeds[str(seed)] = watch(path, seed, args)
                write_json(target, {"task": path.stem, "settings": settings, "seeds": seeds})
        for rule in next(iter(seeds.values())):
            events = [seed[rule] for seed in seeds.values()]
            times = ", ".join(f"{event['timesteps'] / n_timesteps:.0%}" for event in events)
            counts = ", ".join(f"{name} {n}" for name, n in Counter(event["decided_by"] for event in events).most_common())
            lines.append(f"| {path.stem} | {n_timesteps:,} | {rule} | {times} | {counts} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
