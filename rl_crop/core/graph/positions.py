"""Calls that mix rows or positions, such as nodes of a graph or steps of a sequence, and treat every feature by itself."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th

from rl_crop.core.graph.tracer import Axes, LabelTracer

FIXED = "is combined with a tensor of fixed size"

_REDUCTIONS = frozenset(
    """mean sum amax amin var std prod logsumexp max min median nanmean nansum argmax argmin all any norm var_mean
    std_mean""".split()
)
_SCANS = frozenset("cumsum cumprod cummax cummin logcumsumexp softmax log_softmax softmin sort argsort topk diff".split())
_SCATTERS = frozenset("index_add index_copy index_reduce index_fill scatter scatter_add scatter_reduce gather".split())
_PRODUCTS = frozenset("matmul rmatmul mm bmm sparse_mm".split())
POSITIONAL = _REDUCTIONS | _SCANS | _SCATTERS | _PRODUCTS


def along_positions(
    tracer: LabelTracer,
    name: str,
    args: tuple,
    kwargs: dict[str, Any],
    out: Any,
    elementwise: Callable[..., None],
) -> bool:
    """
    Label what one of :data:`POSITIONAL` returns.

    :param name: the call's plain name.
    :param elementwise: the rule of calls on each element: the larger one of two tensors is one of these.
    :return: whether its units can still be cut afterwards: ``False`` where they are mixed with each other.
    """
    if name in _PRODUCTS:
        first, second = args[1::-1] if name == "rmatmul" else args[:2]
        return _product(tracer, first, second, out)
    x = args[0]
    dims = kwargs.get("dim", args[_place_of_dim(name)] if len(args) > _place_of_dim(name) else None)
    if name in ("max", "min") and isinstance(kwargs.get("other", dims), th.Tensor):
        elementwise(tracer, args, kwargs, out)
        return True
    if dims is None and name in ("sort", "argsort", "topk", "diff"):
        dims = -1
    if dims is None or isinstance(dims, (bool, str)):
        return False
    mixed = {d % x.dim() for d in ([dims] if isinstance(dims, int) else dims)}
    axes = tracer.axes(x) or (None,) * x.dim()
    free = tracer.is_uniform(x)
    if any(axes[d] is not None for d in mixed):
        return False
    if name in _SCATTERS:
        for source in (*args[2:], *kwargs.values()):
            if isinstance(source, th.Tensor) and (source.is_floating_point() or tracer.axes(source)):
                own = tracer.axes(source) or (None,) * source.dim()
                if source.dim() != x.dim() or any(own[d] is not None for d in mixed):
                    return False
                axes = own if free else axes if tracer.is_uniform(source) else _tied(tracer, axes, own)
                free = False
    for result in out if isinstance(out, (tuple, list)) else (out,):
        kept = [None if d in mixed else axes[d] for d in range(x.dim()) if result.dim() == x.dim() or d not in mixed]
        tracer.label(result, tuple(kept))
    return True


def _place_of_dim(name: str) -> int:
    """Among the arguments by position."""
    return 2 if name in ("topk", "norm", "diff") else 1


def _tied(tracer: LabelTracer, first: Axes, second: Axes) -> Axes:
    tied = []
    for one, other in zip(first, second, strict=True):
        if one is not None or other is not None:
            tracer.tie(one, other, FIXED)
        tied.append(other if one is None else one)
    return tuple(tied)


def _product(tracer: LabelTracer, a: Any, b: Any, out: th.Tensor) -> bool:
    """Features stay where rows, or positions, are added up with weights: those of ``b`` in ``adjacency @ b``."""
    if min(a.dim(), b.dim()) < 2:
        return False
    left, right = tracer.axes(a) or (None,) * a.dim(), tracer.axes(b) or (None,) * b.dim()
    summed = left[-1], right[-2]
    if any(axis is not None for axis in (*summed, *left[:-2], *right[:-2])):
        return False
    new: list[np.ndarray | None] = [None] * out.dim()
    new[-2], new[-1] = left[-2], right[-1]
    tracer.label(out, tuple(new))
    return True
