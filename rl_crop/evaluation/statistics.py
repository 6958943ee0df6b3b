"""
Statistics of returns. Every random draw comes from a seeded generator, so a figure can be made again.

Of every interval, ``level`` is the confidence, ``n_samples`` the number of bootstrap samples, and ``seed`` of their drawing;
it is returned as its lower and its upper bound.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL, N_SAMPLES = 0.95, 2000


def interquartile_mean(values: ArrayLike) -> float:
    """
    The mean of the middle half: less swayed by single runs than the mean, less wasteful than the median.

    :param values: numbers in an array of any shape
    :return: their mean without the lowest and the highest quarter
    """
    return float(_middle_means(np.asarray(values, dtype=np.float64).ravel()))


def worst_tenth(values: ArrayLike) -> float:
    """
    The mean of the lowest tenth: what to expect when things go badly.

    :param values: numbers
    :return: the mean of the lowest 10 % of them, rounded up to whole numbers of values
    """
    array = np.sort(np.asarray(values, dtype=np.float64), axis=None)
    return float(array[: -(-len(array) // 10)].mean())


def mean_interval(values: ArrayLike, level: float = LEVEL, n_samples: int = N_SAMPLES, seed: int = 0) -> tuple[float, float]:
    """
    A percentile bootstrap interval of the mean.

    :param values: independent numbers
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    draws = array[_indices(np.random.default_rng(seed), n_samples, len(array))]
    return _bounds(draws.mean(axis=1), level)


def bootstrap_interval(
    values: ArrayLike, level: float = LEVEL, n_samples: int = N_SAMPLES, seed: int = 0
) -> tuple[float, float]:
    """
    A percentile bootstrap interval of the interquartile mean.

    :param values: independent numbers
    """
    return stratified_interval([values], level, n_samples, seed)


def stratified_interval(
    strata: Sequence[ArrayLike], level: float = LEVEL, n_samples: int = N_SAMPLES, seed: int = 0
) -> tuple[float, float]:
    """
    A stratified percentile bootstrap interval of the interquartile mean of all values together.

    :param strata: the values by environment; each is resampled by itself, so that every sample has as many of each
    """
    arrays = [np.asarray(values, dtype=np.float64).ravel() for values in strata]
    generator = np.random.default_rng(seed)
    draws = np.concatenate([array[_indices(generator, n_samples, len(array))] for array in arrays], axis=1)
    return _bounds(_middle_means(draws), level)


def normalise(values: ArrayLike, random: float, dense: float) -> NDArray[np.float64]:
    """
    Returns on the scale where a random policy is 0 and the dense agent is 1.

    :param values: returns
    :param random: the return of a random policy
    :param dense: the return of the dense agent
    :return: an array of the same shape
    :raises ValueError: the dense agent is no better than the random policy, so there is no scale
    """
    if not dense > random:
        raise ValueError(f"dense ({dense:g}) is not above random ({random:g}): returns cannot be normalised")
    return (np.asarray(values, dtype=np.float64) - random) / (dense - random)


def probability_of_improvement(ours: ArrayLike, theirs: ArrayLike) -> float:
    """
    How often a run of one arm beats a run of another, over all pairs of runs; a tie counts as one half.

    :param ours: scores of the first arm
    :param theirs: scores of the second arm
    :return: 0.5 where nothing tells them apart, 1 where every run beats every other
    """
    return float(_comparisons(ours, theirs).mean())


def improvement_interval(pairs: Sequence[tuple[ArrayLike, ArrayLike]]) -> tuple[float, float]:
    """
    A stratified bootstrap interval of the probability of improvement, averaged over environments.

    Runs of one seed share their start (and a small dense network its widths), so seeds are drawn for both arms at once.

    :param pairs: by environment, the scores of both arms on the same seeds in the same order
    """
    generator = np.random.default_rng(0)
    total = np.zeros(N_SAMPLES)
    for ours, theirs in pairs:
        wins = _comparisons(ours, theirs)
        if wins.shape[0] != wins.shape[1]:
            raise ValueError(f"{wins.shape[0]} and {wins.shape[1]} scores: seeds must be paired")
        drawn = _indices(generator, N_SAMPLES, len(wins))
        total += wins[drawn[:, :, None], drawn[:, None, :]].mean(axis=(1, 2))
    return _bounds(total / len(pairs), LEVEL)


def performance_profile(strata: Sequence[ArrayLike], thresholds: ArrayLike) -> NDArray[np.float64]:
    """
    The share of runs above each threshold, averaged over environments.

    :param strata: normalised scores by environment
    :param thresholds: where to look
    :return: one share a threshold
    """
    marks = np.asarray(thresholds, dtype=np.float64)
    return np.mean([(np.asarray(values)[:, None] > marks).mean(axis=0) for values in strata], axis=0)


def profile_interval(strata: Sequence[ArrayLike], thresholds: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """
    Pointwise stratified bootstrap bounds of a performance profile.

    :param strata: normalised scores by environment
    :param thresholds: where to look
    :return: bounds of one number a threshold each
    """
    generator = np.random.default_rng(0)
    marks = np.asarray(thresholds, dtype=np.float64)
    total = np.zeros((N_SAMPLES, len(marks)))
    for values in strata:
        above = np.asarray(values)[:, None] > marks
        total += above[_indices(generator, N_SAMPLES, len(above))].mean(axis=1)
    low, high = _percentiles(total / len(strata), LEVEL)
    return low, high


def _comparisons(ours: ArrayLike, theirs: ArrayLike) -> NDArray[np.float64]:
    first, second = np.asarray(ours, dtype=np.float64)[:, None], np.asarray(theirs, dtype=np.float64)[None, :]
    return (first > second) + 0.5 * (first == second)


def _indices(generator: np.random.Generator, n_samples: int, size: int) -> NDArray[np.int64]:
    return generator.integers(size, size=(n_samples, size))


def _percentiles(samples: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    return np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)


def _bounds(samples: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = _percentiles(samples, level)
    return float(low), float(high)


def _middle_means(array: NDArray[np.float64]) -> NDArray[np.float64]:
    # As scipy's trim_mean, whose import would take a fifth of the time in which the process of a cell starts
    n = array.shape[-1]
    cut = n // 4
    middle: NDArray[np.float64] = np.sort(array, axis=-1)[..., cut : n - cut].mean(axis=-1)
    return middle
