"""A share of the first network: cuts that follow each other end where one cut would."""

import pytest

import rl_crop
from tests.zoo.agents import SCORING, ppo


@pytest.fixture
def model():
    return ppo().learn(64)


@pytest.mark.parametrize("schedule", ["one_shot", "iterative"])
def test_a_share_of_the_original_counts_what_is_gone(model, schedule):
    first = rl_crop.prune_policy(model, 0.5, of="original", **SCORING).sparsity
    second = rl_crop.prune_policy(model, 0.7, of="original", schedule=schedule, **SCORING).sparsity
    for name in ("actor", "critic"):
        gone = 1 - (1 - first[name]) * (1 - second[name])
        assert 0.7 <= gone + 1e-9 < 0.85, name
    plan = rl_crop.plan_policy_pruning(model, {"actor": 0.9}, of="original", **SCORING)
    before = (1 - first["actor"]) * (1 - second["actor"])
    assert plan.sparsity["actor"] == pytest.approx(1 - 0.1 / before, abs=0.2) and plan.sparsity["critic"] == 0


def test_what_is_gone_already_and_what_is_no_share_are_refused(model):
    rl_crop.prune_policy(model, 0.6, **SCORING)
    for wrong, message in (
        ({"sparsity": 0.3, "of": "original"}, "gone already"),
        ({"sparsity": "auto", "of": "original"}, "give a sparsity"),
        ({"max_params": 50, "of": "original"}, "give a sparsity"),
        ({"sparsity": 0.8, "of": "original", "budget": "flops"}, "budget='params'"),
        ({"sparsity": 0.8, "of": "first"}, "of='first' is not one of"),
    ):
        for function in (rl_crop.prune_policy, rl_crop.plan_policy_pruning):
            with pytest.raises(rl_crop.PruningError, match=message):
                function(model, **wrong, **SCORING)
    with pytest.raises(rl_crop.PruningError, match="number in"):
        rl_crop.prune_policy(model, 1.5, of="original", **SCORING)
