"""
Run the cells of a study, some at a time, and each once.

Running the same command again does what is missing and nothing else. Several sweeps may work on one folder at a time.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from rl_crop.evaluation.claims import Claim
from rl_crop.evaluation.engines import Engine
from rl_crop.evaluation.store import Store
from rl_crop.evaluation.study import Cell
from rl_crop.evaluation.text import number

# How often a sweep looks for what other sweeps have done, in seconds.
_POLL = 1.0


@dataclass(frozen=True)
class Progress:
    """
    What a sweep tells while it runs.

    :param cell: the cell that this is about
    :param status: ``"started"``, ``"done"``, ``"failed"`` (now or earlier), ``"died"`` (its process was killed; it will be
        tried again), ``"skipped"`` (its result exists) or ``"waiting"`` (the cell it depends on has no result, and will get
        none here)
    :param message: the result or the error in one line
    """

    cell: Cell
    status: str
    message: str = ""


@dataclass(frozen=True)
class Sweep:
    """
    :param store: where results go
    :param engine: where cells run
    :param retries: how often a cell is tried again whose process was killed. A cell that raised an error is not: it would
        raise it again.
    """

    store: Store
    engine: Engine
    retries: int = 2

    def run(
        self, cells: Iterable[Cell], *, retry_failed: bool = False, tick: Callable[[], object] = lambda: None
    ) -> Iterator[Progress]:
        """
        Run the cells that have no result yet. What another sweep runs is waited for.

        :param cells: the cells; of those that could start, the first in the list does
        :param retry_failed: run also what failed earlier
        :param tick: called about once a second
        :return: a report for every cell that is done, failed or passed over, and others before it when it starts or dies
        """
        left = {cell.name: cell for cell in cells}
        self.store.sweep()
        if retry_failed:
            self.store.forget_failures(left.values())
        running: dict[str, Claim] = {}
        deaths: Counter[str] = Counter()
        try:
            while left:
                capacity = self.engine.capacity
                for cell in [cell for cell in left.values() if cell.name not in running]:
                    settled = self._settled(cell, left.keys())
                    if settled is not None:
                        del left[cell.name]
                        yield settled
                    elif len(running) < capacity and self._is_ready(cell):
                        claim = self._claim(cell)
                        if claim is not None:
                            running[cell.name] = claim
                            self.engine.start(self.store, cell, claim)
                            yield Progress(cell, "started")
                tick()
                for cell, reason in self.engine.ended(_POLL) if left else ():
                    if reason is not None:
                        deaths[cell.name] += 1
                        reason = f"The process ended with exit code {reason} at try {deaths[cell.name]} of {self.retries + 1}"
                        if deaths[cell.name] > self.retries:
                            self.store.record_failure(cell, reason)
                    running.pop(cell.name).release()
                    if reason is not None and deaths[cell.name] <= self.retries:
                        yield Progress(cell, "died", reason)
                    else:
                        del left[cell.name]
                        yield self._outcome(cell)
        finally:
            self.engine.stop()
            for claim in running.values():
                claim.release()

    def _settled(self, cell: Cell, left: Collection[str]) -> Progress | None:
        state = self.store.state(cell)
        if state == "done":
            self.store.tidy(cell)
            return Progress(cell, "skipped")
        if state == "failed":
            return Progress(cell, "failed", self.store.error(cell))
        source = cell.widths_of
        if source is None or source.name in left or self.store.state(source) in ("done", "running"):
            return None
        return Progress(cell, "waiting", f"needs the result of {source.name}")

    def _is_ready(self, cell: Cell) -> bool:
        return cell.widths_of is None or self.store.state(cell.widths_of) == "done"

    def _claim(self, cell: Cell) -> Claim | None:
        claim = self.store.claim(cell)
        # Another sweep may have ended the cell between our look at the results and the claim.
        if claim is not None and self.store.state(cell) in ("done", "failed"):
            claim.release()
            return None
        return claim

    def _outcome(self, cell: Cell) -> Progress:
        if self.store.state(cell) == "failed":
            return Progress(cell, "failed", self.store.error(cell))
        result = self.store.result(cell)
        measure = f"{result.get('metric', 'return')} {number(result['final']['mean'])}"
        return Progress(cell, "done", f"{measure}, {result['seconds']['learn']:.0f} s")
