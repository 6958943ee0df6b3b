"""
What a loss does with what a network hands to it, beside its outputs: hidden features, and the weights themselves.

A penalty that sums over all units has fewer terms after a cut, and stays what it is. Whatever else a loss does with features
asks for each of them, so they are outputs.
"""

from collections.abc import Callable
from typing import Any

import torch as th

from rl_crop.core.graph.tracer import LabelTracer

FEATURES = "its units are features that the loss looks at"

_TOTALS = frozenset("sum mean norm vector_norm matrix_norm linalg_norm linalg_vector_norm amax amin max min std var".split())
_COMPARISONS = frozenset(
    """mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy binary_cross_entropy_with_logits kl_div
    soft_margin_loss poisson_nll_loss gaussian_nll_loss""".split()
)
_LAID_OUT = frozenset("view reshape flatten ravel cat concat concatenate hstack stack t mT T transpose permute".split())


def in_loss(
    tracer: LabelTracer,
    name: str,
    args: tuple,
    out: Any,
    labelled: list[th.Tensor],
    elementwise: Callable[..., None],
) -> bool:
    """
    Follow a call that a loss makes outside of every module.

    :param name: the call's plain name.
    :param elementwise: the rule of calls on each element.
    :return: whether the call is settled here.
    """
    if name in _TOTALS and (out.dim() == 0 or all(_is_weight(tracer, x) for x in labelled)):
        return True  # over all units, or over parts of a weight (a group penalty)
    if name in _LAID_OUT and all(_is_weight(tracer, x) for x in labelled):
        return True  # weights side by side, of which a total is taken
    if name in _COMPARISONS:
        shape = th.broadcast_shapes(*(x.shape for x in args[:2]))
        elementwise(tracer, args[:2], {}, th.empty(shape, device="meta"))
        return True
    return False


def _is_weight(tracer: LabelTracer, x: th.Tensor) -> bool:
    """Whether every axis has labels, as in parameters and what is computed of each element; activations have rows."""
    return all(axis is not None for axis in tracer.axes(x) or (None,))
