"""
Attention whose heads together are narrower than what it reads and gives out, as torch's own is not once heads are cut.

What is computed is what :class:`torch.nn.MultiheadAttention` computes, for the heads that are left.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function

Bound = dict[str, Any]
"""Arguments of ``F.multi_head_attention_forward`` by name."""
_SIGNATURE = inspect.signature(F.multi_head_attention_forward)


class NarrowAttention(nn.MultiheadAttention):
    """
    :class:`torch.nn.MultiheadAttention` with ``num_heads * head_dim`` other than ``embed_dim``.

    Modules become one when heads (or features of what they read) are cut; parameters keep their names.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """:return: as for the class of torch."""
        with _Narrow():
            return super().forward(*args, **kwargs)


class _Narrow(TorchFunctionMode):
    """Lets the class of torch, which prepares masks, call :func:`narrow_attention`."""

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        func = narrow_attention if func is F.multi_head_attention_forward else func
        return func(*args, **(kwargs or {}))


def narrow_attention(*args: Any, **kwargs: Any) -> tuple[th.Tensor, th.Tensor | None]:
    """
    ``F.multi_head_attention_forward`` for heads that are together of any width.

    :return: the output, and the weights where they are asked for.
    """
    call = bound_attention(args, kwargs)
    tensors = tuple(value for value in call.values() if isinstance(value, th.Tensor))
    if has_torch_function(tensors):
        return handle_torch_function(narrow_attention, tensors, *args, **kwargs)
    inner, weights = heads_output(call)
    return F.linear(inner, call["out_proj_weight"], call["out_proj_bias"]), weights


def bound_attention(args: tuple, kwargs: dict[str, Any]) -> Bound:
    """:return: the arguments of a call of ``F.multi_head_attention_forward``, or of the narrow one, by name."""
    bound = _SIGNATURE.bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def heads_output(call: Bound) -> tuple[th.Tensor, th.Tensor | None]:
    """:return: what the output projection receives, and the weights where they are asked for."""
    parts = [call[name] if call[name].dim() == 3 else call[name].unsqueeze(1) for name in ("query", "key", "value")]
    packed, biases = call["in_proj_weight"], call["in_proj_bias"]
    weights = [call[f"{part}_proj_weight"] for part in "qkv"] if packed is None else packed.chunk(3)
    q, k, v = map(F.linear, parts, weights, (None,) * 3 if biases is None else biases.chunk(3))
    mask = _mask(call, q)
    beside = [] if call["bias_k"] is None else [(call["bias_k"], call["bias_v"])]
    beside += [(zero := th.zeros_like(k[:1, :1]), zero)] if call["add_zero_attn"] else []
    for key, value in beside:
        k, v = th.cat([k, key.expand(1, *k.shape[1:])]), th.cat([v, value.expand(1, *v.shape[1:])])
        mask = None if mask is None else F.pad(mask, (0, 1))
    q, k, v = (part.reshape(*part.shape[:2], call["num_heads"], -1).permute(1, 2, 0, 3) for part in (q, k, v))
    dropout = call["dropout_p"] if call["training"] else 0.0
    if not call["need_weights"]:
        return _joined(F.scaled_dot_product_attention(q, k, v, mask, dropout), call), None
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    attention = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
    shown = attention.mean(1) if call["average_attn_weights"] else attention
    return _joined(attention @ v, call), shown if call["query"].dim() == 3 else shown.squeeze(0)


def _joined(heads: th.Tensor, call: Bound) -> th.Tensor:
    """:return: (time, batch, features) of (batch, heads, time, features), without a batch where there was none."""
    joined = heads.permute(2, 0, 1, 3).flatten(2)
    return joined if call["query"].dim() == 3 else joined.squeeze(1)


def _mask(call: Bound, q: th.Tensor) -> th.Tensor | None:
    """:return: what is added to scores of shape (batch, heads, time, keys)"""
    mask, padding = (_added(call[name], q) for name in ("attn_mask", "key_padding_mask"))
    if call["is_causal"] and mask is None:
        raise RuntimeError("is_causal needs attn_mask, as in torch's own attention.")
    if mask is not None and mask.dim() == 3:
        mask = mask.unflatten(0, (-1, call["num_heads"]))
    if padding is None:
        return mask
    padding = padding.reshape(-1, 1, 1, padding.shape[-1])
    return padding.expand(-1, -1, q.shape[0], -1) if mask is None else mask + padding


def _added(mask: th.Tensor | None, q: th.Tensor) -> th.Tensor | None:
    if mask is None or mask.is_floating_point():
        return mask
    return th.zeros_like(mask, dtype=q.dtype).masked_fill(mask, -math.inf)


def attention_sizes(module: nn.MultiheadAttention) -> dict[str, Any]:
    """:return: the size attributes of an attention layer as its parameters say, its class included"""
    embedded, inner = module.out_proj.weight.shape
    keys, values = (module.in_proj_weight if w is None else w for w in (module.k_proj_weight, module.v_proj_weight))
    queries = module.in_proj_weight if module.q_proj_weight is None else module.q_proj_weight
    sizes = {"embed_dim": embedded, "num_heads": inner // module.head_dim, "kdim": keys.shape[1], "vdim": values.shape[1]}
    # Fast paths of torch take the width of heads for that of the layer.
    same = queries.shape[1] == embedded == inner
    return sizes if same else sizes | {"_qkv_same_embed_dim": False, "__class__": NarrowAttention}
