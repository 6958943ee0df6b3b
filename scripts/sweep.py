"""Run a study: every task, arm, sparsity and seed that a file names. What has a result is skipped.

Examples::

    python scripts/sweep.py configs/study_returns.yaml --jobs 2
    python scripts/sweep.py configs/study_returns.yaml --only task=ppo_cartpole,arm=dense --list
    python scripts/sweep.py configs/study_returns.yaml --engine ray
    python scripts/sweep.py configs/study_returns.yaml --merge
"""

import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

# Small networks on a CPU are fastest on one thread, and cells run side by side. Workers inherit it.
os.environ["OMP_NUM_THREADS"] = "1"


from command_line import tqdm, tyro
from rl_crop.evaluation import ConfigError
from rl_crop.evaluation.command import command
from rl_crop.evaluation.engines import Engine, LocalEngine, RayEngine
from rl_crop.evaluation.store import Store
from rl_crop.evaluation.study import Cell, default_results, load_study, select
from rl_crop.evaluation.sweep import Progress, Sweep
from rl_crop.evaluation.tasks import check_task


@dataclass(frozen=True)
class Args:
    study: tyro.conf.Positional[Path]
    """The study: a YAML file such as `configs/study_returns.yaml`."""
    jobs: int | None = None
    """Cells that run side by side; by default one, or one on each CPU of a Ray cluster."""
    engine: Literal["local", "ray"] = "local"
    """Where cells run: on this machine, or on a Ray cluster that is up (extra `ray`)."""
    ray_address: str = "auto"
    """The Ray cluster; by default the one that this machine belongs to, or that RAY_ADDRESS names."""
    retries: int = 2
    """How often a cell is tried again whose process was killed."""
    retry_failed: bool = False
    """Run also what failed earlier."""
    only: str = ""
    """Run some cells only: `task=…,arm=…,sparsity=…,seed=…`; a key that is named twice accepts either value."""
    list: bool = False
    """Show the cells and what has a result, and run nothing."""
    merge: bool = False
    """Move the results into one file, `<folder>.jsonl.gz` beside the folder, and run nothing. They count as before."""
    results: Path | None = None
    """The folder of the results; by default `runs/` and the study's name."""
    keep_runs: Path | None = None
    """Keep every run directory (model, picture) in this folder."""


def show(cells: list[Cell], store: Store) -> None:
    """
    Print what is done and what is not.

    :param cells: the cells
    :param store: where their results are
    """
    states = [store.state(cell) for cell in cells]
    for cell, state in zip(cells, states):
        print(f"{state:8}{cell.name}")
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("done", "failed", "running", "to do"))
    print(f"{len(cells)} cells: {counts}; results in {store.folder}/", flush=True)


def seconds_left(results: Iterable[Mapping[str, Any]], cells: Iterable[Cell], elapsed: Mapping[str, float]) -> float | None:
    """
    Estimate how long cells take one after another.

    :param results: those that exist; of the same task, they tell
    :param cells: the cells that are not done
    :param elapsed: for those that run, how many seconds, by name
    :return: seconds; ``None`` while a task has no result to judge by
    """
    known: dict[str, list[float]] = {}
    for result in results:
        known.setdefault(result["task"], []).append(result["seconds"]["learn_with_evaluation"])
    try:
        return sum(max(0.0, fmean(known[cell.task]) - elapsed.get(cell.name, 0.0)) for cell in cells)
    except KeyError:
        return None


class Bar:
    """
    A line that says how far a sweep is and how long it will take, above it a line for each cell that ended.

    :param cells: the cells of the sweep
    :param store: where their results are
    :param engine: where they run
    """

    def __init__(self, cells: list[Cell], store: Store, engine: Engine) -> None:
        self.counts: dict[str, int] = {}
        self._left = {cell.name: cell for cell in cells}
        self._store, self._engine = store, engine
        self._started: dict[str, float] = {}
        self._end: float | None = None
        self._known = list(store.recorded().results.values())
        # Cells differ widely in length: tqdm's own estimate would mislead. Nothing is drawn where nobody looks.
        form = "{percentage:3.0f}%|{bar}| {n}/{total} [{elapsed}{postfix}]"
        self._bar = tqdm(total=len(cells), unit="cell", dynamic_ncols=True, bar_format=form, disable=None)

    def show(self, progress: Progress) -> None:
        """
        Take in what happened to a cell.

        :param progress: what the sweep tells
        """
        name, status = progress.cell.name, progress.status
        if status == "started":
            self._started[name] = time.monotonic()
        elif status == "died":
            del self._started[name]
        else:
            self.counts[status] = self.counts.get(status, 0) + 1
            self._started.pop(name, None)
            del self._left[name]
            self._bar.update()
        if status == "done":
            self._known.append(self._store.result(progress.cell))
        if status not in ("started", "skipped"):
            tqdm.write(f"{status:8}{name}  {progress.message}", file=sys.stdout)
            sys.stdout.flush()
        if status != "skipped":
            now = time.monotonic()
            elapsed = {cell: now - start for cell, start in self._started.items()}
            seconds = seconds_left(self._known, self._left.values(), elapsed)
            self._end = None if seconds is None else now + seconds / max(1, self._engine.capacity)
        self.tick()

    def tick(self) -> None:
        """Let time go by."""
        left = "unknown" if self._end is None else tqdm.format_interval(max(0.0, self._end - time.monotonic()))
        failed = f", {self.counts['failed']} failed" if "failed" in self.counts else ""
        self._bar.set_postfix_str(f"{len(self._started)} running{failed}, time left {left}")

    def close(self) -> None:
        """Leave the line as it is."""
        self._bar.close()


def main(args: Args) -> int:
    """
    Run the study.

    :param args: the arguments
    :return: the exit status: 1 when a cell failed, now or earlier
    """
    if (args.jobs is not None and args.jobs < 1) or args.retries < 0:
        raise ConfigError("--jobs must be 1 or more, and --retries 0 or more")
    if args.list and args.merge:
        raise ConfigError("--list and --merge are two things to do: give one of them")
    if args.keep_runs is not None and args.keep_runs.exists() and not args.keep_runs.is_dir():
        raise ConfigError(f"--keep-runs {args.keep_runs} is a file: name a directory")
    cells = select(load_study(args.study), args.only)
    store = Store.at(args.results or default_results(args.study), args.keep_runs)
    if store.folder.exists() and not store.folder.is_dir():
        raise ConfigError(f"--results {store.folder} is a file: name a directory")
    for config in {cell.config_hash: cell.config for cell in cells}.values():
        check_task(config)
    if args.merge:
        print(f"{store.merge()} cells in {store.merged}")
        return 0
    if args.list:
        show(cells, store)
        return 0

    engine: Engine = RayEngine(args.ray_address, args.jobs) if args.engine == "ray" else LocalEngine(args.jobs or 1)
    start = time.perf_counter()
    bar = Bar(cells, store, engine)
    try:
        for progress in Sweep(store, engine, args.retries).run(cells, retry_failed=args.retry_failed, tick=bar.tick):
            bar.show(progress)
    except KeyboardInterrupt:
        sys.exit("Interrupted: what is done is kept, the same command goes on from here.")
    finally:
        bar.close()
    summary = ", ".join(f"{count} {status}" for status, count in bar.counts.items())
    print(f"{summary} in {time.perf_counter() - start:.0f} s; results in {store.folder}/")
    if bar.counts.get("failed"):
        print(f"What went wrong is in {store.folder}/*.failed.txt (merged: {store.merged}); --retry-failed tries again.")
    if bar.counts.get("waiting"):
        print("Some cells need the result of others that are not there; run those first.")
    return 1 if bar.counts.get("failed") else 0


if __name__ == "__main__":
    # Ending in the ordinary way also ends the cells that run.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(command(main, Args, __doc__ or ""))
