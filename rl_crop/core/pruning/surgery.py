"""Cutting units out of parameters, gradients, optimizer state and size attributes, in place and undoably."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import numpy as np
import torch as th
from torch import nn

from rl_crop.core.attention import NarrowAttention, attention_sizes
from rl_crop.core.errors import UndoError
from rl_crop.core.graph.groups import DependencyGraph

TRIES = 3
"""How often one step of undoing is tried."""

Cuts = dict[th.Tensor, tuple[str, th.Size, dict[int, np.ndarray]]]
"""By tensor, its name in the graph, its shape before, and the positions that stay along each axis that got shorter."""


class Transaction:
    """
    A context in which every change is remembered; an exception inside undoes all of them.

    New tensors take the place of old ones, and old ones are never written to, so undoing is exact. A second exception while
    one step is undone (an impatient Ctrl-C) does not keep the others from it; the step itself is tried again.
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], Any]] = []
        self._errors: list[BaseException] = []  # of the step that is undone
        self._lost: list[BaseException] = []

    def __enter__(self) -> "Transaction":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self._undo.clear()
            return
        interrupts = []
        while self._undo:
            try:
                self._undo_all()
            except BaseException as another:
                if not isinstance(another, Exception):
                    interrupts.append(another)
        if self._lost:
            raise UndoError(
                f"A change could not be undone ({'; '.join(map(repr, self._lost))}), after {type(error).__name__}: {error}. "
                f"What was to be pruned may be damaged: go back to a saved one."
            ) from error
        if interrupts and isinstance(error, Exception):  # whoever interrupts means the whole, and not only the undoing
            raise interrupts[-1].with_traceback(None) from error

    def _undo_all(self) -> None:
        """Every step can be done twice, and is forgotten once it is done."""
        while self._undo:
            try:
                self._undo[-1]()
                self._undo.pop()
                self._errors.clear()
            except BaseException as error:
                self._errors.append(error)
                if len(self._errors) == TRIES:
                    self._undo.pop()
                    self._lost.append(error)
                    self._errors.clear()
                raise

    def set_data(self, tensor: th.Tensor, data: th.Tensor) -> None:
        """
        Give a parameter or buffer new contents, of any shape; the object and its memory format stay the same, and its
        gradient is dropped.

        :param tensor: the parameter or buffer.
        :param data: a new tensor that nobody else writes to.
        """
        old, old_grad = tensor.data, tensor.grad

        def undo() -> None:
            _replace(tensor, old)
            tensor.grad = old_grad

        self._undo.append(undo)
        tensor.grad = None
        _replace(tensor, laid_out_like(data, old))

    def set_item(self, mapping: Any, key: Any, value: Any) -> None:
        """Set ``mapping[key]`` (a dictionary or a list)."""
        missing = isinstance(mapping, dict) and key not in mapping
        old = None if missing else mapping[key]
        self._undo.append(lambda: mapping.pop(key, None) if missing else mapping.__setitem__(key, old))
        mapping[key] = value

    def remove_items(self, mapping: dict[Any, Any], keys: Iterable[Any]) -> None:
        """Remove ``mapping[key]`` of every key; undoing puts back their order too."""
        old = dict(mapping)

        def undo() -> None:
            mapping.clear()
            mapping.update(old)

        self._undo.append(undo)
        for key in keys:
            del mapping[key]

    def set_attribute(self, owner: Any, name: str, value: Any) -> None:
        """Set ``owner.name``."""
        self.keep_attributes(owner, name)
        setattr(owner, name, value)

    def keep_attributes(self, owner: Any, *names: str) -> None:
        """Whatever becomes of ``owner.name``, undoing puts back what it is now, or removes it where it is not there yet."""
        old = {name: getattr(owner, name) for name in names if hasattr(owner, name)}

        def undo() -> None:
            for name in names:
                if name in old:
                    setattr(owner, name, old[name])
                elif hasattr(owner, name):
                    delattr(owner, name)

        self._undo.append(undo)

    def call(self, undo: Callable[[], Any]) -> None:
        """Remember how to undo something done elsewhere; ``undo`` may be called twice."""
        self._undo.append(undo)


def _replace(tensor: th.Tensor, data: th.Tensor) -> None:
    # While a graph of an earlier loss is alive, torch keeps the parameter's gradient accumulator, which knows
    # the old shape and would refuse the next gradient. A change of dtype makes torch drop it; swap_tensors,
    # the other way to keep the object, refuses parameters that such a graph holds.
    tensor.data = th.empty(0, dtype=th.float32 if tensor.dtype == th.float64 else th.float64, device=tensor.device)
    tensor.data = data


def keep_index(graph: DependencyGraph, tensor: str, kept: Mapping[str, np.ndarray]) -> dict[int, np.ndarray]:
    """
    Which positions of a tensor stay.

    :param graph: the units.
    :param tensor: the tensor's name in the graph.
    :param kept: kept units by group name; groups not named stay whole.
    :return: by axis, for those axes that get shorter, the positions that stay, ascending.
    """
    stays: dict[int, np.ndarray] = {}
    for group, slot in graph.slots_of(tensor):
        if group.name in kept and len(kept[group.name]) < group.n_units:
            removed = np.setdiff1d(np.arange(group.n_units), kept[group.name])
            mask = stays.setdefault(slot.axis, np.ones(graph.shapes[tensor][slot.axis], dtype=bool))
            mask[slot.index[removed].ravel()] = False
    return {axis: np.flatnonzero(mask) for axis, mask in stays.items()}


def select(tensor: th.Tensor, index: Mapping[int, np.ndarray]) -> th.Tensor:
    """:return: a new tensor with only the given positions along the given axes, in the memory format of the old one."""
    selected = tensor
    for axis, positions in index.items():
        selected = selected.index_select(axis, th.as_tensor(positions, device=tensor.device))
    return laid_out_like(selected, tensor)


def laid_out_like(tensor: th.Tensor, other: th.Tensor) -> th.Tensor:
    """:return: the tensor, its axes in memory in the order of the other's (``channels_last`` stays that)."""
    if other.layout != th.strided or tensor.dim() != other.dim():
        return tensor
    strides = other.stride()
    order = sorted(range(other.dim()), key=lambda axis: -strides[axis])
    return tensor.permute(order).contiguous().permute([order.index(axis) for axis in range(len(order))])


def cut(
    transaction: Transaction,
    graph: DependencyGraph,
    tensors: Mapping[str, th.Tensor],
    kept: Mapping[str, np.ndarray],
) -> Cuts:
    """
    Remove all units but the kept ones from one copy of the network.

    :param transaction: remembers every change.
    :param graph: the units.
    :param tensors: this copy's parameters and buffers by the graph's names.
    :param kept: kept units by group name.
    :return: what was cut.
    """
    cuts = {}
    for name, tensor in tensors.items():
        index = keep_index(graph, name, kept)
        if index:
            cuts[tensor] = name, tensor.shape, index
            transaction.set_data(tensor, select(tensor.data, index))
    return cuts


def update_sizes(transaction: Transaction, roots: Iterable[nn.Module], changed: Iterable[th.Tensor]) -> None:
    """
    Correct the size attributes of every module that owns a changed tensor.

    :param transaction: remembers every change.
    :param roots: modules to search.
    :param changed: the parameters and buffers that were cut.
    """
    identities, roots = {id(tensor) for tensor in changed}, list(roots)
    for root in roots:
        for module in root.modules():
            own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            if any(id(tensor) in identities for tensor in own):
                for name, value in _sizes(module).items():
                    if getattr(module, name) != value:
                        transaction.set_attribute(module, name, value)
    for encoder in (module for root in roots for module in root.modules() if isinstance(module, nn.TransformerEncoder)):
        if any(isinstance(part, NarrowAttention) for part in encoder.modules()):  # torch's kernels for nested tensors fail
            transaction.set_attribute(encoder, "use_nested_tensor", False)


_CHANNELS: dict[type[nn.Module], int] = {
    nn.InstanceNorm1d: -2, nn.InstanceNorm2d: -3, nn.InstanceNorm3d: -4,
    nn.BatchNorm1d: 1, nn.BatchNorm2d: 1, nn.BatchNorm3d: 1,
}  # fmt: skip


@contextmanager
def sizes_as_given(transaction: Transaction, roots: Iterable[nn.Module]) -> Iterator[None]:
    """
    While active, norms of channels that hold no tensor of their own take the size of what they are given.

    :param transaction: remembers every change.
    :param roots: modules to search.
    """

    def before(module: Any, args: tuple) -> None:
        axis = next(axis for kind, axis in _CHANNELS.items() if isinstance(module, kind))
        if args and module.num_features != args[0].shape[axis]:
            transaction.set_attribute(module, "num_features", args[0].shape[axis])

    found = [module for root in roots for module in root.modules() if isinstance(module, tuple(_CHANNELS))]
    hooks = [module.register_forward_pre_hook(before) for module in found if not module.state_dict()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def flatten_weights(roots: Iterable[nn.Module]) -> None:
    """Lay out the weights of recurrent layers one after the other, as the kernels of some devices want them."""
    for root in roots:
        for module in root.modules():
            if isinstance(module, nn.RNNBase):
                module.flatten_parameters()


def _sizes(module: nn.Module) -> dict[str, Any]:
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Linear):
        return {"in_features": weight.shape[1], "out_features": weight.shape[0]}  # type: ignore[union-attr]
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        outputs, inputs = module.weight.shape[:2]
        groups = module.groups
        if inputs == 1 and groups == module.in_channels > 1:
            groups = outputs // (module.out_channels // module.in_channels)
        return {"in_channels": inputs * groups, "out_channels": outputs, "groups": groups}
    if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return {"in_channels": module.weight.shape[0], "out_channels": module.weight.shape[1] * module.groups}
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and weight is not None:
        return {"normalized_shape": tuple(weight.shape)}
    if isinstance(module, nn.MultiheadAttention):
        return attention_sizes(module)
    if isinstance(module, nn.RNNBase):
        shapes = {name.partition("_l0")[0]: tensor.shape for name, tensor in module.named_parameters(recurse=False)}
        cells = shapes["weight_hr" if module.proj_size else "weight_hh"]
        projected = {"proj_size": cells[0]} if module.proj_size else {}
        return {"input_size": shapes["weight_ih"][1], "hidden_size": cells[1], **projected}
    if isinstance(module, nn.RNNCellBase):
        return {"input_size": module.weight_ih.shape[1], "hidden_size": module.weight_hh.shape[1]}
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    length = next((tensor.shape[0] for tensor in own if tensor.dim() == 1), None)
    counts = ("num_features", "num_channels", "num_parameters")
    return {name: length for name in counts if length is not None and hasattr(module, name)}
