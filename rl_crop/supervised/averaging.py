"""Averaged weights: a copy of a model that follows it as an exponential moving average."""

from copy import deepcopy
from typing import Any

import torch as th
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import named_tensors


def check_average(average: Any) -> None:
    """:raises PruningError: it is no number in [0, 1)."""
    if isinstance(average, bool) or not isinstance(average, (int, float)) or not 0 <= average < 1:
        raise PruningError(f"average={average!r} must be a number in [0, 1): 0 measures the weights as they are.")


class WeightAverage:
    """
    The averaged copy of a model. What cuts or masks the model has to do the same to ``model``, a mirror of it.

    It is a plain copy and no ``AveragedModel`` of torch, whose parameters have other names than a mirror must have, and
    whose update broadcasts without a word between a model that was cut and an average that was not.

    :param model: what is followed; its weights of now are the first average.
    :param decay: share of the old average in the new one, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = deepcopy(model).requires_grad_(False)
        self.decay, self.n_updates = decay, 0

    def update(self, model: nn.Module) -> None:
        """
        Take in the weights after a step: average ← d · average + (1 − d) · w, d = min(decay, (1 + n) / (10 + n)) after n
        updates, so that the weights of the beginning are soon forgotten. Buffers are copied.

        :param model: the model that is followed.
        :raises PruningError: units were cut out of one of the two only; nothing was changed.
        """
        tensors, own = named_tensors(model), named_tensors(self.model)
        wrong = sorted(name for name, tensor in tensors.items() if own[name].shape != tensor.shape)
        if wrong:
            raise PruningError(f"{wrong} have been cut, but not in the averaged model: it is a mirror, to be cut along.")
        new = 1.0 - min(self.decay, (1 + self.n_updates) / (10 + self.n_updates))
        with th.no_grad():
            for name, tensor in tensors.items():
                if isinstance(tensor, nn.Parameter) and tensor.is_floating_point():
                    own[name].lerp_(tensor, new)  # of two zeros it is zero: masks hold
                else:
                    own[name].copy_(tensor)
        self.n_updates += 1
