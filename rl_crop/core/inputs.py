"""How a model is called on batches: recorded once, so that it can be run again on the same observations."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch as th
from torch import nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_flatten_with_path, tree_unflatten

from rl_crop.core.batch_axis import WHOLE, Axes, check_batch_axis, found_axes, named_axes, take
from rl_crop.core.errors import PruningError
from rl_crop.core.graph.tracer import tensors_in
from rl_crop.core.importance.curvature import called
from rl_crop.core.model import Run
from rl_crop.core.rng import isolated_rng, undisturbed

MAX_OBSERVATIONS = 2048
"""Observations kept for activations and compensation; a convolution has many rows in each."""

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional arguments and keywords of one call."""


@dataclass(frozen=True)
class Inputs:
    """
    The arguments of a model's calls, joined and copied.

    :param leaves: what the model is given, nested structures and keywords flattened.
    :param spec: their structure.
    :param axes: by place of the leaves that hold observations, the axis along which these lie; the others (flags, scalars,
        masks without a batch axis) are passed on as they are. Empty where the inputs cannot be taken apart, so that the
        model is always run on all of them.
    :param part: the user's own function that takes a part of the inputs.
    """

    leaves: tuple[Any, ...]
    spec: TreeSpec
    axes: Axes
    part: Callable[..., Any] | None = field(default=None, repr=False)

    @property
    def apart(self) -> bool:
        """Whether the model can be run on a part of the observations."""
        return bool(self.axes) or self.part is not None

    @property
    def rows(self) -> tuple[Any, ...]:
        """What holds the observations."""
        return tuple(self.leaves[place] for place in self.axes)

    def run_of(self, model: nn.Module) -> Run:
        """:return: runs a model on these observations; see :func:`~rl_crop.core.model.make_run`."""

        def run(n: int | None = None, index: th.Tensor | slice | None = None, ones: bool = False) -> Any:
            args, kwargs = self._chosen(n, index, ones)
            return model(*args, **kwargs)

        return run

    def _chosen(self, n: int | None, index: th.Tensor | slice | None, ones: bool) -> Arguments:
        """The arguments with some observations, copied: a forward pass may write to them."""
        if ones:
            index = th.zeros(1, dtype=th.int64)
        elif n is not None and self.apart:
            index = th.arange(n) % self._count
        leaves = list(take(self.leaves, self.axes, index) if self.axes and index is not None else self.leaves)
        for place, leaf in enumerate(leaves if ones else ()):
            if place in self.axes or not self.axes:
                leaves[place] = _map(lambda x: th.ones_like(x) if self.axes or x.is_floating_point() else x, leaf)
        args, kwargs = tree_unflatten(_copied(leaves), self.spec)
        if self.part is None or index is None:
            return args, kwargs
        index = th.arange(self._count)[index] if isinstance(index, slice) else index
        taken = self.part(args[0] if len(args) == 1 else args, index)
        return ((taken,) if len(args) == 1 else tuple(taken)), kwargs

    @property
    def _count(self) -> int:
        """How many observations there are."""
        if self.part is None:
            place, axis = next(iter(self.axes.items()))
            return _length(self.leaves[place], axis)
        args, _ = tree_unflatten(self.leaves, self.spec)
        return int(self.part(args[0] if len(args) == 1 else args, None))


def given_inputs(model: nn.Module, example_inputs: Any, batch_axis: Any = None) -> Inputs | None:
    """
    :param model: the module.
    :param example_inputs: a tensor, a dictionary, or a tuple of arguments.
    :param batch_axis: see :func:`~rl_crop.core.prune.plan_pruning`.
    :return: the inputs; ``None`` where no tensor is among them.
    :raises PruningError: the model does not run on them.
    """
    args = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    return _joined(model, [(args, {})], batch_axis)


def recorded_inputs(
    model: nn.Module, loss: Callable[[nn.Module, Any], Any] | None, batches: Sequence[Any], batch_axis: Any = None
) -> Inputs | None:
    """
    The inputs that a loss gives its model.

    :param model: the module.
    :param loss: called with (model, batch); where ``None``, the model is taken to be called on the batch, or on its
        first item if that is a tuple or list.
    :param batches: the batches.
    :param batch_axis: see :func:`~rl_crop.core.prune.plan_pruning`.
    :return: the inputs; ``None`` where the loss does not call the model itself, or without a tensor.
    :raises PruningError: the model does not run on them.
    """
    calls: list[Arguments] = []
    if loss is None:
        calls = [((input_of(batch),), {}) for batch in batches]
    else:
        # Gradients stay on: a loss may take some of its own (a gradient penalty).
        with isolated_rng(0), undisturbed(model), th.enable_grad():
            handle = model.register_forward_pre_hook(
                lambda module, args, kwargs: calls.append(_map(_clone, (args, kwargs))), with_kwargs=True
            )
            try:
                for batch in batches:
                    called(loss, model, batch)
            finally:
                handle.remove()
    found = _joined(model, calls, batch_axis)
    if (found is None or not found.apart) and any(x.dim() and not len(x) for x in tensors_in(calls)):
        raise PruningError("batches hold no rows: give at least one observation to score on.")
    read = [x for x in tensors_in(found.rows or found.leaves) if x.is_floating_point()] if found is not None else []
    if any(bool(x.isnan().any()) for x in read):
        raise PruningError(
            "batches are not finite: the model is called with NaN in them. Leave out such rows, or look for their cause."
        )
    return found


def input_of(batch: Any) -> Any:
    """:return: what a model is called with where no loss says it: the batch, or its first item."""
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def _joined(model: nn.Module, calls: Sequence[Arguments], batch_axis: Any) -> Inputs | None:
    """One call from many: those that look like the first one, apart from the number of observations."""
    check_batch_axis(batch_axis)
    if not calls or next(tensors_in(calls[0]), None) is None:
        return None
    if callable(batch_axis):
        leaves, spec = tree_flatten(calls[0])
        return Inputs(_copied(leaves), spec, {}, batch_axis)
    for lists in (False, True):
        leaves, spec, owners = _flatten(calls[0], lists)
        axes = _axes(model, leaves, spec, owners, batch_axis)
        if axes:
            flat = [_flatten(call, lists) for call in calls]
            kinds = _kinds(leaves, axes)
            alike = [other for other, structure, _ in flat if structure == spec and _kinds(other, axes) == kinds]
            joined = list(leaves)
            for place, axis in axes.items():
                joined[place] = _enough([other[place] for other in alike], axis)
            n = min(_length(joined[place], axis) for place, axis in axes.items())
            return Inputs(_copied(take(joined, axes, slice(n))), spec, axes)
    # Observations cannot be told apart: the largest batch stands for all.
    largest = max(calls, key=lambda call: sum(tensor.numel() for tensor in tensors_in(call)))
    leaves, spec = tree_flatten(largest)
    return Inputs(_copied(leaves), spec, {})


def _axes(model: nn.Module, leaves: list[Any], spec: TreeSpec, owners: list[Any], batch_axis: Any) -> Axes | None:
    def call(own: Sequence[Any]) -> Any:
        args, kwargs = tree_unflatten(_copied(own), spec)
        with th.no_grad(), isolated_rng(0):
            return model(*args, **kwargs)

    if isinstance(batch_axis, str) and batch_axis == WHOLE:
        return None
    with undisturbed(model):
        if batch_axis is not None:
            return named_axes(call, leaves, owners, batch_axis)
        try:
            return found_axes(call, leaves)
        except PruningError:
            raise
        except Exception as error:
            raise PruningError(
                f"The model does not run on the inputs that were given ({error}); nothing was pruned."
            ) from error


def _flatten(call: Arguments, lists: bool) -> tuple[list[Any], TreeSpec, list[Any]]:
    """
    :param lists: whether a list is a leaf, as one item an observation.
    :return: the leaves, their structure, and the argument that each is in.
    """
    pairs, spec = tree_flatten_with_path(call, is_leaf=lambda value: lists and isinstance(value, list))
    owners = [getattr(path[1], "idx", getattr(path[1], "key", None)) for path, _ in pairs]
    return [leaf.detach() if isinstance(leaf, th.Tensor) else leaf for _, leaf in pairs], spec, owners


def _kinds(leaves: Sequence[Any], axes: Axes) -> list[Any]:
    """What must agree between two calls: the other axes, and flags."""
    kinds: list[Any] = []
    for place, leaf in enumerate(leaves):
        if isinstance(leaf, th.Tensor):
            kinds.append(_others(leaf, axes[place]) if place in axes and leaf.dim() > axes[place] else "tensor")
        else:
            kinds.append(leaf if isinstance(leaf, (bool, int, float, str)) else type(leaf))
    return kinds


def _others(tensor: th.Tensor, axis: int) -> tuple[int, ...]:
    return (*tensor.shape[:axis], *tensor.shape[axis + 1 :])


def _length(leaf: Any, axis: int) -> int:
    return len(leaf) if isinstance(leaf, list) else leaf.shape[axis]


def _enough(parts: Sequence[Any], axis: int) -> Any:
    """The first :data:`MAX_OBSERVATIONS` of several leaves, one behind the other."""
    n_rows, used = 0, []
    for part in parts:
        if n_rows < MAX_OBSERVATIONS:
            n_rows += _length(part, axis)
            used.append(part)
    whole = [item for part in used for item in part] if isinstance(used[0], list) else th.cat(used, dim=axis)
    return take([whole], {0: axis}, slice(MAX_OBSERVATIONS))[0]


def _map(function: Callable[[th.Tensor], Any], structure: Any) -> Any:
    leaves, spec = tree_flatten(structure)
    return tree_unflatten([function(leaf) if isinstance(leaf, th.Tensor) else leaf for leaf in leaves], spec)


def _clone(tensor: th.Tensor) -> th.Tensor:
    return tensor.detach().clone()


def _copied(leaves: Sequence[Any]) -> tuple[Any, ...]:
    """Tensors, and objects that hold some, copied; what cannot be copied stays."""
    copied = []
    for leaf in leaves:
        if isinstance(leaf, th.Tensor):
            leaf = _clone(leaf)
        elif next(tensors_in(leaf), None) is not None:
            try:
                leaf = copy.deepcopy(leaf)
            except Exception:  # tensors of a graph, or an object of a kind of its own
                pass
        copied.append(leaf)
    return tuple(copied)
