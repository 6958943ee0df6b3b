"""
Repairing what a cut changes downstream: consumers are refitted to their old pre-activations.

For every consumer of cut units, in forward order, with inputs from the already cut network and targets from the dense
one: ``bias`` restores the mean, ``least_squares`` also refits the weights on the kept units, with a ridge towards the
plain cut. ``distill`` adds a short fit of the whole network to its dense outputs (see ``distillation``). (rl_crop's own.)
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import DependencyGraph, module_of
from rl_crop.core.graph.observer import LayerObserver
from rl_crop.core.graph.tracer import channel_axis, no_grad_trace
from rl_crop.core.importance.activations import patches_of, rows_of
from rl_crop.core.pruning.surgery import Transaction, keep_index

COMPENSATIONS = ("none", "bias", "least_squares", "distill")
REFITTING = ("least_squares", "distill")
"""Those that change weights, so that what optimizers have learnt of their gradients no longer holds."""

RIDGE = 1e-2
"""
Pull towards the plain cut, relative to the variance of the activations. A weaker one reproduces what was computed no
better, but with far larger weights where kept units resemble each other, and agents then fall apart in the next updates.
"""
ROUNDING = 1e-10
"""Variance, relative to the mean square, that can be rounding in single precision: weights must not grow to explain it."""


class Compensator:
    """
    Remembers the dense pre-activations of one copy of the network and refits its consumers after the cut.

    :param graph: the units.
    :param kept: kept units by group name.
    :param tensors: this copy's tensors by the graph's names.
    :param runs: functions that run this copy on the observations.
    :param kind: ``"bias"`` or ``"least_squares"`` (``"distill"`` begins as the latter).

    ``without_bias`` names consumers that have none, so that a constant they lose cannot be restored.
    """

    def __init__(
        self,
        graph: DependencyGraph,
        kept: Mapping[str, np.ndarray],
        tensors: Mapping[str, th.Tensor],
        runs: Sequence[Callable[[], Any]],
        kind: str,
    ) -> None:
        self.refit_weights = kind != "bias"
        self.runs = runs
        self.tensors = tensors
        self.rows_kept = {}
        for group in graph.groups.values():
            if group.name in kept and len(kept[group.name]) < group.n_units:
                for slot in group.slots:
                    if slot.role == "in" and slot.tensor in tensors:
                        self.rows_kept[slot.tensor] = keep_index(graph, slot.tensor, kept).get(1 - slot.axis)
        # What weights receive of their own layer is not known before they are refitted: what the dense layer gave is taken.
        self.columns_kept = {name: keep_index(graph, name, kept)[1] for name in self.rows_kept if name in graph.feedback}
        self.inputs: dict[str, th.Tensor] = {}
        self.targets: dict[str, th.Tensor] = {}
        self.biases = {id(tensor) for tensor in tensors.values()}
        self.without_bias: list[str] = []
        self._run(self._note_targets)

    def _run(self, look: Callable[..., None]) -> None:
        weights = {id(self.tensors[name]): name for name in self.rows_kept}
        with no_grad_trace(LayerObserver(weights, look)):
            for run in self.runs:
                run()

    def _note_targets(self, name: str, x: th.Tensor, weight: th.Tensor, bias: Any, call: Callable[..., th.Tensor]) -> None:
        if name not in self.targets:
            if id(bias) not in self.biases:  # none, or one that the model computes and that cannot be refitted
                self.without_bias.append(module_of(name) or name)
                call = partial(call, bias=None)
            output = call()
            target = rows_of(output, channel_axis(weight), self.rows_kept[name])
            shared = target.untyped_storage().data_ptr() == output.untyped_storage().data_ptr()
            self.targets[name] = target.clone() if shared else target  # the model may write to its output
            if name in self.columns_kept:
                self.inputs[name] = rows_of(x, -1, self.columns_kept[name]).unsqueeze(1)

    def refit(self, transaction: Transaction) -> None:
        """
        Refit every consumer, each before the first call that uses it, so that the next one sees its new output.

        :param transaction: remembers every change.
        :raises PruningError: activations or solutions are not finite.
        """
        pending = set(self.rows_kept) & set(self.targets)

        def solve(name: str, x: th.Tensor, weight: th.Tensor, bias: Any, call: Callable[..., th.Tensor]) -> None:
            if name in pending:
                pending.discard(name)
                bias = bias if id(bias) in self.biases else None
                received = self.inputs[name] if name in self.inputs else patches_of(x, weight, call)
                new_weight, new_bias = _refit(received, self.targets[name], weight.detach(), bias, self.refit_weights)
                if not bool(th.isfinite(new_weight).all()):
                    raise PruningError(f"Compensation of {name!r} is not finite: nothing was pruned. Use compensation='none'.")
                own = self.tensors[name]
                transaction.set_data(own, new_weight if weight is own else new_weight.transpose(0, 1).contiguous())
                if bias is not None:
                    transaction.set_data(bias, new_bias)

        self._run(solve)


def _refit(
    patches: th.Tensor, targets: th.Tensor, weight: th.Tensor, bias: th.Tensor | None, refit_weights: bool
) -> tuple[th.Tensor, th.Tensor]:
    """
    The least-squares weight and bias of one layer.

    :param patches: shape (rows, groups, features), float64.
    :param targets: old pre-activations, shape (rows, outputs), float64.
    :return: weight of the old shape and dtype, and bias.
    """
    n_groups = patches.shape[1]
    plain = weight.double().reshape(n_groups, -1, patches.shape[2])
    wanted = targets.reshape(len(targets), n_groups, -1)
    mean_in, mean_out = (patches.mean(0), wanted.mean(0)) if bias is not None else (patches.new_zeros(()),) * 2
    fitted = []
    for group in range(n_groups):
        x = patches[:, group] - (mean_in[group] if bias is not None else 0.0)
        squares = patches[:, group].square().sum(0).mean()
        y = wanted[:, group] - (mean_out[group] if bias is not None else 0.0)
        fitted.append(plain[group] + _ridge(x, y - x @ plain[group].T, squares).T if refit_weights else plain[group])
    new = th.stack(fitted)
    new_bias = (mean_out - th.einsum("gof,gf->go", new, mean_in)).reshape(-1) if bias is not None else th.zeros(())
    return new.reshape(weight.shape).to(weight.dtype), new_bias.to(weight.dtype)


def _ridge(x: th.Tensor, residual: th.Tensor, squares: th.Tensor) -> th.Tensor:
    """:return: B that minimises ‖x B − residual‖² + ridge · ‖B‖², so that dead columns keep their plain weights."""
    gram = x.T @ x
    gram.diagonal().add_(ridge_strength(gram.diagonal().mean(), squares))
    return th.linalg.solve(gram, x.T @ residual)


def ridge_strength(variance: th.Tensor, square: th.Tensor) -> th.Tensor:
    """
    :param variance: mean second moment of the features a layer is refitted on, centred where it has a bias.
    :param square: and as they are.
    :return: what the repair adds to the diagonal of their moments.
    """
    return th.maximum(RIDGE * variance, ROUNDING * square).clamp_min(1e-30)
