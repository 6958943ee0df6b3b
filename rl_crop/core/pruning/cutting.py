"""A cut carried out: units leave every copy of the network, what is left is repaired, and must run as it did."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import DependencyGraph
from rl_crop.core.graph.looking import tried
from rl_crop.core.graph.tracer import tensors_in
from rl_crop.core.model import Copy, Subject
from rl_crop.core.pruning.compensation import REFITTING, Compensator
from rl_crop.core.pruning.distillation import Distiller
from rl_crop.core.pruning.optimizer_state import cut_optimizers, forget
from rl_crop.core.pruning.surgery import (
    Cuts,
    Transaction,
    cut,
    flatten_weights,
    keep_index,
    sizes_as_given,
    update_sizes,
)
from rl_crop.core.pruning.twin import cut_outputs, differs, masked_outputs

TRACE_BATCH = 2
"""Observations that a network is run on where only sizes matter."""
Kept = Mapping[str, np.ndarray]


def cut_and_repair(
    transaction: Transaction, subject: Subject, graph: DependencyGraph, kept: Kept, compensation: str
) -> tuple[str, ...]:
    """
    :param transaction: remembers every change.
    :param subject: the model.
    :param graph: its units.
    :param kept: those that stay, by group name.
    :param compensation: what repairs the cut, one of ``COMPENSATIONS``.
    :return: notes for the report.
    :raises PruningError: the cut network does not run, or cannot be repaired.
    """
    own = own_tensors(subject.copies) if compensation != "none" else []
    own = [(copy, tensors) for copy, tensors in own if copy.runs]
    repairs = [Compensator(graph, kept, tensors, copy.runs, compensation) for copy, tensors in own]
    distillers = [Distiller(tensors, copy.runs) for copy, tensors in own] if compensation == "distill" else []
    restore = subject.before_cut() if compensation != "none" else None

    def repair(changed: list[th.Tensor]) -> None:
        for compensator in repairs:
            compensator.refit(transaction)
        for distiller in distillers:
            distiller.fit(transaction)
        if restore is not None:
            restore(transaction)
        if compensation in REFITTING:
            forget(transaction, subject.optimizers, subject.parameters_beside(changed))

    notes = cut_only(transaction, subject, graph, kept, repair)
    lost = sorted({name for compensator in repairs for name in compensator.without_bias})
    return (*notes, *(f"{name} has no bias: a constant that it lost could not be restored" for name in lost))


def cut_only(
    transaction: Transaction,
    subject: Subject,
    graph: DependencyGraph,
    kept: Kept,
    repair: Callable[[list[th.Tensor]], None] = lambda changed: None,
) -> tuple[str, ...]:
    """
    See :func:`cut_and_repair`.

    :param repair: called with the tensors that have changed, before sizes elsewhere are corrected.
    """
    dense, modules = finite_outputs(subject), [module for copy in subject.copies for module in copy.modules]
    before, masked = tried(subject.root, subject.uses), masked_outputs(subject, graph, kept)
    cuts: Cuts = {}
    for _, own in own_tensors(subject.copies):
        cuts |= cut(transaction, graph, own, kept)
    cut_optimizers(transaction, subject.optimizers, cuts)
    stays = {name: keep_index(graph, name, kept) for name in subject.stored}
    subject.follow(transaction, {name: axes[max(axes)] for name, axes in stays.items() if axes})
    update_sizes(transaction, modules, cuts)
    with sizes_as_given(transaction, modules):
        check_runs(subject, dense)
    why = None if masked is None else differs(masked, lambda: cut_outputs(subject))
    if why is not None:
        raise PruningError(f"The cut network differs from the masked one: {why}. Everything was put back; use ignore=.")
    repair(list(cuts))
    notes = tuple(subject.after_cut(transaction))
    flatten_weights(modules)
    check_runs(subject, dense)
    check_uses(subject, before)
    return notes


def own_tensors(copies: Sequence[Copy]) -> list[tuple[Copy, dict[str, th.Tensor]]]:
    """:return: each copy with the tensors that none before it has: copies may share some."""
    seen: set[int] = set()
    found = []
    for copy in copies:
        found.append((copy, {name: tensor for name, tensor in copy.tensors.items() if id(tensor) not in seen}))
        seen |= {id(tensor) for tensor in copy.tensors.values()}
    return found


def finite_outputs(subject: Subject) -> list[list[th.Tensor]]:
    """
    :return: for every run of every copy, where each of its outputs is finite now: some are infinite by design (masked logits).
    :raises PruningError: one does not run.
    """
    try:
        return [[th.isfinite(output) for output in outputs] for outputs in _outputs(subject)]
    except PruningError:
        raise
    except Exception as error:
        raise PruningError(f"The model does not run on the observations that were given ({error}).") from error


def check_runs(subject: Subject, dense: Sequence[Sequence[th.Tensor]]) -> None:
    """
    Run every copy on a few observations.

    :param subject: the cut model.
    :param dense: where its outputs were finite before.
    :raises PruningError: a network does not run, or returns other shapes, or outputs that were finite no longer are.
    """
    try:
        now = _outputs(subject)
    except PruningError:
        raise
    except Exception as error:
        raise PruningError(
            f"The cut network does not run ({error}); everything was put back. A size written into its forward() "
            f"can be the reason: name the modules that it belongs to in ignore=."
        ) from error
    if [[output.shape for output in outputs] for outputs in now] != [[finite.shape for finite in run] for run in dense]:
        raise PruningError("The cut network's outputs have other shapes than the dense one's; everything was put back.")
    pairs = [pair for run in zip(dense, now, strict=True) for pair in zip(*run, strict=True)]
    if any(bool((finite & ~th.isfinite(output)).any()) for finite, output in pairs):
        raise PruningError("The cut network's outputs are not finite where the dense one's are; everything was put back.")


def check_uses(subject: Subject, dense: Sequence[bool | Exception]) -> None:
    """
    :param subject: the cut model.
    :param dense: what :func:`~rl_crop.core.graph.looking.tried` found of its uses before.
    :raises PruningError: the loss (or the model, in training) ran before the cut and does not run now.
    """
    for before, now in zip(dense, tried(subject.root, subject.uses), strict=True):
        if isinstance(now, Exception) and not isinstance(before, Exception):
            raise PruningError(
                f"The loss runs on the dense network and fails on the cut one ({type(now).__name__}: {now}); "
                f"everything was put back. What it reads beside the outputs has another width: name it in ignore=."
            ) from now
        if before is True and now is False:
            raise PruningError("The loss on the cut network is not finite; everything was put back.")


@th.no_grad()
def _outputs(subject: Subject) -> list[list[th.Tensor]]:
    return [[*tensors_in(run(TRACE_BATCH))] for copy in subject.copies for run in copy.runs]
