"""Attention of torch: a head is a unit, with its rows of query, key and value and its columns of the output projection."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn

from rl_crop.core.attention import Bound, NarrowAttention, bound_attention, heads_output, narrow_attention
from rl_crop.core.graph.tracer import LabelTracer

BY_HEAD = "has masks, or gives out weights, by head"
OF_ITS_OWN = "is an attention layer of a class of its own"
_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj_weight")
_BIASES = ("in_proj_bias", "bias_k", "bias_v", "out_proj_bias")


def attention_call(func: Callable, args: tuple, kwargs: dict[str, Any]) -> Bound | None:
    """:return: the arguments by name where a torch call is one of attention, else ``None``."""
    return bound_attention(args, kwargs) if func in (F.multi_head_attention_forward, narrow_attention) else None


def known_attention(model: nn.Module) -> set[int]:
    """:return: ids of the output weights of attention layers that can go on with fewer heads"""
    kinds = (nn.MultiheadAttention, NarrowAttention)
    return {id(module.out_proj.weight) for module in model.modules() if type(module) in kinds}  # type: ignore[union-attr]


def attention_parts(call: Bound) -> Iterator[tuple[th.Tensor, th.Tensor, th.Tensor | None]]:
    """
    The linear layers that the call applies, as (input, weight, bias) in forward order.

    A weight may be changed while the next ones are not yet asked for.
    """
    if call["in_proj_weight"] is not None:
        received = [call["query"], call["key"], call["value"]]
        if not received[0] is received[1] is received[2]:  # one weight has to serve all
            received = [th.cat([x.flatten(0, -2) for x in received])]
        yield received[0], call["in_proj_weight"], call["in_proj_bias"]
    for part, x in zip("qkv", ("query", "key", "value"), strict=True):
        if call["in_proj_weight"] is None:
            yield call[x], call[f"{part}_proj_weight"], None if call["in_proj_bias"] is None else _bias(call, part)
    yield heads_output(call)[0], call["out_proj_weight"], call["out_proj_bias"]


def _bias(call: Bound, part: str) -> th.Tensor:
    return call["in_proj_bias"].chunk(3)["qkv".index(part)]


def label_attention(tracer: LabelTracer, call: Bound, out: Any, read: str) -> None:
    """
    Record what belongs to the heads of attention, and to the features that it reads and gives out.

    :param tracer: where labels are kept.
    :param call: the call.
    :param out: what it returned.
    :param read: why columns that read no units stay.
    """
    given = {name: call[name] for name in (*_WEIGHTS, *_BIASES) if call[name] is not None}
    known = all(id(tensor) in tracer.names for tensor in given.values()) and id(call["out_proj_weight"]) in tracer.attention
    if not known or call["static_k"] is not None or call["static_v"] is not None:
        for tensor in call.values():
            tracer.freeze_tensor(tensor, OF_ITS_OWN)
        return
    axes = {name: tracer.axes_of[tracer.names[id(tensor)]] for name, tensor in given.items()}
    rows, heads = axes["out_proj_weight"]
    by_head = heads.reshape(call["num_heads"], -1)
    for place in range(1, by_head.shape[1]):
        tracer.tie(by_head[:, 0], by_head[:, place], read)
    for name in given.keys() - {"out_proj_weight", "out_proj_bias"}:
        own = axes[name][-1 if name in ("bias_k", "bias_v") else 0]
        for block in np.split(own, len(own) // len(heads)):
            tracer.tie(heads, block, read)
    if "out_proj_bias" in axes:
        tracer.tie(rows, axes["out_proj_bias"][0], read)
    by_mask = call["attn_mask"] is not None and call["attn_mask"].dim() == 3
    if by_mask or (call["need_weights"] and not call["average_attn_weights"]):
        tracer.freeze(heads, BY_HEAD)
    positions: dict[str, int] = {}
    for part, x in zip("qkv", ("query", "key", "value"), strict=True):
        name = f"{part}_proj_weight" if call["in_proj_weight"] is None else "in_proj_weight"
        received = tracer.axes(call[x])
        tracer.tie(axes[name][1], None if received is None else received[-1], read)
        for axis in () if received is None else received[:-1]:
            tracer.freeze(axis, BY_HEAD)
        positions[name] = positions.get(name, 0) + call[x].numel() // call[x].shape[-1]
    for name, count in (positions | {"out_proj_weight": out[0].numel() // len(rows)}).items():
        key, blocks = tracer.names[id(given[name])], len(axes[name][0]) // len(heads) if name == "in_proj_weight" else 1
        tracer.applications[key] = tracer.applications.get(key, 0) + count // blocks
        tracer.producer_axis[key], tracer.consumer_axis[key] = 0, 1
        tracer.gates[key] = blocks
        tracer.composite.add(key)
    tracer.label(out[0], (*[None] * (out[0].dim() - 1), rows))
