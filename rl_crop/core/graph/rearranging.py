"""Calls that only move elements about: made again on tensors of labels, they show where each unit comes to lie."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th

from rl_crop.core.graph.tracer import Axes, LabelTracer

MOVES = frozenset(
    """flatten view reshape unflatten squeeze unsqueeze permute transpose movedim swapaxes t mT T expand expand_as
    repeat repeat_interleave tile chunk split tensor_split unbind getitem select narrow index_select cat concat
    concatenate stack hstack roll flip view_as reshape_as pixel_unshuffle""".split()
)
_RESHAPES = frozenset("view reshape unflatten".split())
# These pick by place: cut units would shift the places of the others, unless all of them pass in order.
_PICKS = frozenset("chunk split tensor_split unbind getitem select narrow index_select roll".split())


def rearrange(
    tracer: LabelTracer,
    func: Callable,
    name: str,
    args: tuple,
    kwargs: dict[str, Any],
    out: Any,
    labelled: list[th.Tensor],
) -> bool:
    """
    Label what a rearranging call returns.

    :return: whether its units can still be cut afterwards.
    """
    if any(sum(axis is not None for axis in tracer.axes(x) or ()) != 1 for x in labelled):
        return False
    others = (*args[1:], *kwargs.values())
    picks = name in _PICKS or (name == "repeat_interleave" and any(isinstance(x, th.Tensor) for x in others))
    moved = func(*_as_labels(tracer, args, picks), **{key: _as_labels(tracer, value, picks) for key, value in kwargs.items()})
    tensors, labels = (out, moved) if isinstance(out, (tuple, list)) else ((out,), (moved,))
    found = [_labelled_axis(values.numpy()) for values in labels]
    if name in _RESHAPES and found == [None]:
        found = [_blocks(tracer, moved.numpy(), _given_sizes(name, args, kwargs))]
    if any(axes is None or len(axes) != x.dim() for x, axes in zip(tensors, found, strict=True)):
        return False
    pieces = [next((axis for axis in axes or () if axis is not None), np.zeros(0)) for axes in found]
    whole = next(axis for axis in tracer.axes(labelled[0]) or () if axis is not None)
    if picks and not all(np.array_equal(piece, whole) for piece in pieces):
        kept = all(x.dim() == labelled[0].dim() for x in tensors)
        if len(labelled) > 1 or not kept or not all(_tie_parts(tracer, whole, piece) for piece in pieces):
            return False
    for tensor, axes in zip(tensors, found, strict=True):
        tracer.label(tensor, axes or ())
    return True


def _given_sizes(name: str, args: tuple, kwargs: dict[str, Any]) -> dict[int, int]:
    """:return: by axis of the result, the size that a reshaping call states for it"""
    place = 0
    stated = [*args[1:], *kwargs.values()]
    if name == "unflatten":
        place = stated.pop(0) % args[0].dim()
    sizes = [size for value in stated for size in (value if isinstance(value, (list, tuple)) else [value])]
    return {place + number: size for number, size in enumerate(sizes) if isinstance(size, int)}


def _blocks(tracer: LabelTracer, labels: np.ndarray, given: dict[int, int]) -> Axes | None:
    """
    Units laid out along several axes (heads and their features): those at one place of the axis whose size is left open go
    together, as the others are written into the call. Where none is, the last of two is taken to be computed from the width.
    """
    varying = [place for place in range(labels.ndim) if (labels != labels.take([0], place)).any()]
    open_ = [place for place, size in given.items() if size == -1 and place in varying]
    if not open_ and len(varying) == 2:
        open_ = varying[1:]
    if len(open_) != 1 or (labels < 0).any():
        return None
    blocks = [np.unique(block) for block in np.moveaxis(labels, open_[0], 0)]
    if len({len(block) for block in blocks}) > 1 or len(np.unique(np.concatenate(blocks))) < sum(map(len, blocks)):
        return None
    table = np.stack(blocks)
    _tie_columns(tracer, table)
    return tuple(table[:, 0] if place == open_[0] else None for place in range(labels.ndim))


def _tie_parts(tracer: LabelTracer, whole: np.ndarray, piece: np.ndarray) -> bool:
    """
    A part of all units, taken to be computed from their number: one of several equal blocks, or every so many-th. Parts stay
    equal: units at one place of each go together. A trial of the cut shows where places are written into the call instead.
    """
    n_parts, rest = divmod(len(whole), max(len(piece), 1))
    if rest or len(piece) < 2:
        return False
    blocks, strides = whole.reshape(n_parts, -1), whole.reshape(-1, n_parts)
    if any(np.array_equal(piece, block) for block in blocks):
        _tie_columns(tracer, blocks.T)
    elif any(np.array_equal(piece, column) for column in strides.T):
        _tie_columns(tracer, strides)
    else:
        return False
    return True


def glu(tracer: LabelTracer, args: tuple, kwargs: dict[str, Any], out: th.Tensor) -> None:
    """Halves are multiplied: a unit and its gate go together."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
    _split_up(tracer, args[0], out, dim, lambda axis: axis.reshape(2, -1).T)


def pixel_shuffle(tracer: LabelTracer, args: tuple, kwargs: dict[str, Any], out: th.Tensor) -> None:
    """Several channels become positions of one, and go together."""
    factor = kwargs.get("upscale_factor", args[-1])
    _split_up(tracer, args[0], out, -3, lambda axis: axis.reshape(-1, factor**2))


def channel_shuffle(tracer: LabelTracer, args: tuple, kwargs: dict[str, Any], out: th.Tensor) -> None:
    """Channels at one place of every group go together."""
    groups = kwargs.get("groups", args[-1])
    _split_up(tracer, args[0], out, 1, lambda axis: axis.reshape(groups, -1).T, each=groups)


def _split_up(
    tracer: LabelTracer, x: th.Tensor, out: th.Tensor, dim: int, table_of: Callable[[np.ndarray], np.ndarray], each: int = 1
) -> None:
    """Tie what goes together (rows of a table), and label the result with one, or ``each``, of a row."""
    axes = list(tracer.axes(x) or ())
    if axes[dim] is not None:
        table = table_of(axes[dim])  # type: ignore[arg-type]
        _tie_columns(tracer, table)
        axes[dim] = table[:, :each].ravel()
    tracer.label(out, tuple(axes))


def _tie_columns(tracer: LabelTracer, table: np.ndarray) -> None:
    for place in range(1, table.shape[1]):
        tracer.tie(table[:, 0], table[:, place], "is laid out in blocks")


def _as_labels(tracer: LabelTracer, value: Any, picks: bool) -> Any:
    """The same structure with every tensor replaced by its labels (-1 where it has none); indices stay."""
    if isinstance(value, (list, tuple)):
        return type(value)(_as_labels(tracer, item, picks) for item in value)
    if not isinstance(value, th.Tensor):
        return value
    if picks and tracer.axes(value) is None and not value.is_floating_point():
        return value.cpu()
    labels = np.full(value.shape, -1, dtype=np.int64)
    for place, axis in enumerate(tracer.axes(value) or ()):
        if axis is not None:
            labels[...] = axis.reshape([-1 if d == place else 1 for d in range(value.dim())])
    return th.from_numpy(labels)


def _labelled_axis(labels: np.ndarray) -> Axes | None:
    """The one axis along which labels vary, or ``None`` where they lie across several."""
    if labels.size == 0 or (labels < 0).all():
        return (None,) * labels.ndim
    if (labels == labels.flat[0]).all():
        return _single(labels)
    for place in range(labels.ndim):
        along = np.moveaxis(labels, place, 0).reshape(labels.shape[place], -1)
        if (along == along[:, :1]).all():
            return tuple(along[:, 0] if d == place else None for d in range(labels.ndim))
    return None


def _single(labels: np.ndarray) -> Axes | None:
    """A single unit, so that no axis varies: it lies along one of length one, or along the only one after the rows."""
    place = next((d for d in range(1, labels.ndim) if labels.shape[d] == 1), 1 if labels.ndim == 2 else None)
    if place is None:
        return None
    return tuple(np.full(labels.shape[d], labels.flat[0]) if d == place else None for d in range(labels.ndim))
