"""What is minimised and what is measured, by kind of task; every measure is better when higher."""

from collections.abc import Callable
from dataclasses import dataclass

import torch as th
import torch.nn.functional as F  # noqa: N812

Compare = Callable[[th.Tensor, th.Tensor], th.Tensor]
"""A scalar of a model's outputs and the targets."""


@dataclass(frozen=True)
class Objective:
    """
    :param loss: what training minimises.
    :param metric: what is measured over a whole part of the data.
    :param name: of the measure, with its unit.
    """

    loss: Compare
    metric: Compare
    name: str


def cross_entropy(outputs: th.Tensor, targets: th.Tensor, label_smoothing: float = 0.0) -> th.Tensor:
    """
    :param outputs: logits, shape (..., classes), or (..., exits, classes) of a network with several exits.
    :param targets: classes, shape (...).
    :param label_smoothing: share of the target spread over all classes.
    :return: the mean, over exits too, in nats.
    """
    classes = _for_every_exit(outputs, targets).flatten()
    return F.cross_entropy(outputs.flatten(0, -2), classes, label_smoothing=label_smoothing)


def accuracy(outputs: th.Tensor, targets: th.Tensor) -> th.Tensor:
    """:return: the share of targets that are the largest output; the mean over exits where there are several."""
    return (outputs.argmax(-1) == _for_every_exit(outputs, targets)).double().mean()


def _for_every_exit(outputs: th.Tensor, targets: th.Tensor) -> th.Tensor:
    return targets.reshape(*targets.shape, *[1] * (outputs.dim() - 1 - targets.dim())).expand(outputs.shape[:-1])


def explained_variance(outputs: th.Tensor, targets: th.Tensor) -> th.Tensor:
    """:return: R², 1 where outputs equal targets, 0 for their mean."""
    return 1 - ((outputs - targets) ** 2).sum() / ((targets - targets.mean(0)) ** 2).sum()


def peak_signal_to_noise(outputs: th.Tensor, targets: th.Tensor) -> th.Tensor:
    """:return: PSNR in dB, of colours in [0, 1]."""
    return -10 * th.log10(((outputs.clamp(0, 1) - targets) ** 2).mean())


def negative_bits(outputs: th.Tensor, targets: th.Tensor) -> th.Tensor:
    """:return: minus the bits that a character takes under the model."""
    return -cross_entropy(outputs, targets) / th.log(th.tensor(2.0))


OBJECTIVES: dict[str, Objective] = {
    "classification": Objective(cross_entropy, accuracy, "accuracy"),
    "regression": Objective(F.mse_loss, explained_variance, "R2"),
    "image": Objective(F.mse_loss, peak_signal_to_noise, "PSNR in dB"),
    "language": Objective(cross_entropy, negative_bits, "minus bits per character"),
}
"""Objectives by the kind of a data set."""
