"""When the automatic triggers cut: all of them, on every task, over several seeds.

Dense runs are watched until all triggers have fired. Writes one JSON file a task and prints a Markdown table. A task whose
file holds a seed already does not run it again.

Example::

    python scripts/prune_times.py configs/ppo_cartpole.yaml configs/sac_pendulum.yaml --seeds 5
"""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Small networks on a CPU are fastest on one thread. It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import tyro

from rl_crop.evaluation import load_config
from rl_crop.evaluation.building import build_env, build_model
from rl_crop.evaluation.prune_times import PruneTimeRecorder
from rl_crop.files import read_json, write_json


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
    out: Path = Path("docs/results/prune_times")
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
