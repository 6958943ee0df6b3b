import copy

import numpy as np
import pytest
import torch as th
from torch import nn

from rl_crop.core.importance import activations
from rl_crop.core.prune import plan_pruning, prune_model
from rl_crop.core.pruning import compensation, distillation
from tests.zoo.networks import Calls, Residual, batches, mlp, mse, settled


def keeping(**kept):
    """A criterion that keeps these units of these layers."""

    def criterion(context):
        found = {group.name: np.zeros(group.n_units) for group in context.groups}
        for name, units in kept.items():
            found[name.lstrip("_")][units] = 1.0
        return found

    return criterion


def cut(model, data, kept, **keywords):
    """Cut the first of two layers, of eight units, to the given four."""
    return prune_model(model, mse, data, 0.5, criterion=keeping(_0=kept), budget="units", **keywords)


def inputs_of(data):
    return th.cat([x for x, _ in data])


def augmented(matrix):
    return np.hstack([matrix, np.ones((len(matrix), 1))])


def test_least_squares_equals_numpys(monkeypatch):
    monkeypatch.setattr(compensation, "RIDGE", 1e-13)
    model, data = mlp((3, 8, 2)), batches(n=40)
    dense = copy.deepcopy(model)
    cut(model, data, [0, 2, 3, 7])
    hidden = th.tanh(dense[0](inputs_of(data))).detach().numpy()[:, [0, 2, 3, 7]]
    solution, *_ = np.linalg.lstsq(augmented(hidden), dense(inputs_of(data)).detach().numpy(), rcond=None)
    assert np.allclose(model[2].weight.detach().numpy(), solution[:-1].T, atol=1e-8)
    assert np.allclose(model[2].bias.detach().numpy(), solution[-1], atol=1e-8)
    assert th.equal(model[0].weight, dense[0].weight[[0, 2, 3, 7]])


def test_the_ridge_pulls_towards_the_plain_cut():
    model, data = mlp((3, 8, 2)), batches(n=40)
    dense, kept = copy.deepcopy(model), [0, 2, 3, 7]
    cut(model, data, kept)
    x = th.tanh(dense[0](inputs_of(data))).detach().numpy()[:, kept]
    y = dense(inputs_of(data)).detach().numpy()
    x, y = x - x.mean(0), y - y.mean(0)
    plain = dense[2].weight.detach().numpy()[:, kept]
    ridge = compensation.RIDGE * (x**2).sum(0).mean()
    delta = np.linalg.solve(x.T @ x + ridge * np.eye(4), x.T @ (y - x @ plain.T)).T
    assert np.allclose(model[2].weight.detach().numpy(), plain + delta, atol=1e-10)


@pytest.mark.parametrize("kind", ["bias", "least_squares"])
def test_means_are_restored_layer_by_layer(kind):
    model, data = mlp((3, 10, 10, 10, 2)), batches(n=40)
    dense = copy.deepcopy(model)
    plan = plan_pruning(model, mse, data, 0.5, compensation=kind, scope="layer")
    plan.apply()
    for consumer in (2, 4, 6):
        kept = plan.keep.get(str(consumer), np.arange(2))
        before, after = (network[: consumer + 1](inputs_of(data)).mean(0) for network in (dense, model))
        assert (after - before[th.as_tensor(kept)]).abs().max() < 1e-12


def test_bias_leaves_the_weights_alone():
    model, data = mlp((3, 8, 2)), batches(n=40)
    dense = copy.deepcopy(model)
    cut(model, data, [0, 2, 3, 7], compensation="bias")
    assert th.equal(model[2].weight, dense[2].weight[:, [0, 2, 3, 7]])
    gone = th.tanh(dense[0](inputs_of(data)))[:, [1, 4, 5, 6]].mean(0)
    assert th.allclose(model[2].bias, dense[2].bias + dense[2].weight[:, [1, 4, 5, 6]] @ gone, atol=1e-12)


def test_later_layers_are_fitted_on_the_inputs_they_now_get(monkeypatch):
    monkeypatch.setattr(compensation, "RIDGE", 1e-13)
    model, data = mlp((3, 8, 8, 2)), batches(n=60)
    dense = copy.deepcopy(model)
    prune_model(model, mse, data, 0.5, scope="layer", budget="units")
    hidden = model[:4](inputs_of(data)).detach().numpy()
    solution, *_ = np.linalg.lstsq(augmented(hidden), dense(inputs_of(data)).detach().numpy(), rcond=None)
    assert np.allclose(model[4].weight.detach().numpy(), solution[:-1].T, atol=1e-7)


CONSUMERS = {
    "plain": (nn.Conv2d, {}),
    "stride": (nn.Conv2d, {"stride": 2}),
    "padding": (nn.Conv2d, {"padding": 1}),
    "padding same": (nn.Conv2d, {"padding": "same"}),
    "reflected": (nn.Conv2d, {"padding": 1, "padding_mode": "reflect"}),
    "dilation": (nn.Conv2d, {"dilation": 2}),
    "stride, padding and dilation": (nn.Conv2d, {"stride": (2, 1), "padding": (0, 1), "dilation": (1, 2)}),
    "groups": (nn.Conv2d, {"groups": 2, "padding": 1}),
    "no bias": (nn.Conv2d, {"bias": False}),
    "one dimension": (nn.Conv1d, {"stride": 2, "padding": 1}),
    "three dimensions": (nn.Conv3d, {"padding": 1}),
    "flattened": (None, {}),
}


@pytest.mark.parametrize("case", CONSUMERS)
def test_a_channel_that_the_others_reproduce_is_repaired_exactly(case, monkeypatch):
    monkeypatch.setattr(compensation, "RIDGE", 1e-12)
    kind, options = CONSUMERS[case]
    dims = {nn.Conv1d: 1, nn.Conv3d: 3}.get(kind, 2)
    size = (9,) if dims == 1 else (4,) * dims if dims == 3 else (7, 7)
    first = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims](2, 6, 1)
    with th.no_grad():  # channels 2 and 5 are combinations of 0, 1 and of 3, 4
        for gone, kept in ((2, (0, 1)), (5, (3, 4))):
            for tensor in (first.weight, first.bias):
                tensor[gone] = 0.7 * tensor[kept[0]] - 1.3 * tensor[kept[1]]
    if kind is None:
        model = nn.Sequential(first, nn.Flatten(), nn.Linear(6 * 49, 3))
    else:
        model = nn.Sequential(first, kind(6, 4, 3, **options), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))
        model(th.zeros(1, 2, *size))
    data = batches((2, *size), 3, n=40)
    dense, ignore = copy.deepcopy(model), [str(i) for i in range(1, 5) if i < len(model)]
    kept = [0, 1] if case == "groups" else [0, 1, 3, 4]
    report = prune_model(model, mse, data, 0.3, criterion=keeping(_0=kept), ignore=ignore, budget="units")
    assert report.widths == {"0": (6, 4)} and len(model[0].weight) == 4
    fresh = th.randn(20, 2, *size)
    assert (model(fresh) - dense(fresh)).abs().max() < 1e-6
    assert any("1 has no bias" in note for note in report.notes) == (case == "no bias")


def test_fewer_rows_are_enough(monkeypatch):
    """Rows are chosen alike for inputs and targets."""
    monkeypatch.setattr(compensation, "RIDGE", 1e-12)
    monkeypatch.setattr(activations, "MAX_ROWS", 60)
    test_a_channel_that_the_others_reproduce_is_repaired_exactly("padding", monkeypatch)


def test_outputs_that_the_model_writes_to_are_remembered_as_they_were():
    plain = nn.Sequential(*mlp((3, 8, 2)), nn.ReLU())
    writing = nn.Sequential(*copy.deepcopy(list(plain)[:-1]), nn.ReLU(inplace=True))
    data, kept = batches(n=40), [0, 2, 3, 7]
    for model in (plain, writing):
        cut(model, data, kept)
    assert th.equal(plain[2].weight, writing[2].weight) and th.equal(plain[2].bias, writing[2].bias)


def test_mirrors_are_fitted_on_their_own_activations():
    model, data = mlp((3, 10, 8, 2)), batches(n=40)
    mirror, alone = mlp((3, 10, 8, 2)), mlp((3, 10, 8, 2))
    mirror.requires_grad_(False)
    alone.load_state_dict(mirror.state_dict())
    plan = plan_pruning(model, mse, data, 0.5, mirrors=[mirror])
    kept = {f"_{name}": units for name, units in plan.kept_units.items()}
    plan.apply()
    same_units = plan_pruning(alone, mse, data, plan.sparsity["total"], criterion=keeping(**kept))
    assert all((same_units.keep[name] == plan.keep[name]).all() for name in plan.keep)
    same_units.apply()
    for first, second in zip(mirror.parameters(), alone.parameters(), strict=True):
        assert th.allclose(first, second, atol=1e-12) and first.grad is None and not first.requires_grad


def test_dead_units_keep_their_plain_weights():
    model, data = mlp((3, 8, 2), nn.ReLU), batches(n=40)
    with th.no_grad():
        model[0].bias[3] = -100.0
    dense = copy.deepcopy(model)
    cut(model, data, [0, 2, 3, 7])
    assert th.allclose(model[2].weight[:, 2], dense[2].weight[:, 3], atol=1e-12)
    assert not th.allclose(model[2].weight[:, 0], dense[2].weight[:, 0], atol=1e-3)


def test_a_computed_bias_is_left_to_the_model(monkeypatch):
    monkeypatch.setattr(compensation, "RIDGE", 1e-12)
    model = Calls(lambda m, x: th.nn.functional.linear(m.a(x), m.b.weight, 2 * m.b.bias), a=nn.Linear(3, 6), b=nn.Linear(6, 2))
    with th.no_grad():
        for tensor in (model.a.weight, model.a.bias):
            tensor[5] = tensor[0] - tensor[1]
    data = batches(n=40)
    dense = copy.deepcopy(model)
    report = prune_model(model, mse, data, 0.1, criterion=keeping(a=[0, 1, 2, 3, 4]), budget="units")
    assert (model(inputs_of(data)) - dense(inputs_of(data))).abs().max() < 1e-6
    assert th.equal(model.b.bias, dense.b.bias) and report.notes[0].startswith("b has no bias")


def test_each_repair_is_better_than_the_one_before(monkeypatch):
    monkeypatch.setattr(distillation, "STEPS", 60)
    errors = {}
    for kind in compensation.COMPENSATIONS:
        th.manual_seed(3)
        model = settled(Residual(12), (2, 4, 4))
        model.eval()
        data = batches((2, 4, 4), 3, n=150)
        dense = copy.deepcopy(model)
        prune_model(model, mse, data, 0.8, compensation=kind)
        x, _ = batches((2, 4, 4), 3, n=200, seed=9)[0]
        errors[kind] = mse(model.eval(), (x, dense(x))).item()
    assert errors["distill"] < errors["least_squares"] < errors["bias"] < errors["none"]
