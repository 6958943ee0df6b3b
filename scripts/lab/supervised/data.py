"""What a supervised task learns from: three parts of one data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch as th
from torch.utils.data import Dataset, TensorDataset

from rl_crop.core.errors import PruningError


class DataError(PruningError):
    """A file of a data set that cannot be read as what it should be."""


class MissingDataError(DataError):
    """A data set whose files are not there."""


@dataclass(frozen=True)
class Data:
    """
    A data set.

    :param kind: what is learnt: a key of :data:`~rl_crop.supervised.objectives.OBJECTIVES`.
    :param train: pairs of inputs and targets; like the other two it takes a number, or a list of numbers for a batch.
    :param validation: pairs that a method may look at.
    :param test: pairs for the final result alone.
    :param input_shape: of one observation.
    :param n_outputs: classes, targets or characters.
    """

    kind: str
    train: Dataset
    validation: Dataset
    test: Dataset
    input_shape: tuple[int, ...]
    n_outputs: int


def shares_of(n: int, shares: Sequence[float]) -> list[th.Tensor]:
    """
    Disjoint random numbers below n, the same at every call.

    :param n: how many there are.
    :param shares: of each part but the last, which gets the rest.
    :return: the parts.
    """
    order = th.randperm(n, generator=th.Generator().manual_seed(0))
    return list(order.split([*(sizes := [round(share * n) for share in shares]), n - sum(sizes)]))


def split_tensors(kind: str, inputs: th.Tensor, targets: th.Tensor, n_outputs: int) -> Data:
    """
    A data set that fits in memory: 60 % to learn from, 10 % for validation, 30 % for the test.

    Inputs, and targets that are not classes, are shifted and scaled to mean 0 and variance 1 of the first part.

    :param kind: see :class:`Data`.
    :param inputs: shape (pairs, ...); statistics are over pairs.
    :param targets: int64 classes of shape (pairs,), or float of shape (pairs, n_outputs).
    :param n_outputs: see :class:`Data`.
    :return: the data set.
    """
    parts = shares_of(len(inputs), (0.6, 0.1))
    inputs = standardised(inputs, parts[0])
    targets = standardised(targets, parts[0]) if targets.is_floating_point() else targets
    return in_memory(kind, inputs, targets, parts, n_outputs)


def in_memory(kind: str, inputs: th.Tensor, targets: th.Tensor, parts: Sequence[th.Tensor], n_outputs: int) -> Data:
    """
    :param kind: see :class:`Data`.
    :param inputs: of all pairs.
    :param targets: of all pairs.
    :param parts: the pairs of each of the three parts.
    :param n_outputs: see :class:`Data`.
    :return: the data set.
    """
    train, validation, test = (TensorDataset(inputs[part], targets[part]) for part in parts)
    return Data(kind, train, validation, test, tuple(inputs.shape[1:]), n_outputs)


def standardised(values: th.Tensor, rows: th.Tensor) -> th.Tensor:
    """:return: values with mean 0 and variance 1 over the given rows, float32; what is constant there becomes 0."""
    values = values.double()
    mean, deviation = values[rows].mean(0), values[rows].std(0)
    return ((values - mean) / deviation.where(deviation > 0, deviation.new_tensor(th.inf))).float()


def existing_file(path: Path, name: str) -> Path:
    """:return: the path; raises :class:`MissingDataError` where there is no such file."""
    if not path.is_file():
        raise MissingDataError(f"{name}: the file {path} is not there.")
    return path
