import numpy as np
import pytest

from rl_crop.evaluation.statistics import bootstrap_interval, interquartile_mean


def test_interquartile_mean_of_known_values():
    assert interquartile_mean([0, 1, 2, 3]) == 1.5
    assert interquartile_mean([-1000, 4, 4, 4, 4, 4, 4, 1000]) == 4
    assert interquartile_mean([[7.0]]) == 7
    assert interquartile_mean(np.arange(12).reshape(3, 4)) == pytest.approx(5.5)


def test_interval_is_seeded_covers_the_truth_and_narrows_with_data():
    values = np.random.default_rng(1).normal(3.0, 1.0, size=400)
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values) != bootstrap_interval(values, seed=1)
    assert low < 3.0 < high
    few_low, few_high = bootstrap_interval(values[:20])
    assert few_high - few_low > 2 * (high - low)
    assert bootstrap_interval([5.0, 5.0]) == (5.0, 5.0)


def test_interval_is_as_wide_as_repeated_sampling_says():
    generator = np.random.default_rng(2)
    spread = np.std([interquartile_mean(generator.uniform(size=100)) for _ in range(2000)])
    widths = [np.diff(bootstrap_interval(generator.uniform(size=100), seed=seed))[0] for seed in range(20)]
    assert np.mean(widths) == pytest.approx(2 * 1.96 * spread, rel=0.15)
