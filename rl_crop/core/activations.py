"""What linear and convolution layers receive and compute, as matrices with one row a sample or position."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.subject import Subject
from rl_crop.core.tracing import LayerObserver, channel_axis, no_grad_trace
from rl_crop.core.units import UnitGraph, UnitGroup

DORMANT = 0.025
"""A unit is dormant when its mean absolute activation is at most this share of its layer's mean (Sokar et al. 2023)."""

MAX_ROWS = 4096
"""Rows kept of a layer's inputs and outputs; a convolution has one row a position, so most are left out."""


def rows_of(tensor: th.Tensor, axis: int, seed: int = 0) -> th.Tensor:
    """
    :param tensor: input or output of a layer.
    :param axis: its channel axis.
    :param seed: chooses the rows where there are more than :data:`MAX_ROWS`; the same choice for the same number.
    :return: shape (rows, channels), float64.
    """
    flat = tensor.movedim(axis, -1)
    flat = flat.reshape(-1, flat.shape[-1])
    if len(flat) > MAX_ROWS:
        chosen = np.sort(np.random.default_rng(seed).choice(len(flat), MAX_ROWS, replace=False))
        flat = flat[th.as_tensor(chosen, device=flat.device)]
    return flat.double()


def patches_of(x: th.Tensor, weight: th.Tensor, call: Callable[..., th.Tensor]) -> th.Tensor:
    """
    The inputs that each output of a layer is a linear function of.

    A convolution with an identity kernel copies the patches out, whatever its stride, padding, dilation or groups.

    :param x: what the layer receives.
    :param weight: its weight, shape (outputs, inputs, *kernel).
    :param call: the layer's call, with replaceable ``input``, ``weight`` and ``bias``.
    :return: shape (rows, groups, inputs of a group x kernel), float64.
    """
    per_group = weight[0].numel()
    if weight.dim() == 2:
        return rows_of(x, -1).unsqueeze(1)
    n_groups = x.shape[channel_axis(weight)] // weight.shape[1]
    identity = th.eye(per_group, dtype=x.dtype, device=x.device).reshape(per_group, *weight.shape[1:])
    copied = call(input=x, weight=identity.repeat(n_groups, *[1] * (weight.dim() - 1)), bias=None)
    return rows_of(copied, channel_axis(weight)).reshape(-1, n_groups, per_group)


def unit_activations(
    groups: Iterable[UnitGroup], weights: dict[str, th.Tensor], runs: Iterable[Callable[[], Any]]
) -> dict[str, np.ndarray]:
    """
    What the consumers of each group receive from its units.

    :param groups: the groups to look at.
    :param weights: the consumers' weights by name.
    :param runs: functions that run the network on the observations.
    :return: by group name, shape (rows, n_units), float64; several consumers' inputs (twins) and several positions
        of one unit (a flattened channel) are stacked as rows.
    """
    received: dict[str, th.Tensor] = {}
    sources: dict[str, int] = {}
    held = []

    def record(name: str, x: th.Tensor, weight: th.Tensor, bias: Any, call: Callable[..., th.Tensor]) -> None:
        if name not in received:
            rows = rows_of(x, channel_axis(weight))
            received[name] = rows.reshape(-1, weight.shape[1])
            sources[name] = id(x)
            held.append(x)  # so that no other input gets its id

    with no_grad_trace(LayerObserver({id(tensor): name for name, tensor in weights.items()}, record)):
        for run in runs:
            run()
    result = {}
    for group in groups:
        consumers = [slot for slot in group.slots if slot.role == "in" and slot.tensor in received]
        distinct = {(sources[slot.tensor], slot.index.tobytes()): slot for slot in consumers}
        columns = [
            th.cat([received[slot.tensor][:, slot.index[:, place]] for place in range(slot.index.shape[1])])
            for slot in distinct.values()
        ]
        if columns:
            stacked = th.cat(columns)
            if len(stacked) > MAX_ROWS:
                stacked = stacked[:: -(-len(stacked) // MAX_ROWS)]
            result[group.name] = stacked.cpu().numpy()
    return result


class UnitActivations:
    """Unit activations of the trained copy, computed once, when first asked for."""

    def __init__(self, subject: Subject, graph: UnitGraph) -> None:
        self.subject, self.graph = subject, graph
        self.found: dict[str, np.ndarray] | None = None

    def __call__(self) -> dict[str, np.ndarray]:
        if not self.subject.has_observations:
            raise PruningError("This criterion looks at activations: give batches of observations.")
        if self.found is None:
            copy = self.subject.trained
            names = {slot.tensor for group in self.graph.groups.values() for slot in group.slots if slot.role == "in"}
            weights = {name: copy.tensors[name] for name in names}
            self.found = unit_activations(self.graph.groups.values(), weights, copy.runs.values())
        return self.found


def dormant_shares(
    activations: dict[str, np.ndarray], kept: dict[str, np.ndarray], graph: UnitGraph
) -> dict[str, tuple[float, float]]:
    shares = {}
    for name, units in kept.items():
        if name in activations:
            strength = np.abs(activations[name]).mean(0)
            dormant = strength <= DORMANT * strength.mean()
            removed = np.setdiff1d(np.arange(graph.groups[name].n_units), units)
            shares[name] = (float(dormant.mean()), float(dormant[removed].mean()) if len(removed) else 0.0)
    return shares
