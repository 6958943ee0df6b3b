"""Score, rank and allocate without changing anything; then cut, compensate and check, all or nothing."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th

from rl_crop.core.errors import PruningError, explained
from rl_crop.core.graph.groups import DependencyGraph, named_tensors
from rl_crop.core.model import Subject
from rl_crop.core.pruning.cutting import cut_and_repair, cut_only
from rl_crop.core.pruning.report import PruningReport, summary_lines, table, unit_notes
from rl_crop.core.pruning.settings import Settings
from rl_crop.core.pruning.surgery import Transaction
from rl_crop.core.rng import eval_mode, isolated_rng, turn, undisturbed
from rl_crop.optional import require


@dataclass(frozen=True)
class SizePoint:
    """
    One size of a network that was tried.

    :param asked: the sparsity that was asked for.
    :param sparsity: the share of its prunable parameters that was gone.
    :param n_params: parameters of the whole model then.
    :param error: share of the variance of its outputs that was left unexplained, on held-out observations.
    """

    asked: float
    sparsity: float
    n_params: int
    error: float


@dataclass(frozen=True)
class PruningPlan:
    """
    Which units would stay; making it changed nothing, :meth:`apply` cuts.

    :param keep: kept indices of each producing layer's outputs: ascending int64.
    :param scores: one score a unit, by layer.
    :param widths_before: outputs of each layer now.
    :param widths_after: and after the cut.
    :param sparsity: share of the prunable parameters that will be gone, by network and in ``"total"``.
    :param budget_sparsity: share of the budget (parameters, FLOPs or units) that will be gone, by network, or in
        ``"total"`` under ``scope="global"``.
    :param dormant: share of dormant units by layer, among all and among those removed (only with observations).
    :param n_params_before: parameters of the model now (target networks not counted).
    :param n_params_after: and after the cut.
    :param flops_before: floating-point operations for one observation, see ``PruningReport``.
    :param flops_after: and after the cut.
    :param seconds: wall-clock of planning.
    :param curve: by network whose size was to be found, the sizes that were tried, the smallest first.
    :param notes: what the user should know of the scores.
    """

    keep: dict[str, np.ndarray]
    scores: dict[str, np.ndarray]
    widths_before: dict[str, int]
    widths_after: dict[str, int]
    sparsity: dict[str, float]
    budget_sparsity: dict[str, float]
    dormant: dict[str, tuple[float, float]]
    n_params_before: int
    n_params_after: int
    flops_before: int
    flops_after: int
    graph: DependencyGraph = field(repr=False)
    kept_units: dict[str, np.ndarray] = field(repr=False)
    subject: Subject = field(repr=False)
    settings: Settings = field(repr=False)
    seconds: float = 0.0
    curve: Mapping[str, Sequence[SizePoint]] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = []
        for name, before in self.widths_before.items():
            shares = [f"{share:.0%}" for share in self.dormant[name]] if name in self.dormant else ["-", "-"]
            rows.append([name, str(before), str(self.widths_after[name]), *shares])
        header = ["layer", "units before", "after", "dormant", "dormant of removed"]
        sizes = [self._found(name) for name in self.curve]
        whole = [f"left whole: {name} ({reason})" for name, reason in self.graph.untouched.items()]
        return "\n".join(
            [table(header, rows), *summary_lines(self), *sizes, *whole, *(f"note: {note}" for note in self._notes())]
        )

    def _found(self, network: str) -> str:
        error = next((point.error for point in self.curve[network] if point.sparsity <= self.sparsity[network] + 1e-12), 0.0)
        return f"size of {network} found: {error:.2g} of the variance of its outputs is left unexplained"

    def plot(self, path: str | None = None) -> Any:
        """
        Draw error against size, for sizes that were to be found.

        :param path: where the picture is saved; its ending says in which format.
        :return: the figure of matplotlib.
        :raises PruningError: no size was to be found.
        """
        if not self.curve:
            raise PruningError("There is no curve of this plan: only sparsity='auto' tries sizes.")
        figure, axes = require("matplotlib.pyplot", "plots").subplots()
        for name, points in self.curve.items():
            axes.loglog([point.n_params for point in points], [max(point.error, 1e-12) for point in points], "o-", label=name)
        axes.set_xlabel("parameters of the model")
        axes.set_ylabel("unexplained variance of the outputs")
        axes.legend()
        if path is not None:
            figure.savefig(path)
        return figure

    @property
    def _widths(self) -> dict[str, tuple[int, int]]:
        """By layer, its units (before, after)."""
        return {name: (before, self.widths_after[name]) for name, before in self.widths_before.items()}

    def _notes(self) -> tuple[str, ...]:
        return (*self.subject.notes, *self.notes, *unit_notes(self._widths))

    @turn()
    def apply(self, transaction: Transaction | None = None) -> PruningReport:
        """
        Cut and compensate, with the weights of this moment.

        :param transaction: one to join, so that several cuts are undone together; by default the cut is one of its own.
        :return: the report.
        :raises PruningError: shapes changed since planning, or the cut network does not run; everything is then as before.
        """
        if transaction is None:
            with Transaction() as own:
                report = self.apply(own)
                with explained("The cut could not be recorded", "everything was put back"):
                    self.subject.applied(report, own)
            return report
        start = time.perf_counter()
        self._check_unchanged()
        notes: tuple[str, ...] = ()
        if self._changes():
            with isolated_rng(self.settings.seed or 0), eval_mode(*self._roots):
                notes = self._cut(transaction)
        return self._report(notes, self.seconds + time.perf_counter() - start)

    def rehearse(self) -> None:
        """
        Cut without repair and put everything back, so that what stands in the way of a cut is found before it is due.

        :raises PruningError: what :meth:`apply` would raise for the new shapes.
        """
        if self._changes():
            with suppress(_Rehearsed), isolated_rng(0), undisturbed(*self._roots), Transaction() as transaction:
                with explained("The cut failed", "everything was put back"):
                    cut_only(transaction, self.subject, self.graph, self.kept_units)
                raise _Rehearsed

    @property
    def _roots(self) -> list[th.nn.Module]:
        return [self.subject.root, *(module for copy in self.subject.mirrors for module in copy.modules)]

    def _changes(self) -> bool:
        return any(len(kept) < self.graph.groups[name].n_units for name, kept in self.kept_units.items())

    def _report(self, notes: tuple[str, ...], seconds: float) -> PruningReport:
        return PruningReport(
            n_params_before=self.n_params_before,
            n_params_after=self.n_params_after,
            sparsity=dict(self.sparsity),
            flops_before=self.flops_before,
            flops_after=self.flops_after,
            widths=self._widths,
            untouched=dict(self.graph.untouched),
            seconds=seconds,
            criterion=self.settings.criterion_name,
            compensation=self.settings.compensation,
            notes=(*notes, *self._notes()),
        )

    def _check_unchanged(self) -> None:
        there = {id(tensor) for tensor in named_tensors(self.subject.root).values()}
        for copy in self.subject.copies:
            for name, tensor in copy.tensors.items():
                if self.graph.shapes[name] != tuple(tensor.shape):
                    raise PruningError(f"{name!r} has changed its shape since this plan was made: make a new plan.")
        for name, tensor in self.subject.trained.tensors.items():
            if id(tensor) not in there:
                raise PruningError(f"{name!r} has been replaced since this plan was made: make a new plan.")

    def _cut(self, transaction: Transaction) -> tuple[str, ...]:
        with explained("The cut failed", "everything was put back"):
            return self._cut_and_repair(transaction)

    def _cut_and_repair(self, transaction: Transaction) -> tuple[str, ...]:
        return cut_and_repair(transaction, self.subject, self.graph, self.kept_units, self.settings.compensation)


class _Rehearsed(Exception):  # noqa: N818  (nothing is wrong)
    """Undoes a cut that was only tried."""
