"""Compare ways to prune on supervised tasks: every task, arm, sparsity and seed of a study file, and a table.

What has a row in the results is not run again.

Example::

    python scripts/study_supervised.py configs/supervised/studies/digits.yaml
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Small networks on a CPU are fastest on one thread. It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import tyro

from rl_crop.core.errors import PruningError
from rl_crop.evaluation.config import ConfigError
from rl_crop.files import read_json, write_json, write_text
from rl_crop.supervised.study import read_study, run_task, table


@dataclass(frozen=True)
class Args:
    study: tyro.conf.Positional[Path]
    """The study: a YAML file such as `configs/supervised/studies/digits.yaml`."""
    results: Path | None = None
    """The folder of the results; by default `docs/results/` and the study's name."""
    task: str | None = None
    """Run this task alone."""
    arms: tuple[str, ...] = ()
    """Run these arms alone, and dense; the tables show all that has been run."""


def main(args: Args) -> None:
    """
    Run what is missing; write rows and tables.

    :param args: the arguments
    """
    study = read_study(args.study)
    folder = args.results or Path("docs/results") / args.study.stem
    for task in study.tasks if args.task is None else [args.task]:
        path = folder / f"{task}.json"
        rows: list[dict[str, Any]] = read_json(path) if path.exists() else []

        def done(row: dict[str, Any], path: Path = path, rows: list[dict[str, Any]] = rows) -> None:
            write_json(path, rows)
            print(f"{path.stem} {row['arm']} {row['sparsity']:.0%} seed {row['seed']}: {row.get('test', row.get('error'))}")
            sys.stdout.flush()

        run_task(study, task, rows, done, args.arms)
        write_text(folder / f"{task}.md", text := table(study, rows) + "\n")
        print(f"\n{task}\n\n{text}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except (ConfigError, PruningError) as error:
        sys.exit(f"Error: {error}")
