"""Run a study: every task, arm, sparsity and seed that a file names. What has a result is skipped.

Examples::

    python scripts/sweep.py configs/study_returns.yaml --jobs 2
    python scripts/sweep.py configs/study_returns.yaml --only task=ppo_cartpole,arm=dense --list
"""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# Small networks on a CPU are fastest on one thread, and cells run side by side. Workers inherit it.
os.environ["OMP_NUM_THREADS"] = "1"

import tyro
from tqdm import tqdm

from rl_crop.evaluation import ConfigError
from rl_crop.evaluation.study import Cell, load_study, select
from rl_crop.evaluation.sweep import Sweep


@dataclass(frozen=True)
class Args:
    study: tyro.conf.Positional[Path]
    """The study: a YAML file such as `configs/study_returns.yaml`."""
    jobs: int = 1
    """Cells that run side by side."""
    only: str = ""
    """Run some cells only: `task=…,arm=…,sparsity=…,seed=…`; a key that is named twice accepts either value."""
    list: bool = False
    """Show the cells and what has a result, and run nothing."""
    results: Path | None = None
    """The folder of the results; by default `docs/results/` and the study's name."""
    keep_runs: Path | None = None
    """Keep every run directory (model, picture) in this folder."""


def default_results(study: Path) -> Path:
    """
    The folder of a study's results.

    :param study: the study's file
    :return: for example ``docs/results/returns`` for ``study_returns.yaml``
    """
    return Path("docs/results") / study.stem.removeprefix("study_")


def show(cells: list[Cell], sweep: Sweep) -> None:
    """
    Print what is done and what is not.

    :param cells: the cells
    :param sweep: where their results are
    """
    states = []
    for cell in cells:
        failed = "failed" if sweep.failure_path(cell).exists() else "to do"
        states.append("done" if sweep.result_path(cell).exists() else failed)
        print(f"{states[-1]:8}{cell.name}")
    print(f"{len(cells)} cells, {states.count('done')} done, {states.count('failed')} failed; results in {sweep.results}/")


def main(args: Args) -> int:
    """
    Run the study.

    :param args: the arguments
    :return: the exit status: 1 when a cell failed
    """
    cells = select(load_study(args.study), args.only)
    sweep = Sweep(args.results or default_results(args.study), args.jobs, args.keep_runs)
    if args.list:
        show(cells, sweep)
        return 0

    counts: dict[str, int] = {}
    left = {cell.name: cell for cell in cells}
    start = time.perf_counter()
    bar = tqdm(total=len(cells), unit="cell", dynamic_ncols=True, bar_format="{l_bar}{bar}| {n}/{total} [{elapsed}{postfix}]")
    for progress in sweep.run(cells):
        if progress.status != "skipped":
            bar.write(f"{progress.status:8}{progress.cell.name}  {progress.message}", file=sys.stdout)
        if progress.status != "started":
            counts[progress.status] = counts.get(progress.status, 0) + 1
            del left[progress.cell.name]
            bar.update()
        # Cells differ widely in length, so the time left is summed over what is known of each task.
        seconds = sweep.seconds_left(left.values())
        bar.set_postfix_str("time left unknown" if seconds is None else f"about {tqdm.format_interval(seconds)} left")
    bar.close()
    summary = ", ".join(f"{count} {status}" for status, count in counts.items())
    print(f"{summary} in {time.perf_counter() - start:.0f} s; results in {sweep.results}/")
    if counts.get("failed"):
        print(f"What went wrong is in {sweep.results}/*.failed.txt; the same command tries again.")
    if counts.get("waiting") or counts.get("busy"):
        print("Some cells wait for others; run the same command again.")
    return 1 if counts.get("failed") else 0


if __name__ == "__main__":
    # Ending in the ordinary way also ends the cells that run.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main(tyro.cli(Args, description=__doc__)))
    except ConfigError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted: what is done is kept, the same command goes on from here.")
