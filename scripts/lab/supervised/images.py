"""Colour images with labels: kept as bytes, scaled and augmented batch by batch."""

from collections.abc import Sequence
from typing import Any

import torch as th
import torch.nn.functional as F  # noqa: N812
from torch.utils.data import Dataset

from lab.supervised.data import Data, shares_of

PADDING = 4
"""Pixels by which a training image is shifted at most."""
N_STATISTICS = 1000
"""Images that mean and deviation are taken from."""


class Images(Dataset):
    """
    Images as float32 with mean 0 and variance 1 in every channel, and their labels.

    :param pixels: takes a tensor of numbers and returns bytes of shape (images, channels, height, width).
    :param labels: int64 classes of all images.
    :param rows: the images that belong to this part.
    :param scale: mean and deviation by channel, of bytes.
    :param augmented: whether images are shifted and mirrored at random.
    """

    def __init__(
        self, pixels: Any, labels: th.Tensor, rows: th.Tensor, scale: tuple[th.Tensor, th.Tensor], augmented: bool = False
    ) -> None:
        self.pixels, self.labels, self.rows, self.scale, self.augmented = pixels, labels, rows, scale, augmented

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | Sequence[int]) -> tuple[th.Tensor, th.Tensor]:
        if isinstance(index, int):
            images, labels = self[[index]]
            return images[0], labels[0]
        rows = self.rows[list(index)]
        mean, deviation = (value[:, None, None] for value in self.scale)
        images = (self.pixels[rows].float() - mean) / deviation
        return shifted_and_mirrored(images) if self.augmented else images, self.labels[rows]


def shifted_and_mirrored(images: th.Tensor) -> th.Tensor:
    """
    Shift every image by up to :data:`PADDING` pixels and mirror every other one, drawn from torch's global generator.

    :param images: shape (images, channels, height, width).
    :return: the same shape; what comes in from outside is 0.
    """
    n, channels, height, width = images.shape
    padded = F.pad(images, (PADDING,) * 4)
    shifts = th.randint(2 * PADDING + 1, (2, n, 1))
    rows = shifts[0] + th.arange(height)
    columns = shifts[1] + th.arange(width)
    columns = th.where(th.rand(n, 1) < 0.5, columns, columns.flip(1))
    every, channel = th.arange(n)[:, None, None, None], th.arange(channels)[:, None, None]
    return padded[every, channel, rows[:, None, :, None], columns[:, None, None, :]]


def image_data(
    train: tuple[Any, th.Tensor], test: tuple[Any, th.Tensor], shape: tuple[int, ...], n_classes: int, augmented: bool
) -> Data:
    """
    A data set of two published parts; every tenth training image is kept for validation.

    :param train: pixels and labels, see :class:`Images`.
    :param test: the same.
    :param shape: channels, height and width.
    :param n_classes: number of classes.
    :param augmented: whether training images are shifted and mirrored.
    :return: the data set.
    """
    learnt, validation = shares_of(len(train[1]), (0.9,))
    sample = train[0][learnt[:N_STATISTICS]].float().movedim(1, 0).flatten(1)
    scale = sample.mean(1), sample.std(1).clamp_min(1.0)
    return Data(
        "classification",
        Images(*train, learnt, scale, augmented),
        Images(*train, validation, scale),
        Images(*test, th.arange(len(test[1])), scale),
        shape,
        n_classes,
    )
