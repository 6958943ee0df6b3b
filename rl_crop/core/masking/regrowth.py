"""What comes back: kept weights of least magnitude are dropped, and as many others grow."""

import math
from collections.abc import Mapping

import torch as th

from rl_crop.core.masking.distributions import highest
from rl_crop.core.masking.masks import Keep

REGROW = ("none", "gradient", "random")
"""What comes back first: nothing, where the gradient is largest, or at random (see ``Weights.growth``)."""


def regrown_share(start: float, end: float, x: float) -> float:
    """
    :param start: share of the kept weights that is exchanged at x = 0.
    :param end: at x = 1.
    :param x: how much of the schedule has passed.
    :return: the share now, along half a cosine (RigL, ICML 2020).
    """
    return end + (start - end) * (1.0 + math.cos(math.pi * min(max(x, 0.0), 1.0))) / 2.0


def drop_and_grow(keep: Keep, magnitude: Mapping[str, th.Tensor], growth: Mapping[str, th.Tensor], share: float) -> Keep:
    """
    Exchange a share of every tensor's kept weights.

    :param keep: the masks.
    :param magnitude: of the weights; the least go, what is infinite stays.
    :param growth: what grows where it is highest, among all that is masked then (what was just dropped included).
    :param share: of the kept weights.
    :return: masks that keep exactly as many weights of every tensor.
    """
    found = {}
    for name, mask in keep.items():
        n_kept, shape, lowest = int(mask.sum()), mask.shape, -math.inf
        n_safe = int(magnitude[name][mask].isinf().sum())
        n_grown = min(round(share * n_kept), mask.numel() - n_kept, n_kept - n_safe)
        stay = highest(magnitude[name].masked_fill(~mask, lowest).flatten(), n_kept - n_grown).reshape(shape)
        found[name] = stay | highest(growth[name].masked_fill(stay, lowest).flatten(), n_grown).reshape(shape)
    return found
