"""What belongs together: the units of a network, each with every parameter slice that goes when it goes."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch as th
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from rl_crop.core.graph.tracer import LabelTracer

UNREACHED = "was not used in the forward pass that was looked at"


@dataclass(frozen=True)
class Slot:
    """
    Where the units of one group lie along one axis of one tensor.

    :param tensor: qualified name of the parameter or buffer.
    :param axis: the axis.
    :param index: int64, shape (n_units, k): the k positions along the axis that belong to each unit
        (k is above 1 after a flatten: every channel owns height times width columns).
    :param role: ``"out"`` where a layer produces the units, ``"in"`` where one consumes them, else ``"along"``
        (biases, norms, buffers).
    """

    tensor: str
    axis: int
    index: np.ndarray
    role: str


@dataclass(frozen=True)
class Group:
    """
    Units that are ranked together: one layer, or several layers coupled index by index.

    :param name: the first producing module, by ``named_modules()`` name.
    :param n_units: number of units.
    :param slots: everything that is cut with them.
    :param outputs: the units' places among the outputs of the first producing module (of a recurrent one, among its hidden
        units), shape (n_units, k).
    :param least: units that must stay.
    """

    name: str
    n_units: int
    slots: tuple[Slot, ...]
    outputs: np.ndarray = field(default_factory=lambda: np.zeros((0, 1), np.int64), repr=False)
    least: int = 1

    def tensors(self, role: str) -> list[str]:
        """:return: names of the tensors in which the group has the given role, each once, in order."""
        return list(dict.fromkeys(slot.tensor for slot in self.slots if slot.role == role))

    @property
    def makers(self) -> frozenset[str]:
        """Names of the weights and (where there are any) the biases that make the units' pre-activations."""
        weights = self.tensors("out")
        return frozenset([*weights, *(_bias_of(name) for name in weights)])


@dataclass(frozen=True)
class DependencyGraph:
    """
    All units of a model.

    :param groups: by name, in forward order.
    :param untouched: layers with no unit of their own, with the reason.
    :param applications: how often each linear or convolution weight is applied for one observation.
    :param shapes: shape of every parameter and buffer at the time of the trace.
    :param composite: those among the weights that lie inside layers that do more (recurrent ones, attention).
    :param feedback: those among these that read what their own layer gave out a step before.
    :param one_width: by reason, groups that must end with the same number of units, whichever these are.
    """

    groups: dict[str, Group]
    untouched: dict[str, str]
    applications: dict[str, float]
    shapes: dict[str, tuple[int, ...]] = field(repr=False)
    composite: frozenset[str] = frozenset()
    feedback: frozenset[str] = frozenset()
    one_width: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def flops(self) -> int:
        """Floating-point operations of linear, convolution and recurrent layers for one observation, also where masked."""
        return round(sum(2 * count * math.prod(self.shapes[name]) for name, count in self.applications.items()))

    def without(self, reasons: Mapping[str, str]) -> "DependencyGraph":
        """:return: the graph in which some groups stay whole, for reasons given by group name."""
        groups = {name: group for name, group in self.groups.items() if name not in reasons}
        left = {module_of(tensor) for group in groups.values() for tensor in group.tensors("out")}
        untouched = dict(self.untouched)
        for name, why in reasons.items():
            makers = {module_of(tensor) for tensor in self.groups[name].tensors("out")} - left
            untouched |= dict.fromkeys(sorted(makers), why)
        return replace(self, groups=groups, untouched=untouched)

    def slots_of(self, tensor: str) -> list[tuple[Group, Slot]]:
        """:return: every (group, slot) that lies in a tensor."""
        return [(group, slot) for group in self.groups.values() for slot in group.slots if slot.tensor == tensor]


def named_tensors(model: th.nn.Module) -> dict[str, th.Tensor]:
    """:return: every parameter and buffer of ``model`` by its first qualified name, each object once."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def module_of(tensor_name: str) -> str:
    """:return: the qualified name of the module that owns a parameter or buffer."""
    return tensor_name.rpartition(".")[0]


def _bias_of(weight: str) -> str:
    owner, _, name = weight.rpartition(".")
    return f"{owner}.{name.replace('weight', 'bias')}" if owner else name.replace("weight", "bias")


def units_of_labels(tracer: LabelTracer) -> tuple[int, np.ndarray]:
    """:return: how many units there are, and the unit of each label."""
    n_labels = tracer.n_labels
    pairs = np.concatenate([np.stack(edge) for edge in tracer.edges], axis=1) if tracer.edges else np.zeros((2, 0), int)
    links = coo_matrix((np.ones(pairs.shape[1], dtype=np.int8), (pairs[0], pairs[1])), shape=(n_labels, n_labels))
    return connected_components(links, directed=False)


def build_graph(
    tracer: LabelTracer,
    tensors: Mapping[str, th.Tensor],
    applications: Mapping[str, float],
    readers: Mapping[int, str],
    one_width: Mapping[str, Sequence[tuple[str, int]]],
) -> DependencyGraph:
    """
    :param tracer: what has been recorded.
    :param tensors: parameters and buffers by name.
    :param applications: of the graph.
    :param readers: by size, a layer that was not reached and may read that many features.
    :param one_width: by reason, pairs of (tensor name, axis) whose units may differ, but not their number.
    :return: the units.
    """
    n_units, unit_of = units_of_labels(tracer)
    why: dict[int, str] = {}
    for labels, reason in tracer.frozen:
        for unit in np.unique(unit_of[labels]):
            why.setdefault(int(unit), reason)
    # One row for each (unit, tensor axis, position); a unit's signature is the list of axes it lies in.
    axes = [(name, axis) for name, labels in tracer.axes_of.items() for axis in range(len(labels))]
    sizes = [len(tracer.axes_of[name][axis]) for name, axis in axes]
    slot_of = np.repeat(np.arange(len(axes)), sizes)
    position = np.concatenate([np.arange(size) for size in sizes]) if sizes else np.zeros(0, int)
    order = np.lexsort((position, slot_of, unit_of))
    bounds = np.searchsorted(unit_of[order], np.arange(n_units + 1))
    by_signature: dict[tuple[int, ...], list[np.ndarray]] = defaultdict(list)
    roles = [_role(tracer, name, axis) for name, axis in axes]
    for unit in range(n_units):
        rows = order[bounds[unit] : bounds[unit + 1]]
        signature = tuple(slot_of[rows].tolist())
        produced = {roles[slot] for slot in signature}
        reader = next((readers[sizes[slot]] for slot in signature if sizes[slot] in readers), None)
        if reader is not None and {"out", "in"} <= produced:
            why.setdefault(unit, f"{reader!r}, which no call reached, may read it: give batches that reach it, or ignore it")
        if unit not in why and {"out", "in"} <= produced:
            by_signature[signature].append(position[rows])
        else:
            why.setdefault(unit, UNREACHED)
    groups = _groups(by_signature, axes, roles, tracer)
    untouched: dict[str, str] = {}
    widths: dict[str, tuple[str, ...]] = {}
    for reason, places in one_width.items():
        owners = [_owners(groups, place) for place in places]
        widths[reason] = tuple(dict.fromkeys(name for found in owners for name in found))
        if [sum(found.values()) for found in owners] != [len(tracer.axes_of[name][axis]) for name, axis in places]:
            for name in widths.pop(reason):
                del groups[name]
                untouched[name] = f"its width is that of a layer that is left whole ({reason})"
    sliced = {slot.tensor for group in groups.values() for slot in group.slots if slot.role != "in"}
    for name, tensor in tensors.items():
        if tensor.dim() >= 2 and tensor.numel() and name not in sliced:
            reasons = [why.get(int(unit), UNREACHED) for unit in unit_of[tracer.axes_of[name][0]]]
            untouched.setdefault(module_of(name) or name, max(set(reasons), key=reasons.count))
    shapes = {name: tuple(map(len, labels)) for name, labels in tracer.axes_of.items()}
    return DependencyGraph(
        groups, untouched, dict(applications), shapes, frozenset(tracer.composite), frozenset(tracer.feedback), widths
    )


def _owners(groups: Mapping[str, Group], place: tuple[str, int]) -> dict[str, int]:
    """:return: by group that lies along an axis of a tensor, how many positions are its"""
    slots = [(group.name, slot) for group in groups.values() for slot in group.slots]
    return {name: slot.index.size for name, slot in slots if (slot.tensor, slot.axis) == place}


def _role(tracer: LabelTracer, name: str, axis: int) -> str:
    if tracer.producer_axis.get(name) == axis:
        return "out"
    return "in" if tracer.consumer_axis.get(name) == axis else "along"


def _groups(
    by_signature: dict[tuple[int, ...], list[np.ndarray]],
    axes: list[tuple[str, int]],
    roles: list[str],
    tracer: LabelTracer,
) -> dict[str, Group]:
    rank = {name: place for place, name in enumerate(tracer.applications)}
    found = []
    for signature, positions in by_signature.items():
        table = np.array(sorted(row.tolist() for row in positions))
        columns = np.array(signature)
        slots = [
            Slot(axes[slot][0], axes[slot][1], table[:, columns == slot], roles[slot]) for slot in dict.fromkeys(signature)
        ]
        producers = sorted((slot.tensor for slot in slots if slot.role == "out"), key=lambda name: rank[name])
        # Units are numbered by where they lie in the first layer that produces them.
        first = next(slot for slot in slots if slot.role == "out" and slot.tensor == producers[0])
        order = np.argsort(first.index[:, 0])
        slots = [Slot(slot.tensor, slot.axis, slot.index[order], slot.role) for slot in slots]
        outputs = first.index[order, : first.index.shape[1] // tracer.gates.get(producers[0], 1)]
        found.append((rank[producers[0]], int(first.index.min()), producers[0], tuple(slots), outputs))
    groups: dict[str, Group] = {}
    for _, _, producer, slots_, outputs in sorted(found, key=lambda item: item[:2]):
        name = module_of(producer)
        if name in groups:  # one layer's outputs that go separate ways (a chunk)
            name = f"{name}[{sum(other.split('[')[0] == name for other in groups)}]"
        least = max(tracer.least.get(slot.tensor, 1) for slot in slots_ if slot.role == "out")
        groups[name] = Group(name, len(slots_[0].index), slots_, outputs, least)
    return groups
