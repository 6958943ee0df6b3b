"""Lack of memory where an agent is looked at or built again is told as such; the agent is as it was."""

from unittest.mock import Mock

import pytest

import rl_crop
from rl_crop.core.errors import lacks_memory
from rl_crop.sb3 import rebuilding
from tests.zoo.agents import SCORING
from tests.zoo.own_agents import Extractor, FixedWidths, own
from tests.zoo.snapshots import unmoved

SETTINGS = {"criterion": "magnitude", "compensation": "none", **SCORING}


def failing_at(function, k):
    """The function as it is, but for its k-th call, for which there is no memory."""
    calls = []

    def wrapped(*args, **keywords):
        calls.append(args)
        if len(calls) == k:
            raise RuntimeError("no such policy") from MemoryError("none left")
        return function(*args, **keywords)

    return wrapped


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_policy_that_cannot_be_built_for_lack_of_memory(k, monkeypatch):
    model = own(policy=FixedWidths)()
    with monkeypatch.context() as patch, unmoved(model):
        patch.setattr(rebuilding, "as_loaded", failing_at(rebuilding.as_loaded, k))
        with pytest.raises(rl_crop.PruningError, match="Fewer or smaller scoring batches") as error:
            rl_crop.prune_policy(model, 0.5, **SETTINGS)
    assert lacks_memory(error.value)
    rl_crop.prune_policy(model, 0.5, **SETTINGS)


def test_an_extractor_that_cannot_be_built_for_lack_of_memory(monkeypatch):
    model = own(Extractor)()
    with monkeypatch.context() as patch, unmoved(model):
        patch.setattr(Extractor, "__init__", failing_at(Extractor.__init__, 1))
        with pytest.raises(rl_crop.PruningError, match="Fewer or smaller scoring batches"):
            rl_crop.prune_policy(model, 0.5, **SETTINGS)
    rl_crop.prune_policy(model, 0.5, **SETTINGS)


@pytest.mark.parametrize("target", ["graph.finding.propagate", "pruning.trial.make_plan"])
def test_the_first_look_and_the_first_trial(target, monkeypatch):
    model, callback = own()(), rl_crop.PruningCallback("auto", verbose=0, **SETTINGS)
    with monkeypatch.context() as patch, unmoved(model):
        told = rl_crop.PruningError("no plan") if "plan" in target else RuntimeError("no rule")
        told.__cause__ = MemoryError("none left")
        patch.setattr(f"rl_crop.core.{target}", Mock(side_effect=told))
        with pytest.raises(rl_crop.PruningError) as error:
            model.learn(64, callback=callback)
    assert lacks_memory(error.value) and model.num_timesteps == 0
