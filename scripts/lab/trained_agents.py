"""Trained agents made as small as they can be without training on: returns before and after, of several tasks and seeds.

An agent is trained once for its whole run and kept. Every line of the file of results is one cut; lines that are there are not
made again. Prints a Markdown table.

Example::

    python scripts/lab/trained_agents.py configs/ppo_cartpole.yaml configs/sac_pendulum.yaml --seeds 3
"""

import json
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
from rl_crop.files import write_text

ARMS: dict[str, dict[str, Any]] = {
    "auto": {},
    "actor alone": {"sparsity": "auto", "networks": "actor"},
    "random, same widths": {"criterion": "random"},
    "obs_crop 0.9": {"sparsity": 0.9, "criterion": "obs_crop"},
    "obs_crop 0.99": {"sparsity": 0.99, "criterion": "obs_crop"},
    "crop 0.99": {"sparsity": 0.99},
    "magnitude 0.99": {"sparsity": 0.99, "criterion": "magnitude"},
}
"""Keywords of ``prune_policy`` by arm; those of the third are the shares that the first has found."""


@dataclass(frozen=True)
class Args:
    configs: tyro.conf.Positional[tuple[Path, ...]]
    """The tasks: YAML files of `configs/`."""
    seeds: int = 3
    """Seeds 0, 1, … of each task."""
    episodes: int = 50
    """Deterministic episodes by which an agent is judged."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Which cuts."""
    out: Path = Path("runs/trained_agents/results.jsonl")
    """Where the lines are kept, and the agents beside it."""


def judged(model: Any, config: Any, episodes: int) -> list[float]:
    """:return: returns of deterministic episodes, of the same starts for every cut of an agent."""
    env = build_env(config, 10_000, 1, training=False)
    normalization = model.get_vec_normalize_env()
    if normalization is not None:
        env.obs_rms = normalization.obs_rms  # type: ignore[attr-defined]
    found: Any = evaluate_policy(model, env, episodes, return_episode_rewards=True)[0]
    env.close()
    return [float(value) for value in found]


def cut(path: Path, arm: str, seed: int, args: Args) -> dict[str, Any]:
    """:return: what one cut of one agent has done."""
    config = load_config(path)
    env = build_env(config, seed)
    model, _ = partly_trained(config, env, path.stem, seed, 1.0, args.out.parent / "agents")
    line: dict[str, Any] = {"task": path.stem, "seed": seed, "arm": arm, "before": judged(model, config, args.episodes)}
    keywords = dict(ARMS[arm])
    if arm.startswith("random"):
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
        "| task | arm | parameters | return before | after | worst tenth before | after |",
        "|---|---|---|---|---|---|---|",
    ]

    def worst(values: list[float]) -> float:
        return float(np.mean(sorted(values)[: max(len(values) // 10, 1)]))

    for task, arm in dict.fromkeys((line["task"], line["arm"]) for line in lines):
        own = [line for line in lines if (line["task"], line["arm"]) == (task, arm) and "after" in line]
        if own:
            sizes = [f"{line['report']['n_params_before']:,} to {line['report']['n_params_after']:,}" for line in own]
            means = [np.mean([of(line[when]) for line in own]) for of in (np.mean, worst) for when in ("before", "after")]
            rows.append(f"| {task} | {arm} | {'; '.join(sizes)} | " + " | ".join(f"{mean:.1f}" for mean in means) + " |")
    return "\n".join(rows)


def main(args: Args) -> None:
    """Make the lines that are missing, and print the table."""
    lines = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    done = {(line["task"], line["seed"], line["arm"]) for line in lines}
    for path in args.configs:
        for seed in range(args.seeds):
            for arm in args.arms:
                if (path.stem, seed, arm) not in done:
                    lines.append(cut(path, arm, seed, args))
                    write_text(args.out, "".join(f"{json.dumps(line)}\n" for line in lines))
    print(table(lines))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
