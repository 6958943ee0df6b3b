"""Statistics of returns. Every random draw comes from a seeded generator, so a figure can be made again."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import trim_mean


def interquartile_mean(values: ArrayLike) -> float:
    """
    The mean of the middle half: less swayed by single runs than the mean, less wasteful than the median.

    :param values: numbers in an array of any shape
    :return: their mean without the lowest and the highest quarter
    """
    return float(trim_mean(np.asarray(values, dtype=np.float64), 0.25, axis=None))


def bootstrap_interval(values: ArrayLike, level: float = 0.95, n_samples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """
    A percentile bootstrap interval of the interquartile mean.

    :param values: independent numbers
    :param level: the interval's confidence
    :param n_samples: bootstrap samples
    :param seed: seeds the resampling
    :return: the lower and the upper bound
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    draws = np.random.default_rng(seed).integers(len(array), size=(n_samples, len(array)))
    means = trim_mean(array[draws], 0.25, axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
