from dataclasses import replace

import numpy as np
import pytest
import torch as th
from torch import nn

from rl_crop.core.prune import plan_pruning, prune_model
from rl_crop.core.recipes.drivers import run_recipe
from rl_crop.core.recipes.registry import RECIPES
from rl_crop.core.recipes.systems.stamp import SetEncoder, learn_encoder
from tests.zoo.networks import mlp, mse
from tests.zoo.snapshots import hooks, same, state
from tests.zoo.tasks import SmallTask

STAMP = replace(RECIPES["stamp"], when=0.5, options={"n_batches": 4})


def contexts(width=6, seed=0):
    """
    Two contexts: in the first only the first two inputs vary, in the second the others; each has hidden units of its own.

    :return: the model, and batches by context.
    """
    generator = th.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 2 * width), nn.Tanh(), nn.Linear(2 * width, 1))
    with th.no_grad():
        model[0].bias.zero_()
        model[2].weight.copy_(model[2].weight.sign() / width)
        model[0].weight[:width, 2:] = 0.0
        model[0].weight[width:, :2] = 0.0
    data = {}
    for context, start in (("first", 0), ("second", 2)):
        data[context] = []
        for _ in range(8):
            x = th.zeros(32, 4)
            x[:, start : start + 2] = 2 * th.randn(32, 2, generator=generator)
            data[context].append((x, model(x).detach()))
    return model, data


@pytest.mark.parametrize("at_hand", ["first", "second"])
def test_the_encoder_keeps_what_the_subset_at_hand_needs(at_hand):
    model, data = contexts()
    mixed = [batch for pair in zip(data["first"], data["second"], strict=True) for batch in pair]
    task, before = SmallTask(model, mixed), state(model)
    encoder = learn_encoder(task, mixed, 0.5, seed=0)
    assert same(before, state(model))
    new = contexts(seed=1)[1][at_hand]  # observations that it has not seen
    new = [(x, model(x).detach()) for x, _ in new]
    plan = plan_pruning(model, mse, new[:4], 0.5, criterion=encoder.criterion, compensation="none")
    assert set(plan.keep["0"]) == set(range(6) if at_hand == "first" else range(6, 12))
    plan.apply()
    loss = sum(mse(model, batch).item() for batch in new)
    chance = []
    for seed in range(5):
        other = contexts()[0]
        prune_model(other, mse, new[:4], 0.5, criterion="random", compensation="none", seed=seed)
        chance.append(sum(mse(other, (x, y)).item() for x, y in new))
    assert loss < 1e-6 < 0.1 * min(chance)


def test_the_share_that_the_encoder_keeps_is_near_what_was_asked_for():
    model, data = contexts()
    task = SmallTask(model, data["first"])
    encoder = learn_encoder(task, data["first"], 0.5, seed=0)
    plan = plan_pruning(model, mse, data["first"], 0.5, criterion=encoder.criterion, compensation="none")
    assert abs(plan.scores["0"].mean() - 0.5) < 0.15 and 0 <= plan.scores["0"].min() and plan.scores["0"].max() <= 1


def test_the_order_of_observations_does_not_matter():
    encoder = SetEncoder({"a": 5, "b": 3})
    activations = {"a": np.random.default_rng(0).normal(size=(20, 5)), "b": np.ones((20, 3))}
    turned = {name: rows[::-1].copy() for name, rows in activations.items()}
    first, second = encoder(activations), encoder(turned)
    assert all(th.allclose(first[name], second[name], rtol=1e-12) for name in ("a", "b"))
    assert {name: logits.shape for name, logits in first.items()} == {"a": (5,), "b": (3,)}


def test_the_driver_trains_prunes_once_and_trains_on():
    th.manual_seed(1)
    model = mlp((3, 12, 10, 2))
    x = th.randn(40, 3)
    task = SmallTask(model, [(x, x[:, :2].sin()), (x + 1, (x + 1)[:, :2].sin())], steps=80)
    parameters = [id(p) for p in model.parameters()]
    report = run_recipe(task, STAMP, 0.6, 0)
    assert task.place == 80 and report.n_params_after == sum(p.numel() for p in model.parameters())
    assert 0.6 <= report.sparsity["total"] < 0.6 + 25 / 180 and [id(p) for p in model.parameters()] == parameters
    assert all(p.requires_grad for p in model.parameters()) and hooks(model) == []
