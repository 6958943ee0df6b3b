"""A criterion of the user's own is tried before the first step: what is wrong with it costs no training."""

import pytest

import rl_crop
from rl_crop.core.importance.criteria import CRITERIA
from tests.zoo.agents import AGENTS, SCORING
from tests.zoo.snapshots import everything, unmoved

NAMES = ["ppo_dict", "recurrent", "maskable", "sac", "dqn", "tqc", "ppo_sde", "sac_images_shared", "maskable_multi_discrete"]
CASES = [*((name, True) for name in NAMES), ("recurrent", False), ("sac", False)]


def movement(context):
    """Looks at weights, gradient, activations and batches."""
    assert all(len(batch.observations) for batch in context.batches) and context.activations() is not None
    return {name: -weight.detach() * context.gradient[name] for name, weight in context.parameters.items()}


def failing(context):
    raise LookupError("no such table")


def nothing(context):
    return {}


@pytest.mark.parametrize(("name", "structured"), CASES)
def test_one_that_works_is_found_to_work(name, structured):
    model = AGENTS[name]()
    callback = rl_crop.PruningCallback(0.5, criterion=movement, structured=structured, verbose=0, **SCORING)
    callback.init_callback(model)
    model._total_timesteps = 64
    with unmoved(model, everything):
        callback.on_training_start({}, {})


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize(
    ("criterion", "says"), [(failing, "criterion='failing' fails .*no such table"), (nothing, "no score")]
)
def test_one_that_fails_is_told_before_the_first_step(criterion, says, structured, monkeypatch):
    monkeypatch.setitem(CRITERIA, "registered", criterion)
    for given in (criterion, "registered"):
        model = AGENTS["ppo_box"]()
        with pytest.raises(rl_crop.PruningError, match=says if given is criterion else says.replace("failing", "registered")):
            model.learn(640, callback=rl_crop.PruningCallback(0.5, criterion=given, structured=structured, verbose=0))
        assert model.num_timesteps == 0


def test_or_is_warned_of():
    with pytest.warns(UserWarning, match="before training"):
        model = AGENTS["ppo_box"]().learn(
            128, callback=rl_crop.PruningCallback(0.5, criterion=failing, on_error="warn", verbose=0, **SCORING)
        )
    assert model.num_timesteps == 128 and model.pruning_history == []
