import pytest

from rl_crop.core.errors import PruningError
from rl_crop.core.schedules import gradual_sparsities, halving_sparsities, relative_sparsity


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
    assert shares == sorted(shares) and halving_sparsities(0.9, start=0.1)[0] == pytest.approx(0.1)


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
