"""
Which slices of which parameters belong together, found by running the network once.

Every axis of every parameter and buffer carries one label an index. While the network runs, each torch
call that it makes says which labels must be cut together (a linear layer ties its columns to the
features it receives, an addition ties its two operands) and which cannot be cut at all (raw inputs,
outputs, and whatever goes through a call that is not known here). What a call without a rule does
inside stays its own affair, so that its inputs are left whole and it is named as the reason.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch as th
from torch.overrides import TorchFunctionMode

Axes = tuple[np.ndarray | None, ...]
"""Labels of one tensor: for each axis an int64 array (-1: not a parameter's index) or ``None``."""


class LabelTracer(TorchFunctionMode):
    """
    Propagates axis labels through every torch call made while the mode is active.

    :param tensors: parameters and buffers by qualified name; each axis of each gets fresh labels.
    :param rule: called with (tracer, function, args, kwargs, output, labelled inputs) after every call that
        touches a label; see ``propagation.propagate``.
    """

    def __init__(self, tensors: Mapping[str, th.Tensor], rule: Callable[..., None]) -> None:
        super().__init__()
        self.rule = rule
        self.n_labels = 0
        self.edges: list[tuple[np.ndarray, np.ndarray]] = []
        self.frozen: list[tuple[np.ndarray, str]] = []
        self.axes_of: dict[str, tuple[np.ndarray, ...]] = {}
        # Label arrays by object identity; the tensors themselves are held so that no id is reused.
        self._axes: dict[int, Axes] = {}
        self._alive: list[th.Tensor] = []
        self._uniform: dict[int, th.Tensor] = {}  # made by the forward pass, of one number or of noise: any part is as good
        self._said: set[Any] = set()  # what has been tied and frozen already: a loss runs the same calls again and again
        self.names: dict[int, str] = {id(tensor): name for name, tensor in tensors.items()}
        self._given = set(self.names)  # ids of all that is labelled before anything runs
        self.in_loss = False  # whether what runs is a loss, outside of every module
        # Outputs of a linear or convolution weight per call, what any call computes with, and which axes produce and consume.
        self.applications: dict[str, int] = {}
        self.met: set[str] = set()
        self.producer_axis: dict[str, int] = {}
        self.consumer_axis: dict[str, int] = {}
        # Blocks of rows that each hold a unit once; weights inside layers that do more; those (by id) of attention layers that
        # can lose heads; those that read what their layer gave out a step before; units that must stay of those that a weight
        # produces; and weights (by id) whose layers make their own states.
        self.gates: dict[str, int] = {}
        self.composite: set[str] = set()
        self.attention: set[int] = set()
        self.feedback: set[str] = set()
        self.least: dict[str, int] = {}
        self.own_states: set[int] = set()
        for name, tensor in tensors.items():
            axes = tuple(self._fresh(size) for size in tensor.shape)
            self.axes_of[name] = axes
            self.label(tensor, axes)

    def store(self, name: str, data: th.Tensor) -> None:
        """Give labels to data that hold units along their last axis."""
        self.axes_of[name] = tuple(self._fresh(size) for size in data.shape)
        self._given.add(id(data))
        self.label(data, (*[None] * (data.dim() - 1), self.axes_of[name][-1]))

    def _fresh(self, size: int) -> np.ndarray:
        start, self.n_labels = self.n_labels, self.n_labels + size
        return np.arange(start, self.n_labels, dtype=np.int64)

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = list(tensors_in((args, kwargs)))
        labelled = [x for x in given if self.axes(x) is not None]
        name = getattr(func, "__name__", "").strip("_")
        scaled = name in _SCALINGS and given and all(self.is_uniform(x) for x in given)
        if (name in _FACTORIES or scaled) and isinstance(out, th.Tensor):
            self._uniform[id(out)] = out
        if labelled:
            if next(tensors_in(out), None) is not None:  # more than a shape or a dtype
                self.met.update(self.names[id(x)] for x in labelled if id(x) in self.names)
            self.rule(self, func, args, kwargs, out, labelled)
        return out

    def forget_activations(self) -> None:
        """Let go of all labels but those of parameters and stored data: what was computed is not needed any more."""
        own = [tensor for tensor in self._alive if id(tensor) in self._given]
        self._axes = {id(tensor): self._axes[id(tensor)] for tensor in own}
        self._alive = own
        self._uniform = {}

    def is_uniform(self, tensor: Any) -> bool:
        """:return: whether the forward pass has made a tensor of one number or of noise: its size can follow any other."""
        return id(tensor) in self._uniform and self.axes(tensor) is None

    def axes(self, tensor: Any) -> Axes | None:
        """:return: the labels of ``tensor``, or ``None`` when no axis carries any."""
        return self._axes.get(id(tensor))

    def label(self, tensor: th.Tensor, axes: Axes) -> None:
        """Record the labels of a tensor (nothing is recorded where no axis carries any)."""
        if any(axis is not None and (axis >= 0).any() for axis in axes):
            self._axes[id(tensor)] = axes
            self._alive.append(tensor)

    def tie(self, first: np.ndarray | None, second: np.ndarray | None, why: str) -> None:
        """
        State that two label arrays of one length are the same units; a side without labels has a fixed size,
        so what it meets can no longer be cut.

        :param why: the reason reported where this freezes units.
        """
        if first is None or second is None:
            self.freeze(second if first is None else first, why)
            return
        if self._repeated(first, second, why):
            return
        both = (first >= 0) & (second >= 0)
        self.edges.append((first[both], second[both]))
        self.freeze(first[(first >= 0) & ~both], why)
        self.freeze(second[(second >= 0) & ~both], why)

    def freeze(self, labels: np.ndarray | None, why: str) -> None:
        """State that these labels cannot be cut."""
        if labels is not None and (labels >= 0).any() and not self._repeated(labels, None, why):
            self.frozen.append((labels[labels >= 0], why))

    def _repeated(self, first: np.ndarray, second: np.ndarray | None, why: str) -> bool:
        said = first.tobytes(), None if second is None else second.tobytes(), why
        known = said in self._said
        self._said.add(said)
        return known

    def freeze_tensor(self, tensor: Any, why: str) -> None:
        """State that no labelled axis of ``tensor`` can be cut."""
        for axis in self.axes(tensor) or ():
            self.freeze(axis, why)

    def freeze_all(self, structure: Any, why: str) -> None:
        """State that no tensor anywhere in a nested structure can be cut (a network's outputs)."""
        for tensor in tensors_in(structure):
            self.freeze_tensor(tensor, why)


_SCALINGS = frozenset("mul rmul add radd sub rsub div truediv neg to float double half bfloat16".split())
_FACTORIES = frozenset("rand randn zeros ones full empty new_zeros new_ones new_full new_empty".split())

LAYER_CALLS = frozenset({th.nn.functional.linear, th.nn.functional.conv1d, th.nn.functional.conv2d, th.nn.functional.conv3d})
"""Calls that apply a weight of shape (outputs, inputs, *kernel)."""
TRANSPOSED = frozenset(
    {th.nn.functional.conv_transpose1d, th.nn.functional.conv_transpose2d, th.nn.functional.conv_transpose3d}
)
"""Calls that apply a weight of shape (inputs, outputs, *kernel)."""


def channel_axis(weight: th.Tensor) -> int:
    """:return: the (negative) axis of channels in input and output of a call in :data:`LAYER_CALLS` or :data:`TRANSPOSED`."""
    return -(weight.dim() - 1)


def layer_arguments(args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """:return: ``input``, ``weight`` and ``bias`` of a call in :data:`LAYER_CALLS` or :data:`TRANSPOSED`."""
    bound = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    bound.setdefault("bias", None)
    return bound


@contextmanager
def no_grad_trace(mode: TorchFunctionMode) -> Iterator[None]:
    """Run a block under ``mode`` and without autograd."""
    with th.no_grad(), mode:
        yield


_PLAIN = (str, bytes, bool, int, float, complex, type(None), type, np.ndarray, th.nn.Module, th.dtype, th.device)


def tensors_in(structure: Any, _seen: set[int] | None = None) -> Iterator[th.Tensor]:
    """:return: every tensor in a nested structure of containers, dataclasses, distributions and plain objects."""
    if isinstance(structure, th.Tensor):
        yield structure
        return
    if isinstance(structure, _PLAIN) or callable(structure):
        return
    seen = set() if _seen is None else _seen
    if id(structure) in seen:  # an object that holds itself
        return
    seen.add(id(structure))
    for value in _parts(structure):
        yield from tensors_in(value, seen)


def _parts(structure: Any) -> Iterator[Any]:
    if isinstance(structure, Mapping):
        yield from structure.values()
    elif isinstance(structure, (list, tuple, set, frozenset, deque)):
        yield from structure
    elif is_dataclass(structure):
        yield from (getattr(structure, entry.name, None) for entry in fields(structure))
    else:
        yield from getattr(structure, "__dict__", {}).values()
        for kind in type(structure).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            yield from (getattr(structure, name, None) for name in ([slots] if isinstance(slots, str) else slots))
