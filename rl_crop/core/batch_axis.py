"""Where the observations of a batch lie in what a model is called with: said by the user, or found by trying."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, product
from math import prod
from typing import Any

import torch as th

from rl_crop.core.errors import PruningError, lacks_memory
from rl_crop.core.graph.tracer import tensors_in
from rl_crop.core.rng import Steady

WHOLE = "whole"
"""``batch_axis`` of inputs that cannot be taken apart."""
TRIES = 64
"""Ways to take a batch apart that are tried."""
TOLERANCE = {th.float64: 1e-7, th.float32: 1e-3}
"""Largest difference between outputs of a part and that part of the outputs, relative to the largest."""

Axes = dict[int, int]
"""By place among the leaves of a call's arguments, the axis along which observations lie (0 for a list)."""
Call = Callable[[Sequence[Any]], Any]
"""Runs the model on leaves."""


def found_axes(call: Call, leaves: Sequence[Any]) -> Axes | None:
    """
    Try out which axes hold observations: a part of them must give the same part of the outputs.

    Where observations are mixed (batch statistics), it is enough that the first axis can be put in another order.

    :param call: runs the model.
    :param leaves: tensors, lists, and what holds no observations.
    :return: the axes; ``None`` where nothing that was tried takes the batch apart.
    """
    with Steady():
        whole = call(leaves)
        ways = list(islice(_candidates(leaves), TRIES))
        for axes, n in ways:
            chosen = [n - 1, 0] if n != 2 else [1]
            part = _tried(call, take(leaves, axes, chosen))
            if part is not None and (_is_part(whole, part, n, chosen) or _adds_up(call, leaves, axes, n, whole)):
                return axes
        for axes, n in ways[:1]:
            turned = list(range(n))[::-1]
            if n > 1 and not any(axes.values()) and _tried(call, take(leaves, axes, [n - 1, 0])) is not None:
                again = _tried(call, take(leaves, axes, turned))
                if again is not None and _is_part(whole, again, n, turned):
                    return axes
    return None


def named_axes(call: Call, leaves: Sequence[Any], owners: Sequence[Any], batch_axis: Any) -> Axes | None:
    """
    What a user says of the axes.

    :param call: runs the model.
    :param leaves: see :func:`found_axes`.
    :param owners: of each leaf, the position or the keyword of the argument that it is in.
    :param batch_axis: an axis; or one (or ``None``) for each argument, by position or by keyword; or :data:`WHOLE`.
    :return: the axes, ``None`` for inputs that are run whole.
    :raises PruningError: it does not fit the inputs, or the model does not run on a part of them.
    """
    if batch_axis == WHOLE:
        return None
    said: dict[int, int] = {}
    for place, (leaf, owner) in enumerate(zip(leaves, owners, strict=True)):
        axis = _said_of(batch_axis, owner)
        sizes = _sizes(leaf)
        if axis is not None and -len(sizes) <= axis < len(sizes):
            said[place] = axis % len(sizes)
    n = next((_sizes(leaves[place])[axis] for place, axis in said.items()), 0)
    axes = {place: axis for place, axis in said.items() if _sizes(leaves[place])[axis] == n}
    if not n:
        raise PruningError(f"batch_axis={batch_axis!r} is no axis of anything that the model is called with.")
    try:
        call(take(leaves, axes, [n - 1, 0]))
    except Exception as error:
        raise PruningError(
            f"The model does not run on a part of its inputs along batch_axis={batch_axis!r} ({error}): give one axis for "
            f"each argument, None for those without observations, or batch_axis={WHOLE!r}."
        ) from error
    return axes


def check_batch_axis(batch_axis: Any) -> None:
    """:raises PruningError: it is none of what :func:`named_axes` knows, no function, and not ``None``."""
    parts = [batch_axis]
    if isinstance(batch_axis, (tuple, list)):
        parts = [*batch_axis]
    elif isinstance(batch_axis, Mapping):
        parts = [*batch_axis.values()]
    known = batch_axis == WHOLE if isinstance(batch_axis, str) else callable(batch_axis)
    if not known and not all(part is None or (isinstance(part, int) and not isinstance(part, bool)) for part in parts):
        raise PruningError(
            f"batch_axis={batch_axis!r} is no axis, none for each argument (a tuple, or a dictionary by keyword), no function "
            f"that takes a part of a batch, and not {WHOLE!r}."
        )


def take(leaves: Sequence[Any], axes: Axes, index: Any) -> list[Any]:
    """:return: the leaves with the observations at an index: a slice, a list or a tensor of positions."""
    taken = list(leaves)
    for place, axis in axes.items():
        taken[place] = _of(leaves[place], axis, index)
    return taken


def _of(leaf: Any, axis: int, index: Any) -> Any:
    if isinstance(leaf, list):
        return leaf[index] if isinstance(index, slice) else [leaf[i] for i in th.as_tensor(index).tolist()]
    if isinstance(index, slice):
        return leaf[(slice(None),) * axis + (index,)]
    return leaf.index_select(axis, th.as_tensor(index, device=leaf.device).reshape(-1))


def _said_of(batch_axis: Any, owner: Any) -> int | None:
    if isinstance(batch_axis, Mapping):
        return batch_axis.get(owner)
    if isinstance(batch_axis, (tuple, list)):
        return batch_axis[owner] if isinstance(owner, int) and owner < len(batch_axis) else None
    return batch_axis


def _sizes(leaf: Any) -> tuple[int, ...]:
    if isinstance(leaf, th.Tensor):
        return tuple(leaf.shape)
    return (len(leaf),) if isinstance(leaf, list) else ()


def _candidates(leaves: Sequence[Any]) -> Iterator[tuple[Axes, int]]:
    """Ways to take a batch apart, with the number of observations: the likeliest first."""
    sizes = [_sizes(leaf) for leaf in leaves]
    numbers = [own[axis] for axis in range(max(map(len, sizes), default=0)) for own in sizes if axis < len(own)]
    for n in dict.fromkeys(numbers):
        having = {place: [axis for axis, size in enumerate(own) if size == n] for place, own in enumerate(sizes) if n in own}
        ways = [
            {place: axis for place, axis in zip(having, chosen, strict=True) if axis is not None}
            for chosen in product(*([*axes, None] for axes in list(having.values())[:6]))
        ] if n and prod(len(axes) + 1 for axes in having.values()) <= TRIES**2 else []  # fmt: skip
        yield from ((way, n) for way in sorted(ways, key=lambda way: (-len(way), sum(way.values()))) if way)


def _tried(call: Call, leaves: Sequence[Any]) -> Any:
    try:
        return call(leaves)
    except Exception as error:
        if lacks_memory(error):
            raise
        return None


def _is_part(whole: Any, part: Any, n: int, chosen: Sequence[int]) -> bool:
    """Whether outputs are those of the chosen observations, of n: at least one has them along an axis, others are equal."""
    old, new = list(tensors_in(whole)), list(tensors_in(part))
    if len(old) != len(new):  # one output, or several, an observation
        each, rest = divmod(len(old), n)
        if rest or len(new) != each * len(chosen):
            return False
        return all(_close(old[each * i + k], new[each * j + k]) for j, i in enumerate(chosen) for k in range(each))
    judged = [_same_part(x, y, n, chosen) for x, y in zip(old, new, strict=True)]
    return any(judged) and None not in judged


def _same_part(whole: th.Tensor, part: th.Tensor, n: int, chosen: Sequence[int]) -> bool | None:
    """:return: ``False`` where an output says nothing of observations, ``None`` where it is another."""
    for axis, size in enumerate(whole.shape):
        left = (*whole.shape[:axis], len(chosen), *whole.shape[axis + 1 :])
        if size == n and left == tuple(part.shape) and _close(whole.index_select(axis, _positions(chosen, whole)), part):
            return True
    return False if whole.dim() == 0 or _close(whole, part) else None


def _positions(chosen: Sequence[int], tensor: th.Tensor) -> th.Tensor:
    return th.tensor(chosen, device=tensor.device)


def _adds_up(call: Call, leaves: Sequence[Any], axes: Axes, n: int, whole: Any) -> bool:
    """Whether single numbers (a model that returns its loss) are the mean or the sum over two parts."""
    outputs = list(tensors_in(whole))
    if n < 2 or not outputs or any(output.dim() for output in outputs):
        return False
    parts = [_tried(call, take(leaves, axes, part)) for part in (range(n // 2), range(n // 2, n))]
    halves = [list(tensors_in(part)) for part in parts]
    if any(part is None for part in parts) or any(len(half) != len(outputs) for half in halves):
        return False
    share = (n // 2) / n
    return all(
        _close(output, first * share + second * (1 - share)) or _close(output, first + second)
        for output, first, second in zip(outputs, *halves, strict=True)
    )


def _close(x: th.Tensor, y: th.Tensor) -> bool:
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    if not (x.is_floating_point() or x.is_complex()):
        return bool((x == y).float().mean() > 0.9) if x.numel() else True  # decisions that rounding may tip
    finite = th.isfinite(x)
    if not th.equal(finite, th.isfinite(y)):
        return False
    x, y = x[finite], y[finite]
    bound = TOLERANCE.get(x.dtype, 2e-2)
    return not x.numel() or float((x - y).abs().max()) <= bound * max(float(x.abs().max()), th.finfo(x.dtype).tiny)
