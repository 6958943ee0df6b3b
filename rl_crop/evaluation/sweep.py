"""
Run the cells of a study, some at a time, each in a process of its own.

A cell's result is one JSON file that appears in one step, so that whatever is interrupted, killed or rebooted, running the
same command again does what is missing and nothing else.
"""

import contextlib
import fcntl
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import fmean
from typing import Any

from rl_crop.evaluation.study import Cell
from rl_crop.files import read_json, write_json, write_text


@dataclass(frozen=True)
class Progress:
    """
    What a sweep tells while it runs.

    :param cell: the cell that this is about
    :param status: ``"started"``, ``"done"``, ``"failed"``, ``"skipped"`` (its result exists), ``"busy"`` (another sweep is
        at it) or ``"waiting"`` (the cell it depends on has no result)
    :param message: the result or the error in one line
    """

    cell: Cell
    status: str
    message: str = ""


@dataclass(frozen=True)
class Sweep:
    """
    :param results: the folder of the results
    :param jobs: cells that run side by side
    :param keep_runs: a folder that keeps the run directories (models, pictures); ``None`` keeps the results alone
    """

    results: Path
    jobs: int = 1
    keep_runs: Path | None = None

    def result_path(self, cell: Cell) -> Path:
        """
        Where the result of a cell is.

        :param cell: the cell
        :return: a JSON file, which exists when the cell is done
        """
        return self.results / f"{cell.name}.json"

    def failure_path(self, cell: Cell) -> Path:
        """
        Where the error of a cell is.

        :param cell: the cell
        :return: a text file, which exists when the last try failed
        """
        return self.results / f"{cell.name}.failed.txt"

    def run(self, cells: list[Cell]) -> Iterator[Progress]:
        """
        Run the cells that have no result yet.

        :param cells: the cells; of those that could start, the first in the list does
        :return: a report for every cell that is done, failed or passed over, and one before it when it starts
        """
        waiting: list[Cell] = []
        for cell in cells:
            if self.result_path(cell).exists():
                yield Progress(cell, "skipped")
            else:
                waiting.append(cell)
        running: dict[BaseProcess, Cell] = {}
        try:
            while waiting or running:
                for cell in [cell for cell in waiting if self._is_ready(cell)][: self.jobs - len(running)]:
                    waiting.remove(cell)
                    running[_start(self, cell)] = cell
                    yield Progress(cell, "started")
                if not running:
                    break  # what is left depends on cells without a result
                ended = wait([process.sentinel for process in running])
                for process in [process for process in running if process.sentinel in ended]:
                    process.join()
                    yield self._outcome(running.pop(process), process.exitcode)
        finally:
            for process in running:
                process.terminate()
        for cell in waiting:
            assert cell.widths_of is not None
            yield Progress(cell, "waiting", f"needs the result of {cell.widths_of.name}")

    def seconds_left(self, cells: Iterable[Cell]) -> float | None:
        """
        Estimate how long cells take, from the results of the same task that exist.

        :param cells: the cells that are still to run
        :return: seconds with all jobs at work; ``None`` while a task has no result to judge by
        """
        known: dict[str, list[float]] = {}
        for path in self.results.glob("*.json"):
            result = read_json(path)
            known.setdefault(result["task"], []).append(result["seconds"]["learn_with_evaluation"])
        try:
            return sum(fmean(known[cell.task]) for cell in cells) / self.jobs
        except KeyError:
            return None

    def _is_ready(self, cell: Cell) -> bool:
        return cell.widths_of is None or self.result_path(cell.widths_of).exists()

    def _outcome(self, cell: Cell, exitcode: int | None) -> Progress:
        if exitcode == _BUSY:
            return Progress(cell, "busy", "another sweep is at it")
        if exitcode == 0:
            result = read_json(self.result_path(cell))
            return Progress(cell, "done", f"return {result['final']['mean']:.1f}, {result['seconds']['learn']:.0f} s")
        if exitcode != _FAILED:  # killed: it could not write its own error
            write_text(self.failure_path(cell), f"The process ended with exit code {exitcode}\n")
        return Progress(cell, "failed", self.failure_path(cell).read_text(encoding="utf-8").strip().splitlines()[-1])


_FAILED, _BUSY, _INTERRUPTED = 3, 4, 130


def _start(sweep: Sweep, cell: Cell) -> BaseProcess:
    # A fresh process for every cell: one that is killed takes no other cell along, and no run inherits another's state.
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(sweep, cell), daemon=True)
    process.start()
    return process


def _work(sweep: Sweep, cell: Cell) -> None:
    import torch as th

    th.set_num_threads(1)
    with _claim(sweep, cell) as claimed:
        if not claimed:
            os._exit(_BUSY)
        try:
            run_cell(sweep, cell)
        except KeyboardInterrupt:
            os._exit(_INTERRUPTED)
        except Exception:
            write_text(sweep.failure_path(cell), traceback.format_exc())
            os._exit(_FAILED)


def run_cell(sweep: Sweep, cell: Cell) -> dict[str, Any]:
    """
    Run one cell in this process and write its result.

    :param sweep: where results go
    :param cell: the cell; the one it depends on must have a result
    :return: the result
    """
    from rl_crop.evaluation.run import run

    config = cell.config
    if cell.widths_of is not None:
        config = config.with_widths(read_json(sweep.result_path(cell.widths_of))["widths"])
    with contextlib.ExitStack() as stack:
        if sweep.keep_runs is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rl_crop-")))
        else:
            directory = sweep.keep_runs / cell.name
        report = run(config, directory, cell.seed, plot=sweep.keep_runs is not None, print_cuts=False)
    identity = {"task": cell.task, "arm": cell.arm, "sparsity": cell.sparsity, "hash": cell.hash}
    result = identity | report | {"config": config.to_dict()}
    write_json(sweep.result_path(cell), result)
    sweep.failure_path(cell).unlink(missing_ok=True)
    return result


@contextlib.contextmanager
def _claim(sweep: Sweep, cell: Cell) -> Iterator[bool]:
    # The system frees a file lock when its process ends, however it ends, so a claim cannot be left behind.
    path = sweep.results / ".locks" / cell.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        # Another sweep may have finished the cell between our look at the results and the claim.
        yield not sweep.result_path(cell).exists()
        path.unlink(missing_ok=True)
