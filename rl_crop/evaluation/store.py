"""
The results of a study on disk: while it runs, one JSON file a cell, which appears in one step, or a text file that says why
there is none; merged in the end, one compressed file beside the folder with a line a cell.

Whatever is interrupted, killed or rebooted: a cell has a whole result or none.
"""

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from rl_crop.core.errors import PruningError
from rl_crop.evaluation.claims import Claim
from rl_crop.evaluation.study import Cell
from rl_crop.evaluation.tasks import run_task
from rl_crop.files import read_json, read_lines, remove_abandoned, temporary_folder, write_json, write_lines, write_text

MERGED = ".jsonl.gz"
"""How the name of a merged file ends."""
RUN_FOLDERS = "rl_crop-"
"""How the names of run directories begin that are not kept."""
_FAILED = ".failed.txt"
DAMAGED = ".damaged"
"""How the name of a result ends that could not be read."""


class Recorded(NamedTuple):
    """
    What is known of cells, by their names.

    :param results: what :func:`compute` returned
    :param failures: of cells without a result, what was written when the last try failed
    """

    results: dict[str, dict[str, Any]]
    failures: dict[str, str]


@dataclass(frozen=True)
class Store:
    """
    :param folder: the folder of the results; what was merged lies beside it, as ``<folder>.jsonl.gz``
    :param keep_runs: a folder that keeps the run directories (models, pictures); ``None`` keeps the results alone
    """

    folder: Path
    keep_runs: Path | None = None

    @classmethod
    def at(cls, path: str | Path, keep_runs: Path | None = None) -> "Store":
        """
        :param path: a folder of results, or the file into which they were merged
        :param keep_runs: as above
        :return: the store
        """
        return cls(Path(path).with_name(Path(path).name.removesuffix(MERGED)), keep_runs)

    @property
    def merged(self) -> Path:
        """The file that :meth:`merge` writes."""
        return self.folder.with_name(self.folder.name + MERGED)

    def result_path(self, cell: Cell) -> Path:
        """:return: where the result of a cell is written: a JSON file, from when the cell is done until it is merged"""
        return self.folder / f"{cell.name}.json"

    def failure_path(self, cell: Cell) -> Path:
        """:return: where the error of a cell is written until it is merged: a text file, whose last line says it in short"""
        return self.folder / f"{cell.name}{_FAILED}"

    def claim(self, cell: Cell) -> Claim | None:
        """:return: a claim of a cell, to run it; ``None`` while another sweep has it"""
        return Claim.take(self._lock_path(cell))

    def state(self, cell: Cell) -> str:
        """:return: how far a cell is: ``"done"``, ``"failed"``, ``"running"`` or ``"to do"``"""
        # What was merged is looked up last: a file that is gone by now is there.
        if readable(self.result_path(cell)) or cell.name in self._merged().results:
            return "done"
        if self.failure_path(cell).exists() or cell.name in self._merged().failures:
            return "failed"
        return "running" if Claim.is_held(self._lock_path(cell)) else "to do"

    def tidy(self, cell: Cell) -> None:
        """Remove the lock of a cell that is done, where a sweep that was killed together with the cell has left it."""
        Claim.is_held(self._lock_path(cell))  # to ask is enough

    def result(self, cell: Cell) -> dict[str, Any]:
        """:return: what :meth:`record` wrote of a cell that is done"""
        try:
            return read_json(self.result_path(cell))
        except FileNotFoundError:
            return self._merged().results[cell.name]

    def error(self, cell: Cell) -> str:
        """:return: the last line of what was recorded of a cell that failed"""
        try:
            return last_line(self.failure_path(cell).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return last_line(self._merged().failures[cell.name])

    def widths(self, cell: Cell) -> Any:
        """:return: the widths that a cell takes over from the one that it depends on; ``None`` where it depends on none"""
        return None if cell.widths_of is None else self.result(cell.widths_of)["widths"]

    def record(self, cell: Cell, result: Mapping[str, Any]) -> None:
        """Write what :func:`compute` returned for a cell. A failure of an earlier try is forgotten."""
        write_json(self.result_path(cell), result)
        self.failure_path(cell).unlink(missing_ok=True)

    def record_failure(self, cell: Cell, text: str) -> None:
        """Write why a cell has no result, in short in the last line."""
        write_text(self.failure_path(cell), text.rstrip() + "\n")

    def forget_failures(self, cells: Iterable[Cell]) -> None:
        """Let cells that failed be run again."""
        names = set()
        for cell in cells:
            self.failure_path(cell).unlink(missing_ok=True)
            names.add(cell.name)
        if names & self._merged().failures.keys():
            with self._merging():
                results, failures = self._merged()
                self._write(Recorded(results, {name: text for name, text in failures.items() if name not in names}))

    def recorded(self) -> Recorded:
        """:return: every result and failure that is there, merged or not, in the order of their names"""
        results, failures = {}, {}
        for path in self.folder.glob("*.json"):
            with contextlib.suppress(FileNotFoundError):  # merged meanwhile
                if readable(path):
                    results[path.stem] = read_json(path)
        for path in self.folder.glob(f"*{_FAILED}"):
            with contextlib.suppress(FileNotFoundError):
                failures[path.name.removesuffix(_FAILED)] = path.read_text(encoding="utf-8")
        merged = self._merged()  # last, as above
        results, failures = merged.results | results, merged.failures | failures
        return Recorded(
            {name: results[name] for name in sorted(results)},
            {name: failures[name] for name in sorted(failures.keys() - results.keys())},
        )

    def merge(self) -> int:
        """
        Move everything into the merged file. Sweeps may go on meanwhile.

        :return: how many cells that file now holds
        :raises PruningError: the results are being merged already
        """
        with self._merging():
            found = self.recorded()
            if found.results or found.failures:
                self._write(found)
            # What failed may have a result by now, which the next merge moves.
            read = [f"{name}.json" for name in found.results] + [f"{name}{_FAILED}" for names in found for name in names]
            for name in read:
                (self.folder / name).unlink(missing_ok=True)
        return len(found.results) + len(found.failures)

    def sweep(self) -> None:
        """Remove the temporary folders that killed runs have left, here and where run directories are made."""
        for folder in (self.folder, *(path for path in (self.keep_runs or self.folder).glob("*") if path.is_dir())):
            remove_abandoned(folder)
        remove_abandoned(Path(tempfile.gettempdir()), RUN_FOLDERS)

    def _lock_path(self, cell: Cell) -> Path:
        return self.folder / ".locks" / cell.name

    def _merged(self) -> Recorded:
        try:
            status = self.merged.stat()
        except FileNotFoundError:
            return Recorded({}, {})
        return _read_merged(self.merged, status.st_mtime_ns, status.st_size, status.st_ino)

    def _write(self, found: Recorded) -> None:
        lines = [{"name": name} | result for name, result in found.results.items()]
        lines += [{"name": name, "failed": text} for name, text in found.failures.items()]
        write_lines(self.merged, sorted(lines, key=lambda line: line["name"]))

    @contextlib.contextmanager
    def _merging(self) -> Iterator[None]:
        claim = Claim.take(self.folder / ".locks" / "merging")
        if claim is None:
            raise PruningError(f"The results in {self.folder} are being merged already: wait until that is done")
        try:
            yield
        finally:
            claim.release()


def last_line(text: str) -> str:
    """:return: the error in short, of what was recorded of a failure"""
    return (text.strip().splitlines() or ["no message"])[-1]


def readable(path: Path) -> bool:
    """
    :param path: where a result would be
    :return: whether there is one. What is damaged is set aside, and a warning names it, so that its cell is run again.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    wrong = _damage(path, status.st_mtime_ns, status.st_size)
    if wrong is None:
        return True
    aside = path.with_name(path.name + DAMAGED)
    with contextlib.suppress(FileNotFoundError):  # another sweep has done it
        os.replace(path, aside)
        warnings.warn(f"{path} is damaged ({wrong}): it is set aside as {aside.name}, and counts as not run.", stacklevel=2)
    return False


@cache  # what a cell ended with does not change
def _damage(path: Path, *version: int) -> str | None:
    try:
        result = read_json(path)
        float(result["final"]["mean"])
        str(result["task"]), dict(result["seconds"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None


@lru_cache(maxsize=2)  # a sweep asks after every cell, and what it writes meanwhile is not in this file
def _read_merged(path: Path, *version: int) -> Recorded:
    try:
        lines = {line.pop("name"): line for line in read_lines(path)}
    except (AttributeError, KeyError, TypeError) as error:
        raise PruningError(f"{path} holds something else than results: restore it, or delete it and run its study") from error
    failures = {name: line["failed"] for name, line in lines.items() if "failed" in line}
    return Recorded({name: line for name, line in lines.items() if name not in failures}, failures)


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
            directory = Path(stack.enter_context(temporary_folder(None, RUN_FOLDERS)))
        else:
            directory = keep_runs / cell.name
        report = run_task(cell.config, directory, cell.seed, widths, plot=keep_runs is not None)
    return {"task": cell.task, "arm": cell.arm, "sparsity": cell.sparsity, "hash": cell.hash} | report
