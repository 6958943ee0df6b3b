import pytest

from rl_crop.core.errors import PruningError
from rl_crop.core.pruning.schedules import (
    INNER,
    SCHEDULES,
    ScheduleOptions,
    alternating_sparsity,
    cubic_sparsity,
    gradual_sparsities,
    halving_sparsities,
    relative_sparsity,
)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.51, 0.9, 0.95, 0.99, 0.999])
@pytest.mark.parametrize("n_events", [1, 2, 4, 7])
def test_gradual_events_grow_to_exactly_the_target_by_equal_factors(sparsity, n_events):
    shares = gradual_sparsities(sparsity, n_events)
    left = [1.0, *(1.0 - share for share in shares)]
    assert len(shares) == n_events and shares[-1] == sparsity
    for before, after in zip(left, left[1:], strict=False):
        assert after / before == pytest.approx((1.0 - sparsity) ** (1 / n_events))


@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.5, 0.51, 0.9, 0.99])
def test_halving_steps_are_the_papers(sparsity):
    """s_i = ρ − (ρ − s_0) · 0.5^i for i = 0..5, then ρ."""
    start = 0.5 if sparsity > 0.5 else sparsity / 2
    shares = halving_sparsities(sparsity)
    assert shares[-1] == sparsity and len(shares) == 7
    assert shares[:6] == pytest.approx([sparsity - (sparsity - start) * 0.5**i for i in range(6)])
    assert shares == sorted(shares)


def test_relative_sparsities_multiply_to_the_target():
    left = 1.0
    reached = 0.0
    for target in gradual_sparsities(0.97, 5):
        left *= 1.0 - relative_sparsity(target, reached)
        reached = target
    assert left == pytest.approx(0.03)
    assert relative_sparsity(0.5, 0.0) == 0.5 and relative_sparsity(0.5, 0.5) == 0.0
    with pytest.raises(PruningError, match="0.6 is gone already"):
        relative_sparsity(0.5, 0.6)


def test_a_cubic_goes_from_its_start_to_the_target_fast_at_first():
    assert cubic_sparsity(0.9, 0.5, 0.0) == pytest.approx(0.5) and cubic_sparsity(0.9, 0.5, 1.0) == 0.9
    assert cubic_sparsity(0.8, 0.0, 0.5) == pytest.approx(0.8 * (1 - 0.125)) and cubic_sparsity(0.8, 0.0, 7.0) == 0.8
    shares = [cubic_sparsity(0.9, 0.0, x / 20) for x in range(21)]
    steps = [after - before for before, after in zip(shares, shares[1:], strict=False)]
    assert steps == sorted(steps, reverse=True) and min(steps) > 0


@pytest.mark.parametrize("n_phases", [1, 2, 5])
def test_sparse_and_dense_phases_alternate_and_sparse_comes_last(n_phases):
    shares = [alternating_sparsity(0.9, x / 1000, n_phases) for x in range(1001)]
    turns = [shares[0]] + [after for before, after in zip(shares, shares[1:], strict=False) if after != before]
    assert turns == [0.9, 0.0] * (n_phases - 1) + [0.9]
    assert n_phases == 1 or shares.count(0.0) == pytest.approx(500, abs=3)


def test_steps_within_an_event_end_at_its_sparsity():
    options = ScheduleOptions(n_steps=4)
    assert INNER["none"](0.9, options) == [0.9] and INNER["halving"](0.9, options) == halving_sparsities(0.9)
    left = [1.0, *(1 - share for share in INNER["exponential"](0.99, options))]
    assert [b / a for a, b in zip(left, left[1:], strict=False)] == pytest.approx([0.01**0.25] * 4)


def test_a_schedule_says_what_is_gone_at_any_time():
    options = ScheduleOptions(n_events=3, n_phases=2, start=0.1)

    def at(schedule, x):
        return SCHEDULES[schedule].due(0.9, x, options)

    assert at("once", 0.0) == at("constant", 0.3) == 0.9 and at("cubic", 0.0) == pytest.approx(0.1)
    assert [at("gradual", x) for x in (0.0, 0.49, 0.5, 0.99, 1.0)] == [gradual_sparsities(0.9, 3)[n] for n in (0, 0, 1, 1, 2)]
    assert [at("alternating", x) for x in (0.0, 0.6, 1.0)] == [0.9, 0.0, 0.9]
    counts = {name: schedule.n_events and schedule.n_events(options) for name, schedule in SCHEDULES.items()}
    assert counts == {"once": 1, "gradual": 3, "cubic": None, "alternating": 3, "constant": None}
