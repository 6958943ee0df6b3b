"""
The right size without asking: the smallest widths at which the repaired network still computes what the dense one does.

Sizes are tried on the model itself, on held-out observations, and every trial is undone. From the dense network on, sizes are
halved until one fails, and the last interval is bisected: where the error is no monotone function of the size, the first size
that fails counts. When in doubt, units are kept. (rl_crop's own.)
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.tracer import tensors_in
from rl_crop.core.model import Copy, Run, Subject
from rl_crop.core.pruning.plan import PruningPlan, SizePoint
from rl_crop.core.pruning.surgery import Transaction

TOLERANCE = 1e-3
"""Share of the variance of a network's outputs that the repaired cut may leave unexplained, where nobody says otherwise."""
EARLY_TOLERANCE = 1e-4
"""The same early in training, where what is left must also learn what is still to come."""
BISECTIONS = 5
"""Of the interval between the smallest size that is good and the next one that is not, in powers of two."""
FIT, HELD_OUT = slice(0, None, 2), slice(1, None, 2)
"""Rows that units are chosen and repaired with, and rows that the error is measured on."""


class _Undo(Exception):
    """Ends a trial."""


def tolerance_of(tolerance: Any, network: str) -> float:
    """:return: the tolerance of one network."""
    own = tolerance.get(network) if isinstance(tolerance, Mapping) else tolerance
    return TOLERANCE if own is None else float(own)


def for_fitting(subject: Subject) -> Subject:
    """:return: the subject on the rows that units are chosen and repaired with, without what follows it."""

    def half(run: Run) -> Run:
        return lambda n=None, index=None, ones=False: run(n, FIT if index is None else index, ones)

    copy = subject.trained
    networks = tuple(
        replace(net, batches=net.batches[::2] if len(net.batches) > 1 else net.batches) for net in subject.networks
    )
    trained = Copy(copy.tensors, [half(run) for run in copy.runs], copy.modules)
    return replace(
        subject, networks=networks, trained=trained, mirrors=(), optimizers=(), before_cut=_nothing, after_cut=_nothing_more
    )


def _nothing() -> Callable[[Transaction], None]:
    return lambda transaction: None


def _nothing_more(transaction: Transaction) -> Sequence[str]:
    return ()  # whether a zip would load is asked of the size that is found, not of every one that is tried


class Trials:
    """
    Measures what cuts of a model leave unexplained of what it computes, and undoes them.

    :param subject: the model as it is.
    :raises PruningError: there are too few observations.
    """

    def __init__(self, subject: Subject) -> None:
        self.runs = list(subject.trained.runs)
        self.contrasts = subject.contrasts
        self.dense = self._outputs()
        if not self.dense or min(len(output) for output in self.dense) < 2:
            raise PruningError("sparsity='auto' needs observations to compare outputs on: give more batches, or a sparsity.")

    def _outputs(self) -> list[th.Tensor]:
        with th.no_grad():
            found = [output for run in self.runs for output in tensors_in(run(index=HELD_OUT)) if output.is_floating_point()]
        return [output.detach().double().clone() for output in found if output.dim() > 0]

    def error(self, plan: PruningPlan) -> float:
        """:return: the largest share, over the outputs, of the variance that is left unexplained after the repaired cut."""
        found: list[th.Tensor] = []
        try:
            with Transaction() as transaction:
                plan.apply(transaction)
                found = self._outputs()
                raise _Undo
        except _Undo:
            pass
        pairs = list(zip(self.dense, found, strict=True))
        if self.contrasts:  # what is added to all outputs of a row alike decides nothing
            pairs += [(_contrast(old), _contrast(new)) for old, new in pairs if old.shape[-1] > 1]
        return max(unexplained(old, new) for old, new in pairs)


def _contrast(output: th.Tensor) -> th.Tensor:
    return output - output.mean(-1, keepdim=True)


def unexplained(dense: th.Tensor, cut: th.Tensor) -> float:
    """:return: Σ‖y − ŷ‖² / Σ‖y − ȳ‖² over rows, ȳ by dimension; 0 where both are the same constant."""
    rows, others = dense.reshape(len(dense), -1), cut.reshape(len(cut), -1)
    usual = rows.isfinite() & others.isfinite()
    if not bool((usual | (rows == others) | (rows.isnan() & others.isnan())).all()):
        return math.inf
    rows, others = (values.masked_fill(~usual, 0.0) for values in (rows, others))
    lost, variance = float((rows - others).square().sum()), float((rows - rows.mean(0)).square().sum())
    rounding = 1e-12 * float(rows.square().sum())
    return 0.0 if lost <= rounding else lost / max(variance, rounding)


def smallest(point_at: Callable[[float], SizePoint | None], tolerance: float) -> tuple[float, Sequence[SizePoint]]:
    """
    :param point_at: tries a sparsity; ``None`` where it cannot be reached.
    :param tolerance: the largest error allowed.
    :return: the largest sparsity to ask for whose error is allowed (0 where none is), and all that was tried, by size.
    """
    points: list[SizePoint] = []

    def good(halvings: float) -> bool:
        point = point_at(1.0 - 0.5**halvings)
        points.extend([] if point is None else [point])
        return point is not None and point.error <= tolerance

    low, high = 0.0, 1.0
    while good(high):
        low, high = high, high + 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return (1.0 - 0.5**low if low else 0.0), sorted(points, key=lambda point: point.n_params)
