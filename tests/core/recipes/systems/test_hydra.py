from dataclasses import replace

import pytest
import torch as th
from torch import nn

from rl_crop.core.masking.distributions import select
from rl_crop.core.masking.masks import attached_masks
from rl_crop.core.recipes.drivers import run_recipe
from rl_crop.core.recipes.registry import RECIPES
from rl_crop.core.recipes.systems.hydra import frozen, scored
from tests.zoo.networks import batches, mlp, mse
from tests.zoo.snapshots import same, state
from tests.zoo.tasks import SmallTask

HYDRA = replace(RECIPES["hydra"], when=0.0, options={"choosing": 1.0})


def misleading(steps=200):
    """Weights that are large where the inputs hardly vary and nothing depends on them, and small where it matters."""
    scale = th.tensor([10.0] * 4 + [0.01] * 4)
    x = th.randn(64, 8) * scale
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2))
    with th.no_grad():
        model[0].weight[:, :4] *= 0.1
        model[0].weight[:, 4:] *= 10.0
    y = model(x).detach()
    return SmallTask(model, [(x, y)], steps=steps)


def test_learned_scores_choose_better_than_magnitude_and_exactly_as_many():
    losses = {}
    for criterion in ("magnitude", "learned"):
        th.manual_seed(0)
        task = misleading()
        weights = [task.model[0].weight, task.model[2].weight]
        trained = {name: p.detach().clone() for name, p in task.model.named_parameters()}
        if criterion == "learned":
            report = run_recipe(task, HYDRA, 0.5, 0)
            assert report.sparsity["total"] == 0.5
            for name, p in task.model.named_parameters():
                assert th.equal(p.detach(), th.where(p == 0, 0.0, trained[name]))  # weights were chosen, not trained
        else:
            for weight in weights:
                weight.data *= select({"": weight.abs()}, 0.5)[""]
        assert [int((weight != 0).sum()) for weight in weights] == [24, 6]
        losses[criterion] = -task.evaluate()
    assert losses["learned"] < 0.4 * losses["magnitude"]


def test_the_gradient_of_a_score_is_that_of_its_weight_times_the_weight():
    model, data = mlp((3, 5, 2)), batches()
    task = SmallTask(model, data)
    weights = {name: p for name, p in model.named_parameters() if p.dim() > 1}
    before, order = state(model), [id(p) for p in task.optimizers[0].param_groups[0]["params"]]
    chosen = {}

    def choose(sizes):
        chosen.update(select(sizes, 0.6, "layer"))
        return chosen

    with scored(task, weights, choose) as scores:
        mse(model, data[0]).backward()
        found = {name: score.grad.clone() for name, score in scores.items()}
        assert not any(p.requires_grad for p in model.parameters())
        signs = {name: score.detach().sign() for name, score in scores.items()}
        assert len(task.optimizers[0].param_groups[0]["params"]) == len(order) + len(weights)
    assert same(before, state(model)) and [id(p) for p in task.optimizers[0].param_groups[0]["params"]] == order
    masked = mlp((3, 5, 2))
    masked.load_state_dict(model.state_dict())
    with th.no_grad():
        for name, p in masked.named_parameters():
            p.mul_(chosen.get(name, 1.0))
    mse(masked, data[0]).backward()
    for name, p in masked.named_parameters():
        if name in found:
            assert th.allclose(found[name], p.grad * weights[name].detach() * signs[name], rtol=1e-10)


@pytest.mark.parametrize("optimizer", [th.optim.Adam, th.optim.AdamW, th.optim.RMSprop])
def test_frozen_parameters_do_not_move(optimizer):
    task = SmallTask(mlp((3, 5, 2)), batches(), optimizer=optimizer)
    task.train(0.1)
    before = state(task.model)
    extra = th.zeros(2, requires_grad=True)
    with frozen(task.model.parameters()):
        for _ in range(3):
            task.optimizers[0].zero_grad(set_to_none=False)
            (task.model(th.ones(1, 3)) + extra).sum().backward()
            task.optimizers[0].step()
    after = state(task.model)
    assert all(same(before[key], after[key]) for key in before if key[-1] == "data") and task.model[0].weight.requires_grad


def test_hydra_trains_before_chooses_and_trains_what_is_left():
    task = SmallTask(mlp((3, 16, 2)), batches(n=30), steps=120)
    recipe = replace(HYDRA, when=0.5, options={"choosing": 0.25})
    report = run_recipe(task, recipe, 0.8, 0)
    assert task.place == 120 and abs(report.sparsity["total"] - 0.8) < 1 / 80 and report.sparsity["total"] >= 0.8 - 1e-12
    zeros = {name: p == 0 for name, p in task.model.named_parameters() if p.dim() > 1}
    task.train(0.1)
    assert all(th.equal(p == 0, zeros[name]) for name, p in task.model.named_parameters() if name in zeros)
    assert attached_masks(dict(task.model.named_parameters()))
