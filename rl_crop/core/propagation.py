"""The rules by which labels pass through a torch call; a call without a rule keeps its inputs whole."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
import torch.nn.functional as F  # noqa: N812

from rl_crop.core.tracing import LAYER_CALLS, Axes, LabelTracer, channel_axis, layer_arguments

INPUT = "reads the network's inputs"
FIXED = "is combined with a tensor of fixed size"


def propagate(
    tracer: LabelTracer, func: Callable, args: tuple, kwargs: dict[str, Any], out: Any, labelled: list[th.Tensor]
) -> None:
    """Record what one call ties, freezes and labels; see :class:`~rl_crop.core.tracing.LabelTracer`."""
    if not any(isinstance(x, th.Tensor) for x in (out if isinstance(out, (tuple, list)) else (out,))):
        return  # a shape, a dtype, a plain number
    name = _name(func)
    if func in LAYER_CALLS:
        _layer(tracer, layer_arguments(args, kwargs), out)
    elif func in _CHANNEL_RULES:
        _CHANNEL_RULES[func](tracer, args, kwargs, out)
    elif name in _ELEMENTWISE:
        _elementwise(tracer, args, kwargs, out)
    elif name in _MOVES and _move(tracer, func, args, kwargs, out, labelled):
        pass
    elif name in _POOLS:
        _keep_channels(tracer, args[0], out)
    elif name in _REDUCTIONS and _reduce(tracer, args, kwargs, out):
        pass
    else:
        for tensor in labelled:
            tracer.freeze_tensor(tensor, f"goes through torch's {name!r}, which cannot be cut")


def _name(func: Callable) -> str:
    """The call's name without underscores: in-place and operator forms share the rule of the plain one."""
    name = getattr(func, "__name__", str(func))
    if name == "__get__":  # a property such as x.T
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    return name.strip("_")


# Activations, arithmetic and casts act on each element: aligned axes are the same units.
_ELEMENTWISE = frozenset(
    """relu relu6 leaky_relu elu selu celu gelu silu mish tanh sigmoid hardtanh hardswish hardsigmoid softplus
    softsign logsigmoid tanhshrink softshrink hardshrink threshold dropout alpha_dropout dropout1d dropout2d dropout3d
    feature_dropout feature_alpha_dropout clamp clip clamp_min clamp_max abs exp expm1 log log1p sqrt rsqrt
    square pow neg sign sin cos reciprocal clone contiguous float double half bfloat16 to type type_as detach data
    add sub subtract mul multiply div divide true_divide radd rsub rmul rdiv rtruediv truediv rpow iadd isub imul
    itruediv maximum minimum lerp where addcmul addcdiv nan_to_num requires_grad gt ge lt le eq ne isfinite""".split()
)
# Calls that only rearrange elements; run on the labels themselves to see where each one goes.
_MOVES = frozenset(
    """flatten view reshape unflatten squeeze unsqueeze permute transpose movedim swapaxes t mT T expand expand_as
    repeat repeat_interleave tile chunk split tensor_split unbind getitem select narrow index_select cat concat
    concatenate stack hstack roll flip view_as reshape_as pixel_shuffle pixel_unshuffle""".split()
)
_POOLS = frozenset(
    [f"{kind}_pool{n}d" for kind in ("max", "avg", "lp", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)]
    + [f"{kind}_with_indices" for kind in ("max_pool1d", "max_pool2d", "max_pool3d")]
    + ["interpolate", "upsample", "pad"]
)
_REDUCTIONS = frozenset("mean sum amax amin var std".split())


def _layer(tracer: LabelTracer, call: dict[str, Any], out: th.Tensor) -> None:
    """A linear layer or convolution: columns are tied to the channels received, rows are new channels."""
    weight, bias = call["weight"], call["bias"]
    name = tracer.names.get(id(weight))
    axes = tracer.axes(call["input"])
    channel = channel_axis(weight)
    received = None if axes is None else axes[channel]
    if name is None:  # a weight computed by the model (weight normalisation, a transposed view)
        for tensor in (call["input"], weight, bias):
            tracer.freeze_tensor(tensor, "meets a weight that is computed, not a parameter")
        return
    rows, columns = tracer.axes_of[name][0], tracer.axes_of[name][1]
    n_groups = call["input"].shape[channel] // weight.shape[1]
    if n_groups == 1:
        tracer.tie(columns, received, INPUT)
    elif weight.shape[1] == 1:  # depthwise: every channel is a group of its own and takes its outputs with it
        for multiple in range(len(rows) // n_groups):
            tracer.tie(rows[multiple :: len(rows) // n_groups], received, INPUT)
    else:
        # Groups stay equal: the unit at one place of every group goes or stays together.
        for received_by_group in np.split(received, n_groups) if received is not None else [None]:
            tracer.tie(columns, received_by_group, INPUT)
        for rows_of_group in np.split(rows, n_groups)[1:]:
            tracer.tie(rows[: len(rows_of_group)], rows_of_group, FIXED)
    if isinstance(bias, th.Tensor):
        bias_axes = tracer.axes(bias)
        tracer.tie(rows, None if bias_axes is None else bias_axes[0], FIXED)
    tracer.applications[name] = tracer.applications.get(name, 0) + out.numel() // weight.shape[0]
    tracer.producer_axis[name], tracer.consumer_axis[name] = 0, 1
    new: list[np.ndarray | None] = [None] * out.dim()
    new[channel] = rows
    tracer.label(out, tuple(new))


def _tie_vectors(tracer: LabelTracer, channels: np.ndarray | None, vectors: tuple[Any, ...]) -> None:
    for vector in vectors:
        if isinstance(vector, th.Tensor):
            axes = tracer.axes(vector)
            tracer.tie(channels, None if axes is None else axes[0], FIXED)


def _channel_norm(tracer: LabelTracer, x: th.Tensor, out: th.Tensor, vectors: tuple[Any, ...]) -> None:
    axes = tracer.axes(x)
    _tie_vectors(tracer, None if axes is None else axes[1], vectors)
    if axes is not None:
        tracer.label(out, axes)


def _batch_norm(tracer: LabelTracer, args: tuple, kwargs: dict[str, Any], out: th.Tensor) -> None:
    names = ("input", "running_mean", "running_var", "weight", "bias")
    call = dict(zip(names, args, strict=False)) | kwargs
    _channel_norm(tracer, call["input"], out, tuple(call.get(name) for name in names[1:]))


def _group_norm(tracer: LabelTracer, args: tuple, kwargs: dict[str, Any], out: th.Tensor) -> None:
    call = dict(zip(("input", "num_groups", "weight", "bias"), args, strict=False)) | kwargs
    axes = tracer.axes(call["input"])
    if axes is not None and axes[1] is not None:
        first, *others = np.split(axes[1], call["num_groups"])
        for other in others:
            tracer.tie(first, other, FIXED)
    _channel_norm(tracer, call["input"], out, (call.get("weight"), call.get("bias")))


def _layer_norm(tracer: LabelTracer, args: tuple, kwargs: dict[str, Any], out: th.Tensor) -> None:
    call = dict(zip(("input", "normalized_shape", "weight", "bias"), args, strict=False)) | kwargs
    axes: Axes = tracer.axes(call["input"]) or (None,) * call["input"].dim()
    if call.get("weight") is None:  # nothing to cut, but its normalized_shape would no longer fit
        tracer.freeze_tensor(call["input"], "passes a LayerNorm without weights")
    n_axes = len(call["normalized_shape"])
    for vector in (call.get("weight"), call.get("bias")):
        if isinstance(vector, th.Tensor):
            for own, received in zip(tracer.axes(vector) or (), axes[-n_axes:], strict=False):
                tracer.tie(own, received, FIXED)
    tracer.label(out, axes)


def _elementwise(tracer: LabelTracer, args: tuple, kwargs: dict[str, Any], out: th.Tensor) -> None:
    operands = [x for x in (*args, *kwargs.values()) if isinstance(x, th.Tensor)]
    merged: list[np.ndarray | None] = [None] * out.dim()
    for axis in range(-1, -out.dim() - 1, -1):
        aligned = [x for x in operands if x.dim() >= -axis]
        full = [x for x in aligned if x.shape[axis] == out.shape[axis]]
        labels = [axes[axis] if (axes := tracer.axes(x)) is not None else None for x in full]
        merged[axis] = next((label for label in labels if label is not None), None)
        if merged[axis] is None:
            continue
        for label in labels:
            tracer.tie(merged[axis], label, FIXED)
        for x in aligned:
            if x.shape[axis] != out.shape[axis]:  # one unit spread over many
                tracer.freeze((tracer.axes(x) or (None,) * x.dim())[axis], FIXED)
    tracer.label(out, tuple(merged))


def _prelu(tracer: LabelTracer, args: tuple, kwargs: dict[str, Any], out: th.Tensor) -> None:
    call = dict(zip(("input", "weight"), args, strict=False)) | kwargs
    _channel_norm(tracer, call["input"], out, (call["weight"],) if call["weight"].numel() > 1 else ())


_CHANNEL_RULES: dict[Callable, Callable[..., None]] = {
    F.batch_norm: _batch_norm,
    F.instance_norm: _batch_norm,
    F.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
    th.prelu: _prelu,
}


def _move(
    tracer: LabelTracer, func: Callable, args: tuple, kwargs: dict[str, Any], out: Any, labelled: list[th.Tensor]
) -> bool:
    """Rearranging calls: make the same call on tensors of labels, and read where the labels came to lie."""
    if any(sum(axis is not None for axis in tracer.axes(x) or ()) != 1 for x in labelled):
        return False
    moved = func(*_as_labels(tracer, args), **{key: _as_labels(tracer, value) for key, value in kwargs.items()})
    results = zip(out, moved, strict=True) if isinstance(out, (tuple, list)) else [(out, moved)]
    found = [(tensor, _labelled_axis(labels.numpy())) for tensor, labels in results]
    if any(axes is None for _, axes in found):
        return False
    for tensor, axes in found:
        assert axes is not None
        tracer.label(tensor, axes)
    return True


def _as_labels(tracer: LabelTracer, value: Any) -> Any:
    """The same structure with every floating tensor replaced by its labels (-1 where it has none)."""
    if isinstance(value, (list, tuple)):
        return type(value)(_as_labels(tracer, item) for item in value)
    if not isinstance(value, th.Tensor) or not value.is_floating_point():
        return value.cpu() if isinstance(value, th.Tensor) else value
    labels = np.full(value.shape, -1, dtype=np.int64)
    for place, axis in enumerate(tracer.axes(value) or ()):
        if axis is not None:
            labels[...] = axis.reshape([-1 if d == place else 1 for d in range(value.dim())])
    return th.from_numpy(labels)


def _labelled_axis(labels: np.ndarray) -> Axes | None:
    """The one axis along which labels vary, or ``None`` where they lie across several."""
    if labels.size == 0 or (labels < 0).all():
        return (None,) * labels.ndim
    if (labels == labels.flat[0]).all():  # a single unit: no axis varies, so its axis is one of length one
        single = next((place for place in range(1, labels.ndim) if labels.shape[place] == 1), None)
        return None if single is None else tuple(labels.flat[:1].copy() if d == single else None for d in range(labels.ndim))
    for place in range(labels.ndim):
        along = np.moveaxis(labels, place, 0).reshape(labels.shape[place], -1)
        if (along == along[:, :1]).all():
            return tuple(along[:, 0] if d == place else None for d in range(labels.ndim))
    return None


def _keep_channels(tracer: LabelTracer, x: th.Tensor, out: Any) -> None:
    """Pooling and resizing act on each channel by itself; channels are axis 1."""
    for tensor in out if isinstance(out, tuple) else (out,):
        axes = tracer.axes(x) or (None,) * x.dim()
        new: list[np.ndarray | None] = [None] * tensor.dim()
        for place, axis in enumerate(axes):
            if place == 1 and tensor.shape[1] == x.shape[1]:
                new[1] = axis
            else:
                tracer.freeze(axis, FIXED)
        tracer.label(tensor, tuple(new))


def _reduce(tracer: LabelTracer, args: tuple, kwargs: dict[str, Any], out: Any) -> bool:
    """Sums and means over axes that carry no label; over labelled axes the units are mixed."""
    x = args[0]
    dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if not isinstance(out, th.Tensor) or dims is None or isinstance(dims, bool):
        return False
    reduced = {d % x.dim() for d in ([dims] if isinstance(dims, int) else dims)}
    axes = tracer.axes(x) or (None,) * x.dim()
    if any(axes[d] is not None for d in reduced):
        return False
    kept = [None if d in reduced else axes[d] for d in range(x.dim()) if out.dim() == x.dim() or d not in reduced]
    tracer.label(out, tuple(kept))
    return True
