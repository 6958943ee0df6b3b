"""
The results of a study on disk: one JSON file a cell, which appears in one step, or a text file that says why there is none.

Whatever is interrupted, killed or rebooted: a cell has a whole result or none.
"""

import contextlib
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from rl_crop.evaluation.claims import Claim
from rl_crop.evaluation.study import Cell
from rl_crop.evaluation.tasks import run_task
from rl_crop.files import read_json, write_json, write_text


@dataclass(frozen=True)
class Store:
    """
    :param folder: the folder of the results
    :param keep_runs: a folder that keeps the run directories (models, pictures); ``None`` keeps the results alone
    """

    folder: Path
    keep_runs: Path | None = None

    def result_path(self, cell: Cell) -> Path:
        """
        Where the result of a cell is.

        :param cell: the cell
        :return: a JSON file, which exists when the cell is done
        """
        return self.folder / f"{cell.name}.json"

    def failure_path(self, cell: Cell) -> Path:
        """
        Where the error of a cell is.

        :param cell: the cell
        :return: a text file, which exists when the last try failed; its last line is the error in short
        """
        return self.folder / f"{cell.name}.failed.txt"

    def claim(self, cell: Cell) -> Claim | None:
        """
        Claim a cell, to run it.

        :param cell: the cell
        :return: the claim; ``None`` while another sweep has it
        """
        return Claim.take(self._lock_path(cell))

    def state(self, cell: Cell) -> str:
        """
        How far a cell is.

        :param cell: the cell
        :return: ``"done"``, ``"failed"``, ``"running"`` or ``"to do"``
        """
        if self.result_path(cell).exists():
            return "done"
        if self.failure_path(cell).exists():
            return "failed"
        return "running" if Claim.is_held(self._lock_path(cell)) else "to do"

    def tidy(self, cell: Cell) -> None:
        """
        Remove the lock that is left behind by a sweep that was killed together with its cell.

        :param cell: a cell that is done
        """
        Claim.is_held(self._lock_path(cell))  # to ask is enough

    def error(self, cell: Cell) -> str:
        """
        :param cell: a cell that failed
        :return: the last line of what was recorded
        """
        return (self.failure_path(cell).read_text(encoding="utf-8").strip().splitlines() or ["no message"])[-1]

    def widths(self, cell: Cell) -> Any:
        """
        The widths that a cell takes over.

        :param cell: the cell
        :return: what the cell that it depends on ended with; ``None`` where it depends on none
        """
        return None if cell.widths_of is None else read_json(self.result_path(cell.widths_of))["widths"]

    def record(self, cell: Cell, result: Mapping[str, Any]) -> None:
        """
        Write a result. A failure of an earlier try is forgotten.

        :param cell: the cell
        :param result: what :func:`compute` returned
        """
        write_json(self.result_path(cell), result)
        self.failure_path(cell).unlink(missing_ok=True)

    def record_failure(self, cell: Cell, text: str) -> None:
        """
        Write why a cell has no result.

        :param cell: the cell
        :param text: what went wrong, in short in the last line
        """
        write_text(self.failure_path(cell), text.rstrip() + "\n")

    def seconds_left(self, cells: Iterable[Cell], elapsed: Mapping[str, float]) -> float | None:
        """
        Estimate how long cells take one after another, from the results of the same task that exist.

        :param cells: the cells that are not done
        :param elapsed: for those that run, how many seconds, by name
        :return: seconds; ``None`` while a task has no result to judge by
        """
        known: dict[str, list[float]] = {}
        for path in self.folder.glob("*.json"):
            task, seconds = _task_and_seconds(path)
            known.setdefault(task, []).append(seconds)
        try:
            return sum(max(0.0, fmean(known[cell.task]) - elapsed.get(cell.name, 0.0)) for cell in cells)
        except KeyError:
            return None

    def _lock_path(self, cell: Cell) -> Path:
        return self.folder / ".locks" / cell.name


@cache  # a sweep asks after every cell
def _task_and_seconds(path: Path) -> tuple[str, float]:
    result = read_json(path)
    return result["task"], result["seconds"]["learn_with_evaluation"]


def compute(cell: Cell, widths: Any = None, keep_runs: Path | None = None) -> dict[str, Any]:
    """
    Run one cell in this process. Nothing but the cell decides the result, and nothing is read or written but run directories.

    :param cell: the cell
    :param widths: the widths that it takes over, see :meth:`Store.widths`
    :param keep_runs: a folder that keeps the run directory
    :return: the result, as it is written
    """
    with contextlib.ExitStack() as stack:
        if keep_runs is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rl_crop-")))
        else:
            directory = keep_runs / cell.name
        report = run_task(cell.config, directory, cell.seed, widths, plot=keep_runs is not None)
    return {"task": cell.task, "arm": cell.arm, "sparsity": cell.sparsity, "hash": cell.hash} | report
