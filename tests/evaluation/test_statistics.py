import itertools

import numpy as np
import pytest
from scipy import stats

from rl_crop.evaluation.statistics import (
    bootstrap_interval,
    improvement_interval,
    interquartile_mean,
    mean_interval,
    normalise,
    performance_profile,
    probability_of_improvement,
    profile_interval,
    stratified_interval,
    worst_tenth,
)


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


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_interval_agrees_with_scipy(level):
    values = np.random.default_rng(3).normal(100.0, 10.0, size=40)
    ours = bootstrap_interval(values, level, n_samples=20_000)
    theirs = stats.bootstrap(
        (values,), lambda x, axis: stats.trim_mean(x, 0.25, axis=axis), confidence_level=level, method="percentile",
        n_resamples=20_000, vectorized=True, rng=np.random.default_rng(4),
    ).confidence_interval  # fmt: skip
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.12)


def test_interval_of_three_values_is_that_of_all_27_samples():
    """With three values the trimmed mean is the mean, and the bootstrap distribution is known exactly."""
    exact = np.sort([np.mean(sample) for sample in itertools.product([1.0, 2.0, 6.0], repeat=3)])
    # 1/27 = 3.7 % of all samples are three times the lowest value: the 2.5 % quantile is that value.
    assert bootstrap_interval([1.0, 2.0, 6.0]) == (exact[0], exact[-1]) == (1.0, 6.0)
    low, high = bootstrap_interval([1.0, 2.0, 6.0], level=0.5, n_samples=20_000)
    assert (low, high) == pytest.approx(np.quantile(exact, [0.25, 0.75], method="inverted_cdf"))


def test_strata_are_resampled_by_themselves():
    # All that varies is between environments, and that is not resampled.
    assert stratified_interval([[0.0] * 5, [1.0] * 5]) == (0.5, 0.5)
    low, high = bootstrap_interval([0.0] * 5 + [1.0] * 5)
    assert low < 0.3 and high > 0.7
    values = np.random.default_rng(5).normal(size=30)
    assert stratified_interval([values]) == bootstrap_interval(values)


def test_normalised_returns():
    assert normalise([-100.0, 0.0, 100.0, 200.0], random=-100.0, dense=100.0).tolist() == [0.0, 0.5, 1.0, 1.5]
    for dense in (-100.0, -101.0, float("nan")):
        with pytest.raises(ValueError, match="not above random"):
            normalise([1.0], random=-100.0, dense=dense)


@pytest.mark.parametrize(
    "ours,theirs,expected",
    [
        ([1, 2], [0, 0], 1.0),
        ([1, 2], [3], 0.0),
        ([5, 5], [5, 5, 5], 0.5),
        ([1, 3], [2, 3], (0 + 0 + 1 + 0.5) / 4),
        ([500, 500, 146], [500, 500, 500], 2 * 3 * 0.5 / 9),  # ties cap what can be reached
    ],
)
def test_probability_of_improvement_by_hand(ours, theirs, expected):
    assert probability_of_improvement(ours, theirs) == pytest.approx(expected)
    assert probability_of_improvement(theirs, ours) == pytest.approx(1 - expected)


def test_probability_of_improvement_is_the_statistic_of_mann_and_whitney():
    generator = np.random.default_rng(6)
    ours, theirs = generator.integers(0, 6, size=12), generator.integers(0, 5, size=9)
    statistic = stats.mannwhitneyu(ours, theirs).statistic
    assert probability_of_improvement(ours, theirs) == pytest.approx(statistic / (12 * 9))


def test_interval_of_the_probability_of_improvement():
    assert improvement_interval([([1, 2, 3], [0, 0, 0])]) == (1.0, 1.0)
    assert improvement_interval([([1, 2, 3], [0, 0, 0]), ([0, 0], [1, 2])]) == (0.5, 0.5)
    generator = np.random.default_rng(7)
    ours, theirs = generator.normal(0.5, 1.0, size=20), generator.normal(size=20)
    low, high = improvement_interval([(ours, theirs)])
    assert low < probability_of_improvement(ours, theirs) < high
    assert (low, high) == improvement_interval([(ours, theirs)])
    with pytest.raises(ValueError, match="paired"):
        improvement_interval([([1, 2], [1, 2, 3])])


def test_pairs_of_a_seed_stay_together():
    """Returns that are ordered by seed alone: drawn together they tie more than drawn apart."""
    shared = np.arange(10.0)
    low, high = improvement_interval([(shared, shared)])
    assert (low, high) == (0.5, 0.5)  # whatever seeds are drawn, both arms have the same values


def test_performance_profile_by_hand():
    shares = performance_profile([[0.0, 1.0], [0.5, 0.5, 0.5, 2.0]], [-1.0, 0.0, 0.5, 1.0, 2.0])
    assert shares.tolist() == [1.0, (0.5 + 1) / 2, (0.5 + 0.25) / 2, (0 + 0.25) / 2, 0.0]


def test_bounds_of_a_performance_profile():
    strata = [np.random.default_rng(8).uniform(size=50)]
    low, high = profile_interval(strata, [-1.0, 0.5, 2.0])
    assert (low[0], high[0]) == (1.0, 1.0) and (low[2], high[2]) == (0.0, 0.0)
    exact = stats.binom(50, performance_profile(strata, [0.5])[0]).ppf([0.025, 0.975]) / 50
    assert [low[1], high[1]] == pytest.approx(exact, abs=0.021)


def test_interval_of_the_mean_is_that_of_the_normal_law_where_there_are_many_values():
    values = np.random.default_rng(9).normal(3.0, 2.0, size=400)
    exact = stats.norm(values.mean(), values.std() / 20).ppf([0.025, 0.975])
    assert mean_interval(values) == pytest.approx(exact, abs=0.03)
    assert mean_interval(values) == mean_interval(values) != mean_interval(values, seed=1)
    assert mean_interval([4.0]) == (4.0, 4.0)


def test_worst_tenth():
    assert worst_tenth([3, 1, 2]) == 1
    assert worst_tenth(range(20, 0, -1)) == 1.5
    assert worst_tenth([*range(20), -3]) == -2 / 3  # 2.1 values are rounded up
