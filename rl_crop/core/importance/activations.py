"""What linear and convolution layers receive and compute, as matrices with one row a sample or position."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import DependencyGraph, Group
from rl_crop.core.graph.observer import LayerObserver
from rl_crop.core.graph.tracer import channel_axis, no_grad_trace
from rl_crop.core.model import Subject

DORMANT = 0.025
"""A unit is dormant when its mean absolute activation is at most this share of its layer's mean (Sokar et al. 2023)."""

MAX_ROWS = 4096
"""Rows kept of a layer's inputs and outputs; a convolution has one row a position, so most are left out."""
MIN_OBSERVATIONS = 256
"""Observations that those rows come from, where there are as many."""
AT_ONCE = 32
"""Observations whose patches are copied out together."""


def rows_of(tensor: th.Tensor, axis: int, channels: np.ndarray | None = None) -> th.Tensor:
    """
    :param tensor: input or output of a layer.
    :param axis: its channel axis.
    :param channels: the channels that are wanted; all by default.
    :return: shape (rows, channels), float64; where there are more than :data:`MAX_ROWS`, the same choice of them for
        the same shape.
    """
    moved = tensor.movedim(axis, -1)
    chosen = _chosen_rows(moved.shape[:-1])
    if chosen is None:
        rows = moved.reshape(-1, moved.shape[-1])
    else:
        places = np.unravel_index(chosen, moved.shape[:-1])
        rows = moved[tuple(th.as_tensor(place, device=tensor.device) for place in places)]
    return (rows if channels is None else rows[:, th.as_tensor(channels, device=tensor.device)]).double()


def _chosen_rows(shape: tuple[int, ...]) -> np.ndarray | None:
    """Which rows of (observations, positions...) are kept, ascending, from a bounded number of observations."""
    n_observations, n_positions = shape[0] if shape else 1, int(np.prod(shape[1:]))
    if n_observations * n_positions <= MAX_ROWS:
        return None
    used = min(n_observations, max(MIN_OBSERVATIONS, 4 * MAX_ROWS // n_positions))
    rows = np.random.default_rng(0).choice(used * n_positions, min(MAX_ROWS, used * n_positions), replace=False)
    observation, position = np.divmod(np.sort(rows), n_positions)
    return (observation * n_observations // used) * n_positions + position


def patches_of(x: th.Tensor, weight: th.Tensor, call: Callable[..., th.Tensor]) -> th.Tensor:
    """
    The inputs that each output of a layer is a linear function of.

    A convolution with an identity kernel copies the patches out, whatever its stride, padding, dilation or groups.

    :param x: what the layer receives.
    :param weight: its weight, shape (outputs, inputs, *kernel).
    :param call: the layer's call, with replaceable ``input``, ``weight`` and ``bias``.
    :return: shape (rows, groups, inputs of a group x kernel), float64; the rows of :func:`rows_of` its output.
    """
    per_group, axis = weight[0].numel(), channel_axis(weight)
    if weight.dim() == 2:
        return rows_of(x, -1).unsqueeze(1)
    n_groups = x.shape[axis] // weight.shape[1]
    identity = th.eye(per_group, dtype=x.dtype, device=x.device).reshape(per_group, *weight.shape[1:])
    copy = partial(call, weight=identity.repeat(n_groups, *[1] * (weight.dim() - 1)), bias=None)
    chosen = None if x.dim() < weight.dim() else _chosen_rows((len(x), *call(input=x[:1]).shape[2:]))
    if chosen is None:
        return rows_of(copy(input=x), axis).reshape(-1, n_groups, per_group)
    # A copy of every patch of every observation could be many times larger than the network's activations.
    n_positions = call(input=x[:1])[0, 0].numel()
    observations, place = np.unique(chosen // n_positions, return_inverse=True)
    rows = []
    for start in range(0, len(observations), AT_ONCE):
        part = th.as_tensor(observations[start : start + AT_ONCE], device=x.device)
        copied = copy(input=x[part]).movedim(axis, -1).flatten(1, -2)
        here = (place >= start) & (place < start + AT_ONCE)
        index = [th.as_tensor(axis_, device=x.device) for axis_ in (place[here] - start, chosen[here] % n_positions)]
        rows.append(copied[index[0], index[1]].double())
    return th.cat(rows).reshape(-1, n_groups, per_group)


def unit_activations(
    groups: Iterable[Group], weights: dict[str, th.Tensor], runs: Iterable[Callable[[], Any]]
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
            _columns(received[slot.tensor], slot.index[:, place])
            for slot in distinct.values()
            for place in range(slot.index.shape[1])
        ]
        if columns:
            stacked = th.cat(columns) if len(columns) > 1 else columns[0]
            if len(stacked) > MAX_ROWS:
                stacked = stacked[:: -(-len(stacked) // MAX_ROWS)]
            result[group.name] = stacked.cpu().numpy()
    return result


def _columns(rows: th.Tensor, index: np.ndarray) -> th.Tensor:
    """:return: the columns at an index, not copied where it names all of them in order."""
    return rows if np.array_equal(index, np.arange(rows.shape[1])) else rows[:, index]


class UnitActivations:
    """Unit activations of the trained copy, computed once, when first asked for."""

    def __init__(self, subject: Subject, graph: DependencyGraph) -> None:
        self.subject, self.graph = subject, graph
        self.found: dict[str, np.ndarray] | None = None

    def __call__(self) -> dict[str, np.ndarray]:
        if not self.subject.has_observations:
            raise PruningError("This criterion looks at activations: give batches of observations.")
        if self.found is None:
            self.found = self._computed(self.subject.trained.runs)
        return self.found

    def few(self) -> dict[str, np.ndarray]:
        """:return: those of a few observations, for what is only reported; all where they are known; none without any"""
        if self.found is not None or not self.subject.has_observations:
            return self.found or {}
        return self._computed([partial(run, index=slice(MIN_OBSERVATIONS)) for run in self.subject.trained.runs])

    def _computed(self, runs: Iterable[Callable[[], Any]]) -> dict[str, np.ndarray]:
        copy = self.subject.trained
        names = {slot.tensor for group in self.graph.groups.values() for slot in group.slots if slot.role == "in"}
        weights = {name: copy.tensors[name] for name in names}
        try:
            return unit_activations(self.graph.groups.values(), weights, runs)
        except (IndexError, RuntimeError) as error:
            raise PruningError(
                f"The layers' inputs could not be looked at ({error}). Give no batches, but example_inputs, with "
                "compensation='none' and a criterion without activations."
            ) from error


def dormant_shares(
    activations: dict[str, np.ndarray], kept: dict[str, np.ndarray], graph: DependencyGraph
) -> dict[str, tuple[float, float]]:
    shares = {}
    for name, units in kept.items():
        if name in activations:
            strength = np.abs(activations[name]).mean(0)
            dormant = strength <= DORMANT * strength.mean()
            removed = np.setdiff1d(np.arange(graph.groups[name].n_units), units)
            shares[name] = (float(dormant.mean()), float(dormant[removed].mean()) if len(removed) else 0.0)
    return shares
