"""Trained agents made as small as they can be without training on: returns before and after, of several tasks and seeds.

An agent is trained once for its whole run and kept. Every line of the file of results is one cut; lines that are there are not
made again. Prints a Markdown table.

Example::

    python scripts/lab/trained_agents.py configs/ppo_cartpole.yaml configs/sac_pendulum.yaml --seeds 3
    python scripts/lab/trained_agents.py  # what is recorded
"""

import dataclasses
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
from stable_baselines3.common.evaluation import evaluate_policy

import rl_crop
from lab.partly_trained import partly_trained
from rl_crop.evaluation import load_config
from rl_crop.evaluation.building import build_env
from rl_crop.files import read_lines, write_lines

ARMS: dict[str, dict[str, Any]] = {
    "auto": {},
    "auto, actor alone": {"sparsity": "auto", "networks": "actor"},
    "random units, as many": {"criterion": "random"},
    "90 %": {"sparsity": 0.9},
    "95 %": {"sparsity": 0.95},
    "98 %": {"sparsity": 0.98},
    "99 %": {"sparsity": 0.99},
    "99 %, crop": {"sparsity": 0.99, "criterion": "crop"},
    "99 %, magnitude": {"sparsity": 0.99, "criterion": "magnitude"},
    "99 %, random units": {"sparsity": 0.99, "criterion": "random"},
}
"""Keywords of ``prune_policy`` by arm; those of the third are the shares that the first has found. A Q-network is no actor."""


@dataclass(frozen=True)
class Args:
    configs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """The tasks: YAML files of `configs/`."""
    steps: int | None = None
    """Timesteps that agents are trained for, instead of the file's."""
    seeds: int = 3
    """Seeds 0, 1, … of each task."""
    episodes: int = 50
    """Deterministic episodes by which an agent is judged."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Which cuts."""
    out: Path = Path("docs/results/trained_agents.jsonl.gz")
    """Where the lines are kept."""
    agents: Path = Path("runs/trained_agents")
    """Where the trained agents are kept."""


def judged(model: Any, config: Any, episodes: int) -> list[float]:
    """:return: returns of deterministic episodes, of the same starts for every cut of an agent."""
    env = build_env(config, 10_000, 1, training=False)
    normalization = model.get_vec_normalize_env()
    if normalization is not None:
        env.obs_rms = normalization.obs_rms  # type: ignore[attr-defined]
    found: Any = evaluate_policy(model, env, episodes, return_episode_rewards=True)[0]
    env.close()
    return [float(value) for value in found]


def cut(path: Path, arm: str, seed: int, args: Args, before: list[float] | None) -> dict[str, Any]:
    """
    :param path: the task
    :param arm: the cut
    :param seed: of the agent
    :param args: the rest
    :param before: returns of the agent before the cut, where they are known
    :return: what one cut of one agent has done
    """
    config = load_config(path)
    config = config if args.steps is None else dataclasses.replace(config, n_timesteps=args.steps)
    env = build_env(config, seed)
    model, _ = partly_trained(config, env, path.stem, seed, 1.0, args.agents)
    line: dict[str, Any] = {
        "task": path.stem,
        "steps": model.num_timesteps,
        "seed": seed,
        "arm": arm,
        "before": before or judged(model, config, args.episodes),
    }
    keywords = dict(ARMS[arm])
    if arm == "random units, as many":
        found = rl_crop.plan_policy_pruning(model, seed=seed)
        keywords["sparsity"] = {name: share for name, share in found.sparsity.items() if name != "total" and share > 0}
    try:
        report = rl_crop.prune_policy(model, seed=seed, **keywords)
    except rl_crop.PruningError as error:
        return line | {"error": str(error)}
    finally:
        env.close()
    return line | {"after": judged(model, config, args.episodes), "report": report.to_dict()}


def table(lines: list[dict[str, Any]]) -> str:
    """:return: by task and arm, means over seeds of what an agent is judged by."""
    rows = [
        "| task | cut | agents | parameters | return before | after | worst tenth before | after |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def worst(values: list[float]) -> float:
        return float(np.mean(sorted(values)[: max(len(values) // 10, 1)]))

    for task, arm in dict.fromkeys((line["task"], line["arm"]) for line in lines):
        own = [line for line in lines if (line["task"], line["arm"]) == (task, arm) and "after" in line]
        if own:
            dense, left = ([line["report"][f"n_params_{when}"] for line in own] for when in ("before", "after"))
            sizes = f"{dense[0]:,} to {' / '.join(f'{size:,}' for size in left)}"
            means = [np.mean([of(line[when]) for line in own]) for of in (np.mean, worst) for when in ("before", "after")]
            rows.append(f"| {task} | {arm} | {len(own)} | {sizes} | " + " | ".join(f"{mean:.4g}" for mean in means) + " |")
    return "\n".join(rows)


def main(args: Args) -> None:
    """Make the lines that are missing, and print the table."""
    lines = read_lines(args.out) if args.out.exists() else []
    done = {(line["task"], line["seed"], line["arm"]) for line in lines}
    for path in args.configs:
        for seed in range(args.seeds):
            for arm in args.arms:
                if (path.stem, seed, arm) not in done:
                    known = [line["before"] for line in lines if (line["task"], line["seed"]) == (path.stem, seed)]
                    lines.append(cut(path, arm, seed, args, known[0] if known else None))
                    write_lines(args.out, lines)
    print(table(lines))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
