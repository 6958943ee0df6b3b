import copy

import pytest
import torch as th
from torch import nn

from rl_crop.core.prune import plan_pruning, prune_model
from rl_crop.core.pruning import distillation
from tests.zoo.networks import Calls, batches, mlp, mse
from tests.zoo.snapshots import same


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(distillation, "STEPS", 120)


def test_the_fit_is_closer_than_least_squares_and_bounded(monkeypatch):
    errors, steps = {}, []
    step = th.optim.Adam.step
    monkeypatch.setattr(th.optim.Adam, "step", lambda *args, **keywords: (steps.append(1), step(*args, **keywords))[1])
    fresh, _ = batches(n=300, count=1, seed=8)[0]
    for kind in ("least_squares", "distill"):
        th.manual_seed(0)
        model, data = mlp((3, 32, 32, 2)), batches(n=200)
        dense = copy.deepcopy(model)
        prune_model(model, mse, data, 0.8, compensation=kind)
        errors[kind] = mse(model, (fresh, dense(fresh))).item()
    assert errors["distill"] < 0.7 * errors["least_squares"] and len(steps) == distillation.STEPS


def test_the_mirror_is_fitted_to_its_own_outputs_and_stays_frozen():
    model, mirror, data = mlp((3, 24, 24, 2)), mlp((3, 24, 24, 2)), batches(n=100)
    mirror.requires_grad_(False)
    model[4].bias.requires_grad_(False)
    dense, target = copy.deepcopy(model), copy.deepcopy(mirror)
    optimizer = th.optim.Adam(model.parameters())
    prune_model(model, mse, data, 0.7, criterion="random", compensation="distill", mirrors=[mirror], optimizers=[optimizer])
    x = data[0][0]
    assert mse(mirror, (x, target(x))) < 0.1 * mse(mirror, (x, dense(x)))
    for network in (model, mirror):
        assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(parameter.requires_grad for parameter in mirror.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()] == [True] * 5 + [False]
    assert not optimizer.state


def test_nothing_else_is_touched():
    model = Calls(
        lambda m, x: (m.b(m.norm(th.tanh(m.a(x)))), None),
        a=nn.Linear(3, 12), norm=nn.BatchNorm1d(12), b=nn.Linear(12, 2), spare=nn.Linear(2, 2),
    )  # fmt: skip
    model.register_parameter("counts", nn.Parameter(th.arange(3), requires_grad=False))
    generator = th.get_rng_state()
    plan = plan_pruning(model, lambda m, b: ((m(b[0])[0] - b[1]) ** 2).mean(), batches(), 0.5, compensation="distill")
    before = copy.deepcopy([model.spare.state_dict(), model.counts, model.norm.state_dict()])
    plan.apply()
    after = [model.spare.state_dict(), model.counts, model.norm.state_dict()]
    kept = th.as_tensor(plan.keep["a"])
    statistics = [{key: v if v.dim() == 0 else v[kept] for key, v in before[2].items() if "running" in key or v.dim() == 0}]
    assert same(dict(before[0]), dict(after[0])) and th.equal(before[1], after[1])
    assert same(statistics[0], {key: after[2][key] for key in statistics[0]})
    assert th.equal(generator, th.get_rng_state()) and model.norm.training


OUTPUTS = {
    "a vector": lambda y: y[:, 0],
    "a pair": lambda y: (y, y**2),
    "a dictionary": lambda y: {"mean": y, "nothing": None, "choice": y.argmax(1)},
    "a map": lambda y: y.reshape(-1, 1, 2),
    "a constant": lambda y: y * 0.0,
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_of_any_structure(kind):
    model = Calls(lambda m, x: OUTPUTS[kind](m.b(th.tanh(m.a(x)))), a=nn.Linear(3, 12), b=nn.Linear(12, 2))
    report = prune_model(model, None, [x for x, _ in batches()], 0.5, criterion="magnitude", compensation="distill")
    assert report.widths["a"] == (12, 6) and all(th.isfinite(parameter).all() for parameter in model.parameters())


def test_one_observation_is_enough():
    model, data = mlp((3, 12, 2)), batches(n=1, count=1)
    before = model(data[0][0])
    prune_model(model, mse, data, 0.5, compensation="distill")
    assert (model(data[0][0]) - before).abs().max() < 0.05


def test_a_fit_that_does_not_come_closer_is_taken_back(monkeypatch):
    results = []
    for kind in ("least_squares", "distill"):
        monkeypatch.setattr(distillation, "LEARNING_RATE", 10.0)
        th.manual_seed(0)
        model = mlp((3, 12, 2))
        prune_model(model, mse, batches(), 0.5, compensation=kind)
        results.append(list(model.parameters()))
    assert same(*results)


def test_an_output_that_never_varies_does_not_drown_the_others():
    errors = {}
    for kind in ("least_squares", "distill"):
        th.manual_seed(0)
        model, data = mlp((3, 24, 24, 2)), batches(n=100)
        with th.no_grad():
            model[4].weight[1] = 0.0
        dense = copy.deepcopy(model)
        prune_model(model, mse, data, 0.8, criterion="random", compensation=kind)
        x = th.cat([x for x, _ in data])
        errors[kind] = ((model(x) - dense(x)) ** 2).mean(0)
    assert errors["distill"][0] < 0.7 * errors["least_squares"][0] and errors["distill"][1] < 1e-8
