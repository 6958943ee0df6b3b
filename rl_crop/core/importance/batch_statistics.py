"""At initialisation, norms compute with the statistics of the batch when a loss is scored, as they do when it is trained."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import nn

from rl_crop.core.importance.curvature import BatchLoss

_STATISTICS = (("running_mean", "running_var"), ("ra_mean", "ra_var"))
"""Names of buffers that norms fill while training: of PyTorch's, and of sb3-contrib's BatchRenorm."""


def as_trained(loss: BatchLoss | None, modules: Iterable[nn.Module]) -> BatchLoss | None:
    """
    A loss whose norms use the statistics of the batch, where they have none of their own yet.

    SNIP, GraSP, CroP and FORCE score a network at initialisation in training mode. With the means 0 and variances 1 that a
    norm begins with, evaluation mode would be another network. Norms that have seen data keep to what they have seen.

    :param loss: scalar loss of a batch, or ``None``.
    :param modules: that are trained; in evaluation mode when the loss is called.
    :return: the same, where no norm is without statistics.
    """
    empty = [module for module in modules if _has_seen_nothing(module)]
    if loss is None or not empty:
        return loss

    def with_batch_statistics(batch: Any) -> th.Tensor:
        with _by_batch(empty):
            return loss(batch)

    return with_batch_statistics


def _has_seen_nothing(module: nn.Module) -> bool:
    for names in _STATISTICS:
        mean, variance = (getattr(module, name, None) for name in names)
        if isinstance(mean, th.Tensor) and isinstance(variance, th.Tensor) and hasattr(module, "momentum"):
            return bool((mean == 0).all() and (variance == 1).all())
    return False


@contextmanager
def _by_batch(norms: list[Any]) -> Iterator[None]:
    before = [(norm, norm.training, norm.momentum) for norm in norms]
    try:
        for norm in norms:
            norm.training, norm.momentum = True, 0.0  # and its own statistics stay as they are
        yield
    finally:
        for norm, training, momentum in before:
            norm.training, norm.momentum = training, momentum
