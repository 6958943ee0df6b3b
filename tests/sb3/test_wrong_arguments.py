"""A wrong argument is named, and nothing is changed."""

import pytest

import rl_crop
from tests.zoo.agents import SCORING, ppo
from tests.zoo.snapshots import unmoved

WRONG = [{name: value} for name in ("n_batches", "batch_size") for value in (0, -1, 1.5, True, "8", None)]
WRONG += [{"structured": value} for value in ("yes", [], None, 1)] + [{"sparsity": {}}]


@pytest.fixture(scope="module")
def model():
    return ppo().learn(64)


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_wrong_argument_is_named(model, wrong):
    [name] = wrong
    keywords = {"sparsity": 0.3, **SCORING, **wrong}
    for function in (rl_crop.plan_policy_pruning, rl_crop.prune_policy):
        with unmoved(model), pytest.raises(rl_crop.PruningError, match=f"{name}=.*(must be|give)"):
            function(model, **keywords)
