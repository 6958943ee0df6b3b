"""The rules by which labels pass through a torch call; a call without a rule keeps its inputs whole."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch as th
import torch.nn.functional as F  # noqa: N812

from rl_crop.core.errors import lacks_memory
from rl_crop.core.graph.attention import attention_call, label_attention
from rl_crop.core.graph.losses import FEATURES, in_loss
from rl_crop.core.graph.positions import FIXED, POSITIONAL, along_positions
from rl_crop.core.graph.rearranging import MOVES, channel_shuffle, glu, pixel_shuffle, rearrange
from rl_crop.core.graph.recurrence import label_recurrent, recurrent_call
from rl_crop.core.graph.tracer import LAYER_CALLS, TRANSPOSED, Axes, LabelTracer, channel_axis, layer_arguments

INPUT = "reads the network's inputs"
BARE = "passes a normalisation without weights"


def propagate(
    tracer: LabelTracer, func: Callable, args: tuple, kwargs: dict[str, Any], out: Any, labelled: list[th.Tensor]
) -> None:
    """Record what one call ties, freezes and labels; see :class:`~rl_crop.core.graph.tracer.LabelTracer`."""
    name = _name(func)
    if name not in _LEAKS and not any(isinstance(x, th.Tensor) for x in (out if isinstance(out, (tuple, list)) else (out,))):
        return  # a shape, a dtype, a plain number
    try:
        settled = tracer.in_loss and in_loss(tracer, name, args, out, labelled, _elementwise)
        known = settled or _follow(tracer, func, name, args, kwargs, out, labelled)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if lacks_memory(error):
            raise
        known = False  # the call is written in a form that its rule does not know
    if not known:
        for tensor in labelled:
            tracer.freeze_tensor(tensor, FEATURES if tracer.in_loss else f"goes through torch's {name!r}, which cannot be cut")


def _follow(
    tracer: LabelTracer, func: Callable, name: str, args: tuple, kwargs: dict[str, Any], out: Any, labelled: list[th.Tensor]
) -> bool:
    """:return: whether there is a rule for this call."""
    if func in LAYER_CALLS:
        _layer(tracer, layer_arguments(args, kwargs), out)
    elif func in TRANSPOSED:
        _layer(tracer, layer_arguments(args, kwargs), out, (1, 0))
    elif (call := recurrent_call(func, args)) is not None:
        label_recurrent(tracer, call, out, INPUT)
    elif (attention := attention_call(func, args, kwargs)) is not None:
        label_attention(tracer, attention, out, INPUT)
    elif func in _CHANNEL_RULES:
        _CHANNEL_RULES[func](tracer, args, kwargs, out)
    elif name in ("to", "type_as"):
        tracer.label(out, tracer.axes(args[0]) or ())  # of the second argument no more than its type and device
    elif name in _ELEMENTWISE:
        _elementwise(tracer, args, kwargs, out)
    elif name in MOVES:
        return rearrange(tracer, func, name, args, kwargs, out, labelled)
    elif name == "scaled_dot_product_attention":
        return not kwargs.get("enable_gqa") and _attention(tracer, args, kwargs, out)
    elif name in ("matmul", "bmm") and _batched(tracer, [(x, _axes(tracer, x)) for x in args], out):
        pass
    elif name in _POOLS:
        _keep_channels(tracer, args[0], out, -1 - int(_digits(name)))
    elif name in ("pack_padded_sequence", "pad_packed_sequence"):
        _keep_features(tracer, args[0], out)
    elif name in ("interpolate", "upsample"):
        _keep_channels(tracer, args[0], out, 1)
    elif name == "pad":
        _pad(tracer, args[0], args[1], out)
    elif name in POSITIONAL:
        return along_positions(tracer, name, args, kwargs, out, _elementwise)
    else:
        return name in _NEW
    return True


def _name(func: Callable) -> str:
    """The call's name without underscores: in-place and operator forms share the rule of the plain one."""
    name = getattr(func, "__name__", str(func))
    if name == "__get__":  # a property such as x.T
        name = getattr(getattr(func, "__self__", None), "__name__", name)
    return name.strip("_")


# Activations, arithmetic and casts act on each element: aligned axes are the same units.
_ELEMENTWISE = frozenset(
    """relu relu6 leaky_relu elu selu celu gelu silu mish tanh sigmoid hardtanh hardswish hardsigmoid softplus
    softsign logsigmoid log_sigmoid rrelu rrelu_with_noise tanhshrink
    softshrink hardshrink threshold dropout alpha_dropout dropout1d dropout2d dropout3d
    feature_dropout feature_alpha_dropout clamp clip clamp_min clamp_max abs exp expm1 log log1p sqrt rsqrt
    square pow neg sign sin cos reciprocal clone contiguous float double half bfloat16 type detach data
    add sub subtract mul multiply div divide true_divide radd rsub rmul rdiv rtruediv truediv rpow iadd isub imul
    itruediv maximum minimum lerp where addcmul addcdiv nan_to_num requires_grad gt ge lt le eq ne isfinite isnan isinf
    masked_fill logical_and logical_or logical_not and or xor invert erf floor ceil round sinh cosh atan asinh bernoulli
    zeros_like ones_like full_like empty_like rand_like randn_like""".split()
)
_POOLS = frozenset(
    [f"{kind}_pool{n}d" for kind in ("max", "avg", "lp", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)]
    + [f"{kind}_with_indices" for kind in ("max_pool1d", "max_pool2d", "max_pool3d")]
)
# Calls that take no more than type and device from their first argument.
_NEW = frozenset("new_empty new_zeros new_ones new_full new_tensor".split())
# Calls that return no tensor, and yet carry units away or write over some of them.
_LEAKS = frozenset("setitem numpy tolist array".split())


def _layer(tracer: LabelTracer, call: dict[str, Any], out: th.Tensor, sides: tuple[int, int] = (0, 1)) -> None:
    """
    A linear layer or convolution: columns are tied to the channels received, rows are new channels.

    :param sides: axes of the weight that hold rows and columns.
    """
    weight, bias = call["weight"], call["bias"]
    name = tracer.names.get(id(weight))
    axes = tracer.axes(call["input"])
    channel = channel_axis(weight)
    received = None if axes is None else axes[channel]
    if name is None:  # a weight computed by the model (weight normalisation, a transposed view)
        for tensor in (call["input"], weight, bias):
            tracer.freeze_tensor(tensor, "meets a weight that is computed, not a parameter")
        return
    rows, columns = (tracer.axes_of[name][side] for side in sides)
    n_groups = call["input"].shape[channel] // weight.shape[1] if sides == (0, 1) else out.shape[channel] // weight.shape[1]
    if sides == (1, 0) and n_groups > 1:
        for tensor in (call["input"], weight, bias):
            tracer.freeze_tensor(tensor, "is a transposed convolution in groups, or is read by one")
        return
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
    moved = out if sides == (0, 1) else call["input"]
    tracer.applications[name] = tracer.applications.get(name, 0) + moved.numel() // weight.shape[0]
    tracer.producer_axis[name], tracer.consumer_axis[name] = sides
    for axis in range(-1, -call["input"].dim() - 1, -1):
        if axes is not None and axis != channel:  # features laid out as rows or positions
            tracer.freeze(axes[axis], FIXED)
    new: list[np.ndarray | None] = [None] * out.dim()
    new[channel] = rows
    tracer.label(out, tuple(new))


def _axes(tracer: LabelTracer, x: th.Tensor) -> Axes:
    return tracer.axes(x) or (None,) * x.dim()


def _attention(tracer: LabelTracer, args: tuple, kwargs: dict[str, Any], out: th.Tensor) -> bool:
    """Heads side by side; features of values go their own way, and those of queries and keys set the scale of scores."""
    query, key, value, *masks = (*args, *kwargs.values())
    for x in (query, key):
        tracer.freeze(_axes(tracer, x)[-1], "sets the scale of attention")
    beside = [(x, _axes(tracer, x)) for x in masks if isinstance(x, th.Tensor)]
    heads = [(x, (*_axes(tracer, x)[:-1], None)) for x in (query, key, value)]
    return _batched(tracer, [*heads, *beside], out, _axes(tracer, value)[-1])


def _batched(
    tracer: LabelTracer, labels: Sequence[tuple[th.Tensor, Axes]], out: th.Tensor, features: np.ndarray | None = None
) -> bool:
    """
    Products of matrices side by side: units can be cut along the axes before the last two (heads).

    :param labels: the operands, each with its labels.
    :param features: labels of the last axis of the result.
    """
    merged: list[np.ndarray | None] = [None] * out.dim()
    for place in range(-1, -out.dim() - 1, -1):
        aligned = [(x.shape[place], own[place]) for x, own in labels if x.dim() >= -place]
        merged[place] = next((axis for _, axis in aligned if axis is not None), None)
        if merged[place] is None:
            continue
        if place >= -2 or any(size not in (1, out.shape[place]) for size, _ in aligned):
            return False
        for size, axis in aligned:
            if size > 1:
                tracer.tie(merged[place], axis, FIXED)
    tracer.label(out, (*merged[:-1], features))
    return True


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
    if call.get("weight") is None:  # its statistics mix channels, and nothing says which of them are left
        tracer.freeze_tensor(call["input"], BARE)
    _channel_norm(tracer, call["input"], out, (call.get("weight"), call.get("bias")))


def _layer_norm(tracer: LabelTracer, args: tuple, kwargs: dict[str, Any], out: th.Tensor) -> None:
    call = dict(zip(("input", "normalized_shape", "weight", "bias"), args, strict=False)) | kwargs
    axes: Axes = tracer.axes(call["input"]) or (None,) * call["input"].dim()
    if call.get("weight") is None:
        tracer.freeze_tensor(call["input"], BARE)
    n_axes = len(call["normalized_shape"])
    for vector in (call.get("weight"), call.get("bias")):
        if isinstance(vector, th.Tensor):
            for own, received in zip(tracer.axes(vector) or (), axes[-n_axes:], strict=False):
                tracer.tie(own, received, FIXED)
    tracer.label(out, axes)


def _elementwise(tracer: LabelTracer, args: tuple, kwargs: dict[str, Any], out: th.Tensor) -> None:
    operands = [x for x in (*args, *kwargs.values()) if isinstance(x, th.Tensor) and not tracer.is_uniform(x)]
    merged: list[np.ndarray | None] = [None] * out.dim()
    for axis in range(-1, -out.dim() - 1, -1):
        aligned = [(x.shape[axis], (tracer.axes(x) or (None,) * x.dim())[axis]) for x in operands if x.dim() >= -axis]
        full = [label for size, label in aligned if size == out.shape[axis]]
        merged[axis] = next((label for label in full if label is not None), None)
        for size, label in aligned:
            if size != out.shape[axis]:  # one unit spread over many
                tracer.freeze(label, FIXED)
            elif merged[axis] is not None:
                tracer.tie(merged[axis], label, FIXED)
    tracer.label(out, tuple(merged))


def _prelu(tracer: LabelTracer, args: tuple, kwargs: dict[str, Any], out: th.Tensor) -> None:
    call = dict(zip(("input", "weight"), args, strict=False)) | kwargs
    if call["weight"].numel() > 1:
        _channel_norm(tracer, call["input"], out, (call["weight"],))
    else:
        tracer.label(out, tracer.axes(call["input"]) or ())


_CHANNEL_RULES: dict[Callable, Callable[..., None]] = {
    F.glu: glu,
    F.pixel_shuffle: pixel_shuffle,
    F.channel_shuffle: channel_shuffle,
    F.batch_norm: _batch_norm,
    F.instance_norm: _batch_norm,
    F.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
    F.rms_norm: _layer_norm,
    th.prelu: _prelu,
}


def _keep_channels(tracer: LabelTracer, x: th.Tensor, out: Any, channel: int) -> None:
    """Pooling and resizing act on each channel by itself."""
    axes = tracer.axes(x) or (None,) * x.dim()
    for place, axis in enumerate(axes):
        if place != channel % x.dim():
            tracer.freeze(axis, FIXED)
    for tensor in out if isinstance(out, tuple) else (out,):
        new: list[np.ndarray | None] = [None] * tensor.dim()
        new[channel] = axes[channel]
        tracer.label(tensor, tuple(new))


def _keep_features(tracer: LabelTracer, x: th.Tensor, out: tuple[th.Tensor, th.Tensor]) -> None:
    """Packing rearranges steps; the last axis stays that of features."""
    *others, features = tracer.axes(x) or (None,) * x.dim()
    for axis in others:
        tracer.freeze(axis, FIXED)
    tracer.label(out[0], (*[None] * (out[0].dim() - 1), features))


def _pad(tracer: LabelTracer, x: th.Tensor, widths: Sequence[int], out: th.Tensor) -> None:
    axes = list(tracer.axes(x) or (None,) * x.dim())
    for place in range(len(widths) // 2):  # from the last axis backwards
        if widths[2 * place] or widths[2 * place + 1]:
            tracer.freeze(axes[-1 - place], FIXED)
            axes[-1 - place] = None
    tracer.label(out, tuple(axes))


def _digits(name: str) -> str:
    return "".join(letter for letter in name if letter.isdigit())
