import pytest
import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.recipes.indicator import EarlyPruningIndicator, structure_similarity
from rl_crop.core.recipes.triggers import (
    TRIGGERS,
    DistanceTrigger,
    LazyTrigger,
    Watched,
)


def run(trigger, weights, steps, checks=60):
    """Move the weights by steps of given lengths; the check at which the trigger fires, or ``None``."""
    for check in range(checks):
        for name, tensor in weights.items():
            length = steps[name](check)
            with th.no_grad():
                tensor.add_(th.full_like(tensor, length / tensor.numel() ** 0.5))
        if trigger.look(dict):
            return check
    return None


def watched(kappa=0.3, names=("actor",)):
    weights = {name: th.ones(4, 4) for name in names}
    return LazyTrigger({name: [tensor] for name, tensor in weights.items()}, kappa), weights


def test_fires_when_the_steps_decay_and_not_at_constant_speed():
    trigger, weights = watched()
    # 0.9^n < 0.3 first at n = 12; three checks running.
    assert run(trigger, weights, {"actor": lambda check: 0.9**check}) == 14
    for steady in (lambda check: 1.0, lambda check: 1.0 + 0.5 * (check % 2), lambda check: 0.1 * check):
        trigger, weights = watched()
        assert run(trigger, weights, {"actor": steady}) is None


def test_distance_and_ratio_are_those_of_the_weights():
    trigger, weights = watched()
    start = weights["actor"].norm().item()
    run(trigger, weights, {"actor": lambda check: [2.0, 1.0, 0.5][check]}, checks=3)
    assert trigger.distance["actor"] == pytest.approx(3.5 / start) and trigger.ratio["actor"] == pytest.approx(0.25)


def test_a_network_that_something_else_has_cut_begins_anew():
    trigger, weights = watched(names=("actor", "critic"))
    run(trigger, weights, dict.fromkeys(weights, lambda check: 0.5**check), checks=4)
    weights["actor"].data = th.ones(2, 4)
    assert not trigger.look(dict) and trigger.distance["actor"] == 0.0 and trigger.below == {"actor": 0, "critic": 3}
    assert run(trigger, weights, dict.fromkeys(weights, lambda check: 0.5**check)) == 4


@pytest.mark.parametrize("stop", range(0, 14, 3))
def test_a_trigger_goes_on_from_the_state_of_another(stop):
    def steps(after):
        return {"actor": lambda check: 0.5 ** (check + after), "critic": lambda check: 0.9 ** (check + after)}

    trigger, weights = watched(names=("actor", "critic"))
    assert run(trigger, weights, steps(0), checks=stop) is None
    state = trigger.state_dict()
    other = LazyTrigger({name: [tensor] for name, tensor in weights.items()}, trigger.kappa)
    other.load_state_dict(state)
    assert run(other, weights, steps(stop)) == 14 - stop  # and the first one has not moved
    assert other.distance != trigger.distance == state["distance"]


def test_a_state_of_other_networks_or_shapes_is_refused():
    trigger, weights = watched()
    run(trigger, weights, {"actor": lambda check: 1.0}, checks=2)
    for name, shape in (("critic", (4, 4)), ("actor", (4, 5))):
        other = LazyTrigger({name: [th.ones(shape)]})
        with pytest.raises(PruningError, match="names or shapes"):
            other.load_state_dict(trigger.state_dict())
        assert other.distance == {name: 0.0} and other.start[name].numel() == shape[0] * shape[1]


def test_every_network_has_to_settle():
    trigger, weights = watched(names=("actor", "critic"))
    decay = {"actor": lambda check: 0.5**check, "critic": lambda check: 0.9**check}
    assert run(trigger, weights, decay) == 14
    trigger, weights = watched(names=("actor", "critic"))
    assert run(trigger, weights, decay | {"critic": lambda check: 1.0}) is None


def test_a_step_up_starts_the_count_again():
    trigger, weights = watched()
    assert run(trigger, weights, {"actor": lambda check: 1.0 if check in (0, 3) else 0.1}) == 6


def test_weights_that_have_not_been_trained_yet_do_not_count():
    trigger, weights = watched()
    assert run(trigger, weights, {"actor": lambda check: 0.0}) is None
    assert run(trigger, weights, {"actor": lambda check: 0.5**check}, checks=20) is not None
    assert not LazyTrigger({}).look(dict)


def test_kappa_sets_how_lazy():
    fired = [run(*watched(kappa), {"actor": lambda check: 0.9**check}) for kappa in (0.5, 0.3, 0.1)]
    assert fired == sorted(fired) and len(set(fired)) == 3


@pytest.mark.parametrize("kappa", [0, 1.5, -0.1, True, float("nan"), "lazy"])
def test_kappa_is_a_share(kappa):
    with pytest.raises(PruningError, match="kappa=.* must be a number in"):
        watched(kappa)


def test_similarity_of_structures():
    assert structure_similarity({"a": 4, "b": 10}, {"a": 4, "b": 10}) == 1.0
    assert structure_similarity({"a": 4, "b": 10}, {"a": 12, "b": 10}) == pytest.approx(1 - 0.5 * 8 / 16)
    assert structure_similarity({"a": 0}, {"a": 0}) == 1.0


def test_the_indicator_fires_on_a_stable_structure_and_not_on_an_unstable_one():
    def first(proposals):
        indicator = EarlyPruningIndicator()
        return next((check for check, widths in enumerate(proposals) if indicator.look(lambda widths=widths: widths)), None)

    stable = [{"a": 50, "b": 20}] * 30
    settling = [{"a": 200 - 10 * min(check, 15), "b": 20} for check in range(30)]
    unstable = [{"a": 50 + 30 * (check % 2), "b": 20} for check in range(30)]
    assert first(stable) == 10  # five proposals to compare with, then five values not above the present one
    assert first(settling) > first(stable) and first(unstable) is None


def test_the_indicator_waits_until_it_is_not_below_its_own_five_last_values():
    """A structure that has begun to change again is above the threshold for a while, and is not stable."""
    widths = [100] * 6 + [97, 94, 91, 88, 85, 82, 79] + [76] * 12
    indicator, values, fired = EarlyPruningIndicator(threshold=0.5), [], []
    for check, n in enumerate(widths):
        if indicator.look(lambda n=n: {"a": n}):
            fired.append(check)
        before = widths[check - 5 : check]
        if check >= 5:
            values.append(sum(1 - abs(n - m) / (n + m) for m in before) / 5)
    expected = [n + 5 for n, value in enumerate(values) if n >= 5 and value >= max(0.5, *values[n - 5 : n])]
    assert fired == expected and min(fired) > 13 and min(values) > 0.5  # by the threshold alone it would be 10


@pytest.mark.parametrize("stop", [0, 3, 7, 9])
def test_an_indicator_goes_on_from_the_state_of_another(stop):
    proposals = [{"a": 60 - min(check, 3), "b": 20} for check in range(30)]

    def first(indicator, proposals):
        return next(check for check, widths in enumerate(proposals) if indicator.look(lambda widths=widths: widths))

    whole = first(EarlyPruningIndicator(), proposals)
    indicator, other = EarlyPruningIndicator(), EarlyPruningIndicator()
    assert not any(indicator.look(lambda widths=widths: widths) for widths in proposals[:stop])
    other.load_state_dict(indicator.state_dict())
    assert stop + first(other, proposals[stop:]) == whole


def distances(sparsity, names=("actor",), **form):
    weights = {name: th.ones(4, 4) for name in names}
    return DistanceTrigger({name: [tensor] for name, tensor in weights.items()}, sparsity, **form), weights


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.95])
def test_the_papers_distance_fires_below_one_minus_sparsity(sparsity):
    """θ_0 is the initialisation; the norm of the weights is 4, and steps are 4 · 0.9^n."""
    trigger, weights = distances(sparsity)
    fired = run(trigger, weights, {"actor": lambda check: 4 * 0.9**check})
    assert fired == next(n for n in range(60) if 0.9**n < 1 - sparsity)
    trigger, weights = distances(sparsity)
    assert run(trigger, weights, {"actor": lambda check: 4.0 * (check > 2)}, checks=2) is None  # nothing is trained yet


@pytest.mark.parametrize("structured, sparsity, factor", [
    (False, 0.5, 0.5), (False, 0.9, 0.1), (True, 0.5, 0.4), (True, 0.8, 0.1), (True, 0.9, 0.05), (True, 0.99, 0.005),
])  # fmt: skip
def test_the_released_distance_is_relative_to_the_first_one_and_always_fires(structured, sparsity, factor):
    """Its τ for units was 1 − ρ − 0.1 times the first distance, so never above zero from 0.9 on: half of 1 − ρ instead."""
    trigger, weights = distances(sparsity, released=True, structured=structured)
    fired = run(trigger, weights, {"actor": lambda check: 8 * 0.8**check}, checks=200)
    start = 4 + 8  # the norm when θ_0 was taken, after the first check
    first = 8 * 0.8 / start
    assert trigger.tau("actor") == pytest.approx(first * factor)
    assert fired == next(n for n in range(2, 200) if 8 * 0.8**n / start < first * factor)


def test_distances_wait_for_every_network_each_with_its_own_sparsity():
    trigger, weights = distances({"actor": 0.5, "critic": 0.95}, names=("actor", "critic"))
    fired = run(trigger, weights, dict.fromkeys(weights, lambda check: 4 * 0.9**check))
    assert fired == next(n for n in range(60) if 0.9**n < 0.05)


@pytest.mark.parametrize("stop", [0, 1, 2, 5])
@pytest.mark.parametrize("rule", ["distance", "distance_released"])
def test_a_distance_goes_on_from_the_state_of_another(rule, stop):
    def triggers():
        weights = {"actor": th.ones(4, 4)}
        return TRIGGERS[rule](Watched({"actor": [weights["actor"]]}, {"actor": 0.9})), weights

    whole, weights = triggers()
    expected = run(whole, weights, {"actor": lambda check: 4 * 0.8**check})
    first, weights = triggers()
    assert run(first, weights, {"actor": lambda check: 4 * 0.8**check}, checks=stop) is None
    other = TRIGGERS[rule](Watched({"actor": [weights["actor"]]}, {"actor": 0.9}))
    other.load_state_dict(first.state_dict())
    assert run(other, weights, {"actor": lambda check: 4 * 0.8 ** (check + stop)}) == expected - stop
