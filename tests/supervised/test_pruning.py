"""``pruning:`` read as a recipe; small dense rivals; whole runs."""

import json

import pytest
import torch as th

from lab.supervised.building import build_network, build_trainer, load_data
from lab.supervised.config import SupervisedConfig
from lab.supervised.run import run
from lab.supervised.widths import give_widths, layer_widths
from rl_crop.core.errors import PruningError
from rl_crop.core.prune import prune_model
from rl_crop.core.recipes.recipe import Recipe, ScoringOptions
from rl_crop.core.recipes.registry import RECIPES
from rl_crop.core.recipes.triggers import TriggerOptions
from rl_crop.supervised.pruning import chosen_recipe
from tests.supervised.test_trainer import DIGITS, trainer_of


@pytest.fixture(scope="module")
def data():
    return load_data(SupervisedConfig.from_dict(DIGITS))


def test_pruning_keys_are_those_of_a_recipe():
    assert chosen_recipe({"sparsity": 0.8, "recipe": "granet"}) == (RECIPES["granet"], 0.8)
    recipe, sparsity = chosen_recipe({})
    assert (recipe.criterion, recipe.when, recipe.compensation, sparsity) == ("obs_crop", "lazy", "least_squares", 0.9)
    recipe, _ = chosen_recipe({"criterion": "snip", "when": 0.2, "schedule": "iterative", "scope": "layer", "n_batches": 3})
    assert isinstance(recipe, Recipe) and (recipe.schedule, recipe.inner, recipe.scope) == ("once", "halving", "layer")
    assert (recipe.when, recipe.of(ScoringOptions).n_batches, recipe.of(TriggerOptions).latest) == (0.2, 3, 0.3)
    recipe, _ = chosen_recipe({"structured": False, "when": 0.1})
    assert (recipe.structured, recipe.strategy, recipe.compensation) == (False, "zero", "none")
    recipe, _ = chosen_recipe({"recipe": "rigl", "share": 0.5})
    assert recipe.options == {"share": 0.5} and recipe.regrow == RECIPES["rigl"].regrow


@pytest.mark.parametrize(
    ("pruning", "message"),
    [
        ({"recipe": "magic"}, "magic"),
        ({"sparsity": 1.5}, "1.5"),
        ({"sparsty": 0.5}, "sparsty"),
        ({"schedule": "sometimes"}, "sometimes"),
        ({"when": "soon"}, "soon"),
        ({"criterion": "luck"}, "luck"),
    ],
)
def test_wrong_keys_are_named(data, pruning, message):
    with pytest.raises(PruningError, match=message):
        run(SupervisedConfig.from_dict(DIGITS | {"pruning": pruning}), 0, data=data)


@pytest.mark.parametrize(
    "network",
    [
        {"name": "cnn", "channels": [4, 6], "widths": [16]},
        {"name": "resnet18", "width": 2, "blocks": [1, 1]},
        {"name": "resnext", "width": 2, "n_groups": 2, "group_width": 2, "blocks": [1, 1]},
    ],
)
def test_a_small_dense_rival_has_the_widths_and_nothing_of_the_weights(data, network):
    pruned, rival = (trainer_of(data, network=network) for _ in range(2))
    prune_model(pruned.model, pruned.loss, pruned.batches(2), 0.7, optimizers=pruned.optimizers)
    give_widths(rival.subject(rival.batches(1)), layer_widths(pruned.model), seed=5)
    shapes = [{name: tensor.shape for name, tensor in t.model.state_dict().items()} for t in (pruned, rival)]
    assert shapes[0] == shapes[1]
    weight = rival.model[-1].weight.detach().abs().max().item()
    before, after = (trainer.model[-1].in_features ** -0.5 for trainer in (trainer_of(data, network=network), rival))
    assert before < weight <= after  # drawn for the size it has now
    rival.train(0.3)


def test_rivals_are_drawn_by_the_seed(data):
    widths = {"0": 3, "4": 5, "9": 7}
    weights = []
    for seed in (1, 1, 2):
        trainer = trainer_of(data)
        give_widths(trainer.subject(trainer.batches(1)), widths, seed)
        assert {name: width for name, width in layer_widths(trainer.model).items() if name in widths} == widths
        weights.append(trainer.model[0].weight.detach().clone())
    assert th.equal(weights[0], weights[1]) and not th.equal(weights[0], weights[2])
    with pytest.raises(PruningError, match="widths"):
        give_widths(trainer_of(data).subject(trainer_of(data).batches(1)), {"0": 3}, 0)


def test_a_run_reports_what_it_did(data):
    config = SupervisedConfig.from_dict(DIGITS | {"n_epochs": 4, "pruning": {"sparsity": 0.7, "when": 0.25}})
    result = json.loads(json.dumps(run(config, 0, data=data)))
    trainer = build_trainer(config, data, build_network(config, data, 0), 0)
    n_before = sum(parameter.numel() for parameter in trainer.model.parameters())
    assert SupervisedConfig.from_dict(result["config"]) == config
    assert result["metric"] == "accuracy" and 0.1 < result["test"] <= 1 and 0.1 < result["validation"] <= 1
    assert result["n_steps"] == trainer.n_steps == 32 and result["cuts"] == [[8, result["n_params"]]]
    assert result["report"]["n_params_before"] == n_before and result["report"]["sparsity"]["total"] >= 0.7
    assert result["n_params"] == result["n_params_left"] == result["report"]["n_params_after"] < n_before
    assert (result["flops_before"], result["flops"]) == (result["report"]["flops_before"], result["report"]["flops_after"])
    assert result["widths"]["11"] == 10 and result["widths"]["0"] == result["report"]["widths"]["0"][1]
    assert min(result["seconds"]["train"], result["seconds"]["prune"]) > 0
    assert run(config, 0, data=data)["test"] == result["test"]


def test_a_dense_run_and_its_rival(data):
    config = SupervisedConfig.from_dict(DIGITS)
    dense = run(config, 0, data=data)
    assert dense["report"] is None and dense["flops"] == dense["flops_before"] and dense["n_params"] > 800
    small = run(config, 0, widths={"0": 2, "4": 3, "9": 4}, data=data)
    assert small["n_params"] < dense["n_params"] / 2 and small["flops"] < dense["flops"] / 2


def test_masked_weights_are_counted(data):
    pruning = {"sparsity": 0.8, "structured": False, "criterion": "magnitude", "when": 0.2}
    result = run(SupervisedConfig.from_dict(DIGITS | {"pruning": pruning}), 0, data=data)
    weights = sum(p.numel() for p in trainer_of(data).model.parameters() if p.dim() > 1)
    assert result["n_params"] - result["n_params_left"] == pytest.approx(0.8 * weights, abs=1)
