"""Data sets that come with scikit-learn: digits (classes), diabetes and Friedman's functions (regression)."""

import torch as th

from lab.supervised.data import Data, split_tensors
from rl_crop.core.errors import PruningError
from rl_crop.optional import require


def digits() -> Data:
    """:return: 1,797 handwritten digits, one channel of 8 by 8 pixels."""
    pixels, labels = require("sklearn.datasets", "supervised").load_digits(return_X_y=True)
    images = th.as_tensor(pixels, dtype=th.float32).reshape(-1, 1, 8, 8)
    return split_tensors("classification", images, th.as_tensor(labels, dtype=th.int64), 10)


def diabetes() -> Data:
    """:return: 442 patients, 10 measurements, progression of the disease."""
    inputs, targets = require("sklearn.datasets", "supervised").load_diabetes(return_X_y=True)
    return split_tensors("regression", th.as_tensor(inputs), th.as_tensor(targets)[:, None], 1)


def friedman(n: int = 2000, number: int = 1, noise: float = 1.0) -> Data:
    """
    Friedman's regression problems, with inputs that have no effect among the ten of the first.

    :param n: pairs.
    :param number: 1, 2 or 3.
    :param noise: standard deviation of the noise on the targets.
    :return: the data set.
    """
    if number not in (1, 2, 3):
        raise PruningError(f"number={number!r} must be 1, 2 or 3: Friedman's problems.")
    make = getattr(require("sklearn.datasets", "supervised"), f"make_friedman{number}")
    inputs, targets = make(n, noise=noise, random_state=0)
    return split_tensors("regression", th.as_tensor(inputs), th.as_tensor(targets)[:, None], 1)
