"""The results of a study as Markdown tables: one line an arm, every seed shown.

Example::

    python scripts/summarize.py docs/results/returns
"""

import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from rl_crop.evaluation.statistics import bootstrap_interval, interquartile_mean
from rl_crop.files import read_json, write_text

COLUMNS = [
    "arm", "final return by seed", "mean", "IQM of seeds [95 %]", "last 10 % of the run", "parameters",
    "widths, first seed", "cut at", "training, CPU s",
]  # fmt: skip


@dataclass(frozen=True)
class Args:
    results: tyro.conf.Positional[Path]
    """A folder with one JSON file a run, as `scripts/sweep.py` writes it."""
    out: Path | None = None
    """A Markdown file for the tables."""


def row(arm: str, runs: list[dict[str, Any]]) -> list[str]:
    """
    :param arm: its name
    :param runs: its results, one a seed
    :return: the cells of its line
    """
    runs = sorted(runs, key=lambda run: run["seed"])
    finals = [run["final"]["mean"] for run in runs]
    iqm = f"{interquartile_mean(finals):.0f}"
    if len(runs) > 1:
        low, high = bootstrap_interval(finals)
        iqm += f" [{low:.0f}, {high:.0f}]"
    parameters = sorted({run["n_params"]["total"] for run in runs})
    counts = f"{parameters[0]:,}" if len(parameters) == 1 else f"{parameters[0]:,}–{parameters[-1]:,}"
    cuts = [
        f"{event['timesteps'] / run['n_timesteps']:.0%} ({event['decided_by']})"
        for run in runs
        for event in run["pruning_history"]
    ]
    last = np.mean([run["last_evaluations_mean"] for run in runs])
    widths = "; ".join(f"{head} {'-'.join(map(str, sizes))}" for head, sizes in runs[0]["widths"].items())
    return [
        arm, ", ".join(f"{value:.0f}" for value in finals), f"{np.mean(finals):.0f}",
        iqm,
        f"{last:.0f}", counts, widths, ", ".join(dict.fromkeys(cuts)) or "–",
        f"{np.mean([run['seconds']['learn_cpu'] for run in runs]):.0f}",
    ]  # fmt: skip


def main(args: Args) -> None:
    """Print the tables, and write them where asked."""
    by_task: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(args.results.glob("*.json")):
        result = read_json(path)
        by_task[result["task"]][result["arm"]].append(result)
    if not by_task:
        sys.exit(f"No results in {args.results}: run scripts/sweep.py first.")
    text = ""
    for task, arms in by_task.items():
        first = next(iter(arms.values()))[0]
        lines = [f"### {task}: {first['env']}, {first['n_timesteps']:,} steps", "", "| " + " | ".join(COLUMNS) + " |"]
        lines += ["|" + "---|" * len(COLUMNS)]
        best_first = sorted(arms, key=lambda arm: -np.mean([run["final"]["mean"] for run in arms[arm]]))
        lines += ["| " + " | ".join(row(arm, arms[arm])) + " |" for arm in best_first]
        text += "\n".join(lines) + "\n\n"
    print(text)
    if args.out is not None:
        write_text(args.out, text)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
