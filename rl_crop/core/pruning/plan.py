"""Score, rank and allocate without changing anything; then cut, compensate and check, all or nothing."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th

from rl_crop.core.errors import PruningError, explained
from rl_crop.core.graph.groups import DependencyGraph, named_tensors
from rl_crop.core.graph.tracer import tensors_in
from rl_crop.core.model import Copy, Subject
from rl_crop.core.pruning.compensation import REFITTING, Compensator
from rl_crop.core.pruning.distillation import Distiller
from rl_crop.core.pruning.optimizer_state import cut_optimizers, forget
from rl_crop.core.pruning.report import PruningReport, summary_lines, table, unit_notes
from rl_crop.core.pruning.settings import Settings
from rl_crop.core.pruning.surgery import Cuts, Transaction, cut, flatten_weights, update_sizes
from rl_crop.core.rng import eval_mode, isolated_rng, turn
from rl_crop.optional import require

TRACE_BATCH = 2


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
            [table(header, rows), *summary_lines(self), *sizes, *whole, *(f"note: {note}" for note in self._narrow())]
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

    def _narrow(self) -> tuple[str, ...]:
        return (*self.notes, *unit_notes(self._widths))

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
            mirrors = [module for copy in self.subject.mirrors for module in copy.modules]
            with isolated_rng(self.settings.seed or 0), eval_mode(self.subject.root, *mirrors):
                notes = self._cut(transaction)
        return self._report(notes, self.seconds + time.perf_counter() - start)

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
            notes=(*notes, *self._narrow()),
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
        subject, kind = self.subject, self.settings.compensation
        dense = self._finite_outputs()
        repairs = [] if kind == "none" else [self._compensator(copy) for copy in subject.copies]
        distillers = [Distiller(copy.tensors, copy.runs) for copy in subject.copies] if kind == "distill" else []
        restore = subject.before_cut() if kind != "none" else None
        cuts: Cuts = {}
        seen: set[int] = set()
        for copy in subject.copies:
            own = {name: tensor for name, tensor in copy.tensors.items() if id(tensor) not in seen}  # mirrors may share some
            seen |= {id(tensor) for tensor in own.values()}
            cuts |= cut(transaction, self.graph, own, self.kept_units)
        cut_optimizers(transaction, subject.optimizers, cuts)
        update_sizes(transaction, [module for copy in subject.copies for module in copy.modules], cuts)
        self._check_runs(dense)
        for repair in repairs:
            repair.refit(transaction)
        for distiller in distillers:
            distiller.fit(transaction)
        if restore is not None:
            restore(transaction)
        if kind in REFITTING:
            forget(transaction, subject.optimizers, subject.parameters_beside(list(cuts)))
        subject.after_cut(transaction)
        flatten_weights(module for copy in subject.copies for module in copy.modules)
        self._check_runs(dense)
        lost = sorted({name for repair in repairs for name in repair.without_bias})
        return tuple(f"{name} has no bias: a constant that it lost could not be restored" for name in lost)

    def _finite_outputs(self) -> list[list[th.Tensor]]:
        """For every run of every copy, where each of its outputs is finite now."""
        with th.no_grad():
            runs = [run for copy in self.subject.copies for run in copy.runs]
            return [[th.isfinite(output) for output in tensors_in(run(TRACE_BATCH))] for run in runs]

    def _check_runs(self, dense: Sequence[Sequence[th.Tensor]]) -> None:
        runs = [run for copy in self.subject.copies for run in copy.runs]
        for run, finite in zip(runs, dense, strict=True):
            _check_runs(run, finite)

    def _compensator(self, copy: Copy) -> Compensator:
        return Compensator(self.graph, self.kept_units, copy.tensors, copy.runs, self.settings.compensation)


def _check_runs(run: Callable[..., Any], dense: Sequence[th.Tensor]) -> None:
    """:param dense: where each output was finite before; some are infinite by design (masked logits)."""
    try:
        with th.no_grad():
            outputs = [*tensors_in(run(TRACE_BATCH))]
    except PruningError:
        raise
    except Exception as error:
        raise PruningError(
            f"The cut network does not run ({error}); everything was put back. A size written into its forward() "
            f"can be the reason: name the modules that it belongs to in ignore=."
        ) from error
    if [output.shape for output in outputs] != [finite.shape for finite in dense]:
        raise PruningError("The cut network's outputs have other shapes than the dense one's; everything was put back.")
    if any(bool((finite & ~th.isfinite(output)).any()) for output, finite in zip(outputs, dense, strict=True)):
        raise PruningError("The cut network's outputs are not finite where the dense one's are; everything was put back.")
