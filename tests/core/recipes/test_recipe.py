"""Recipes: what they may say, and that each one carries a small run to exactly the asked sparsity."""

import dataclasses

import pytest
import torch as th

import rl_crop
from rl_crop.core.errors import PruningError
from rl_crop.core.recipes.drivers import run_recipe, single
from rl_crop.core.recipes.recipe import DRIVERS, OPTIONS, DriverOptions, Recipe, StrategyOptions
from rl_crop.core.recipes.registry import RECIPES, resolve_recipe
from rl_crop.core.recipes.strategies import Strategy
from tests.zoo.networks import batches, mlp
from tests.zoo.tasks import SmallTask

ELEMENTS = {"structured": False, "strategy": "zero"}
WRONG = [
    ({"scope": "everywhere"}, "scope='everywhere' is not one of"),
    ({"schedule": "twice"}, "schedule='twice' is not one of"),
    ({"strategy": "forgiven"}, "strategy='forgiven' is not one of"),
    ({"driver": "taxi"}, "driver='taxi' is not one of"),
    ({"when": "soon"}, "when='soon' is not one of"),
    ({"when": 1.5}, "when=1.5 must be a share of the run"),
    ({"until": True}, "until=True must be a share of the run"),
    ({"schedule": "gradual", "when": 0.5, "until": 0.2}, "until=0.2 is before when=0.5"),
    ({"options": {"shares": 0.3}}, r"Unknown options \['shares'\]"),
    ({"strategy": "zero"}, "structured=True: units only go for good"),
    ({"schedule": "cubic"}, "structured=True: units only go for good"),
    ({"regrow": "random"}, "structured=True: units only go for good"),
    ({"structured": False}, "structured=False: weights are masked"),
    ({"scope": "erk"}, "scope='erk': these densities are of weights"),
    ({**ELEMENTS, "criterion": "span"}, "criterion='span': it ranks whole units"),
    ({**ELEMENTS, "regrow": "gradient"}, "regrow='gradient': it needs schedule="),
    ({**ELEMENTS, "schedule": "alternating"}, "schedule='alternating': it needs strategy='revive'"),
    ({"structured": False, "strategy": "shrink", "criterion": "crop"}, "strategy='shrink': it needs criterion='magnitude'"),
    ({"driver": "rounds"}, "driver='rounds': it needs structured=False"),
    (
        {"structured": False, "strategy": "growing_l2", "driver": "rounds"},
        "strategy='growing_l2': it goes back to earlier weights",
    ),
    ({**ELEMENTS, "options": {"min_units": 0.5}}, "min_units: of weights it must be an integer"),
    ({"driver": "tick_tock", "criterion": "random"}, "driver='tick_tock' scores by 'gates', and takes no other"),
]


@pytest.mark.parametrize("parts, message", WRONG, ids=str)
def test_what_contradicts_itself_is_refused(parts, message):
    with pytest.raises(PruningError, match=message):
        Recipe(**parts)


def test_a_strategy_and_a_driver_of_ones_own_stand_where_the_names_do():
    class Halved(Strategy):
        """The weights of largest magnitude are masked."""

        def decide(self, state):
            scores = {name: -magnitude for name, magnitude in state.weights.magnitude().items()}
            yield state.choose(scores, state.due)

    def twice(task, recipe, sparsity, seed):
        task.train(0.5)
        return single(task, recipe, sparsity, seed)

    small = small_task()
    report = run_recipe(small, Recipe("magnitude", structured=False, strategy=Halved, when=1.0, driver=twice), 0.5)
    zeros = sum(int((p == 0).sum()) for p in small.model.parameters())
    assert small.place == 90 and zeros == 288 and report.sparsity["total"] == 0.5


def test_a_recipe_is_described_in_the_same_words_in_every_process():
    def own(context):
        return {}

    text = Recipe(own, options={"every": 3}).described
    assert text["criterion"].endswith("own") and "0x" not in str(text) and text["options"] == "{'every': 3}"
    assert "source" not in text and Recipe().described["criterion"] == "crop"


def test_a_recipe_is_frozen_and_knows_its_options():
    recipe = Recipe(options={"rate": 0.5})
    assert recipe.of(DriverOptions).rate == 0.5 and recipe.of(StrategyOptions).alpha == OPTIONS["alpha"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.criterion = "snip"


def test_recipes_are_found_by_name():
    assert rl_crop.recipes is RECIPES and resolve_recipe("rigl") is RECIPES["rigl"]
    with pytest.raises(PruningError, match="Unknown recipe 'rigel'"):
        resolve_recipe("rigel")
    for name, recipe in RECIPES.items():
        assert recipe.source and recipe.in_rl, name


def small_task(steps=60):
    return SmallTask(mlp((6, 24, 16, 3)), batches((6,), 3, n=16, count=4), steps=steps)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_ends_at_exactly_the_asked_sparsity(name):
    """Masks to the element; cuts within the unit that crosses the target, by what is really left of the network."""
    task, sparsity = small_task(), 0.8
    weights = [parameter for parameter in task.model.parameters() if parameter.dim() > 1]
    n_weights = sum(weight.numel() for weight in weights)
    before = sum(parameter.numel() for parameter in task.model.parameters())
    report = run_recipe(task, name, sparsity)
    left = sum(parameter.numel() for parameter in task.model.parameters())
    if RECIPES[name].structured:
        prunable = before - 3  # output biases stay
        largest = 2 * 24 + 2 * 16 + 7 + 4  # more than any unit has
        assert sparsity <= (before - left) / prunable < sparsity + largest / prunable
        assert report.sparsity["total"] == pytest.approx((before - left) / prunable) and report.n_params_after == left
    else:
        assert left == before and sum(int((weight != 0).sum()) for weight in weights) == int(n_weights * (1 - sparsity))
        assert report.sparsity["total"] == pytest.approx(1 - int(n_weights * (1 - sparsity)) / n_weights)
    assert report.criterion == RECIPES[name].criterion
    before = [parameter.detach().clone() for parameter in task.model.parameters()]
    task.train(0.1)  # masks hold, and what is left goes on learning
    assert [int((p == 0).sum()) for p in task.model.parameters()] == [int((p == 0).sum()) for p in before]
    assert any(not th.equal(p, old) for p, old in zip(task.model.parameters(), before, strict=True))


def test_every_driver_has_a_recipe():
    assert {recipe.driver for recipe in RECIPES.values()} >= set(DRIVERS) >= {"single", "rounds", "population"}


def test_a_run_without_pruning_changes_nothing_about_the_network():
    task = small_task()
    report = run_recipe(task, "crop_u", 0.0)
    assert report.sparsity["total"] == 0.0 and all(bool((p != 0).all()) for p in task.model.parameters() if p.dim() > 1)
