"""How a model is called on batches: recorded once, so that it can be run again on the same observations."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch as th
from torch import nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from rl_crop.core.errors import PruningError
from rl_crop.core.importance.curvature import called
from rl_crop.core.model import Run, make_run
from rl_crop.core.rng import isolated_rng, undisturbed

MAX_OBSERVATIONS = 2048
"""Observations kept for activations and compensation; a convolution has many rows in each."""


@dataclass(frozen=True)
class Inputs:
    """
    The arguments of a model's calls, joined and copied.

    :param leaves: what the first call was given, nested structures and keywords flattened.
    :param spec: their structure.
    :param places: which leaves are tensors with one row an observation; the others (flags, scalars, masks without a
        batch axis) are passed on as they were.
    :param rows: the rows of those, over all calls.
    """

    leaves: tuple[Any, ...]
    spec: TreeSpec
    places: tuple[int, ...]
    rows: tuple[th.Tensor, ...]

    def run_of(self, model: nn.Module) -> Run:
        """:return: runs a model on these observations."""

        def call(*rows: th.Tensor) -> Any:
            leaves = list(self.leaves)
            for place, value in zip(self.places, rows, strict=True):
                leaves[place] = value
            args, kwargs = tree_unflatten(leaves, self.spec)
            return model(*args, **kwargs)

        return make_run(call, self.rows)


def given_inputs(example_inputs: Any) -> Inputs | None:
    """
    :param example_inputs: a tensor, a dictionary, or a tuple of arguments.
    :return: the inputs; ``None`` where no tensor is among them.
    """
    args = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    return _joined([_flatten(args, {})])


def recorded_inputs(model: nn.Module, loss: Callable[[nn.Module, Any], Any] | None, batches: Sequence[Any]) -> Inputs | None:
    """
    The inputs that a loss gives its model.

    :param model: the module.
    :param loss: called with (model, batch); where ``None``, the model is taken to be called on the batch, or on its
        first item if that is a tuple or list.
    :param batches: the batches.
    :return: the inputs; ``None`` where the loss does not call the model itself, or without a tensor.
    """
    calls: list[tuple[list[Any], TreeSpec]] = []
    if loss is None:
        calls = [_flatten((batch[0] if isinstance(batch, (tuple, list)) else batch,), {}) for batch in batches]
    else:
        # Gradients stay on: a loss may take some of its own (a gradient penalty).
        with isolated_rng(0), undisturbed(model), th.enable_grad():
            handle = model.register_forward_pre_hook(
                lambda module, args, kwargs: calls.append(_flatten(args, kwargs)), with_kwargs=True
            )
            try:
                for batch in batches:
                    called(loss, model, batch)
            finally:
                handle.remove()
    found = _joined(calls)
    tensors = [leaf for leaves, _ in calls for leaf in leaves if isinstance(leaf, th.Tensor) and leaf.dim()]
    if found is None and any(len(leaf) == 0 for leaf in tensors):
        raise PruningError("batches hold no rows: give at least one observation to score on.")
    if found is not None and any(bool(values.isnan().any()) for values in found.rows if values.is_floating_point()):
        raise PruningError(
            "batches are not finite: the model is called with NaN in them. Leave out such rows, or look for their cause."
        )
    return found


def _flatten(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], TreeSpec]:
    leaves, spec = tree_flatten((args, kwargs))
    return [leaf.detach() if isinstance(leaf, th.Tensor) else leaf for leaf in leaves], spec


def _joined(calls: Sequence[tuple[list[Any], TreeSpec]]) -> Inputs | None:
    """One call from many: those that look like the first one, apart from the number of rows."""
    if not calls:
        return None
    leaves, spec = calls[0]
    n_rows = next((len(leaf) for leaf in leaves if isinstance(leaf, th.Tensor) and leaf.dim()), 0)
    places = tuple(place for place, leaf in enumerate(leaves) if _has_rows(leaf, n_rows))
    if not places or not n_rows:
        return None
    kinds = _kinds(leaves, places)
    alike = [other for other, structure in calls if structure == spec and _kinds(other, places) == kinds]
    rows = tuple(th.cat(list(_enough(other[place] for other in alike)))[:MAX_OBSERVATIONS] for place in places)
    n_rows = min(len(values) for values in rows)
    return Inputs(tuple(leaves), spec, places, tuple(values[:n_rows] for values in rows))


def _has_rows(leaf: Any, n_rows: int) -> bool:
    return isinstance(leaf, th.Tensor) and leaf.dim() > 0 and len(leaf) == n_rows


def _kinds(leaves: Sequence[Any], places: tuple[int, ...]) -> list[Any]:
    """What must agree between two calls: trailing shapes, and flags."""
    kinds: list[Any] = []
    for place, leaf in enumerate(leaves):
        if isinstance(leaf, th.Tensor):
            kinds.append(tuple(leaf.shape[1:]) if place in places and leaf.dim() else "tensor")
        else:
            kinds.append(leaf if isinstance(leaf, (bool, int, float, str)) else type(leaf))
    return kinds


def _enough(tensors: Iterable[th.Tensor]) -> Iterable[th.Tensor]:
    n_rows = 0
    for tensor in tensors:
        if n_rows < MAX_OBSERVATIONS:
            n_rows += len(tensor)
            yield tensor
