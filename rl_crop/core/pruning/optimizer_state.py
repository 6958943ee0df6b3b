"""What optimizers remember of parameters: cut with them, forgotten, or refused where it is not clear what belongs to what."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch as th
from torch.utils._pytree import tree_map_only

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.tracer import tensors_in
from rl_crop.core.pruning.surgery import Transaction, select

REMEDY = "clear it, or use another optimizer."


def cut_optimizers(
    transaction: Transaction,
    optimizers: Iterable[th.optim.Optimizer],
    cuts: Mapping[th.Tensor, tuple[str, th.Size, Mapping[int, np.ndarray]]],
) -> None:
    """
    Cut the state of parameters that were cut.

    :param transaction: remembers every change.
    :param optimizers: the optimizers, and with them those that they wrap.
    :param cuts: by parameter, its name, its shape before, and the positions that stay along each axis that got shorter.
    :raises PruningError: state of another shape than its parameter's, or kept beside ``optimizer.state``.
    """
    for optimizer in with_inner(optimizers):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        touched = [parameter for parameter in parameters if parameter in cuts]
        if isinstance(optimizer, th.optim.LBFGS):
            if optimizer.state:
                raise PruningError(f"LBFGS keeps the history of all parameters in one vector: {REMEDY}")
            transaction.set_attribute(optimizer, "_numel_cache", None)
        if not touched:
            continue
        _refuse_beside(optimizer, parameters)
        was = {id(parameter): cuts[parameter][1] if parameter in cuts else parameter.shape for parameter in parameters}
        held = []  # all is looked at before anything is cut: shapes beside one parameter tell of another
        for parameter in touched:
            for key, value in optimizer.state.get(parameter, {}).items():
                if any(tensor.numel() > 1 for tensor in tensors_in(value)):
                    _refuse_ambiguous(optimizer, key, value, *cuts[parameter][:2], was)
                    held.append((parameter, key, value))
        for parameter, key, value in held:
            name, shape, index = cuts[parameter]
            transaction.set_item(optimizer.state[parameter], key, _selected(value, shape, index, f"{key!r} of {name!r}"))


def forget(transaction: Transaction, optimizers: Iterable[th.optim.Optimizer], parameters: Iterable[th.Tensor]) -> None:
    """
    Let optimizers begin anew with some parameters, as if they had not yet stepped them.

    Refitted weights are larger, because each kept unit stands for several, and so are the gradients of the layers before
    them. Second moments of before would make Adam's steps longer by that factor for as long as they remember.

    :param transaction: remembers every change.
    :param optimizers: those that may hold state.
    :param parameters: whose state is dropped.
    """
    wanted = {id(parameter) for parameter in parameters}
    for optimizer in with_inner(optimizers):
        keys = [key for key in optimizer.state if id(key) in wanted]
        if isinstance(optimizer, th.optim.Adagrad):  # it has state before the first step, and needs it there
            start = {id(p): group["initial_accumulator_value"] for group in optimizer.param_groups for p in group["params"]}
            for key in keys:
                entry = {"step": th.zeros_like(optimizer.state[key]["step"]), "sum": th.full_like(key, start[id(key)])}
                transaction.set_item(optimizer.state, key, entry)
        else:
            transaction.remove_items(optimizer.state, keys)


def with_inner(optimizers: Iterable[th.optim.Optimizer]) -> list[th.optim.Optimizer]:
    """:return: the optimizers and those that they hold as attributes (wrappers), one for each dictionary of state."""
    found: dict[int, th.optim.Optimizer] = {}
    waiting = list(optimizers)
    while waiting:
        optimizer = waiting.pop(0)
        if id(optimizer.state) not in found:
            found[id(optimizer.state)] = optimizer
        waiting += [
            inner
            for inner in vars(optimizer).values()
            if isinstance(inner, th.optim.Optimizer) and id(inner.state) not in found
        ]
    return list(found.values())


def _refuse_beside(optimizer: th.optim.Optimizer, parameters: Sequence[th.Tensor]) -> None:
    """Tensors in attributes or options of an optimizer may be copies of its parameters: nobody could cut them."""
    own = {id(parameter) for parameter in parameters}
    places = {name: value for name, value in vars(optimizer).items() if name not in ("state", "param_groups", "defaults")}
    for group in optimizer.param_groups:
        places |= {f"param_groups[...][{key!r}]": value for key, value in group.items() if key != "params"}
    for name, value in places.items():
        if isinstance(value, (th.Tensor, list, tuple, dict)) and any(
            tensor.numel() > 1 and id(tensor) not in own for tensor in tensors_in(value)
        ):
            raise PruningError(
                f"{type(optimizer).__name__} keeps tensors beside its state ({name}), which cannot be cut with the "
                f"parameters: {REMEDY}"
            )


def _refuse_ambiguous(
    optimizer: th.optim.Optimizer, key: Any, value: Any, name: str, shape: th.Size, was: Mapping[int, th.Size]
) -> None:
    """A square matrix beside a square weight can be its moment, or a preconditioner of its rows or its columns."""
    if len(shape) != 2 or shape[0] != shape[1] or type(optimizer).__module__.startswith("torch.optim"):
        return
    others = [  # the same entry, beside parameters of other shapes
        (was[id(other)], tensor.shape)
        for other, entry in optimizer.state.items()
        if was.get(id(other), shape) != shape and key in entry
        for tensor in tensors_in(entry[key])
        if tensor.numel() > 1
    ]
    telling = [_fits(own, of) for of, own in others if len(of) != 2 or of[0] != of[1]]
    matrices = [tensor for tensor in tensors_in(value) if tuple(tensor.shape) == tuple(shape)]
    if not all(telling) or (not telling and any(_is_preconditioner(matrix) for matrix in matrices)):
        raise PruningError(
            f"The optimizer's state {key!r} of {name!r} may belong to the rows, to the columns or to the elements of a "
            f"square weight: it cannot be cut. {REMEDY.capitalize()}"
        )


def _is_preconditioner(matrix: th.Tensor) -> bool:
    """Whether a matrix is symmetric (a second moment of rows, a root of it) or orthogonal (its basis), and not zero."""
    matrix = matrix.detach().double()
    if not bool(matrix.any()):
        return False
    eye = th.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    return th.allclose(matrix, matrix.T, rtol=1e-3, atol=1e-6 * float(matrix.abs().max())) or th.allclose(
        matrix @ matrix.T, eye, atol=1e-3
    )


def _fits(own: th.Size, shape: th.Size) -> bool:
    """Whether state has its parameter's shape, or length one along some axes (factored moments)."""
    return len(own) == len(shape) and all(size in (1, full) for size, full in zip(own, shape, strict=True))


def _selected(value: Any, shape: th.Size, index: Mapping[int, np.ndarray], what: str) -> Any:
    """A state entry, every tensor of it cut along the axes that it shares with its parameter."""

    def of_tensor(tensor: th.Tensor) -> th.Tensor:
        if tensor.numel() <= 1:
            return tensor
        if not _fits(tensor.shape, shape):
            raise PruningError(
                f"The optimizer's state {what} has the shape {tuple(tensor.shape)}, which cannot be cut: {REMEDY}"
            )
        return select(tensor, {axis: positions for axis, positions in index.items() if tensor.shape[axis] == shape[axis]})

    return tree_map_only(th.Tensor, of_tensor, value)
