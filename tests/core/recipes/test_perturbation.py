import copy

import pytest
import torch as th
from torch import nn

from rl_crop.core.prune import module_subject
from rl_crop.core.pruning.planning import trace
from rl_crop.core.recipes.perturbation import bridgeout, computed, gate_l1, gated
from tests.zoo.networks import Residual, batches, cnn, mlp, mse, settled
from tests.zoo.snapshots import hooks, same, state


def units_of(model, data, optimizers=(), mirrors=()):
    """The model as a subject, and its groups of units."""
    subject = module_subject(model, None, data, optimizers=optimizers, mirrors=mirrors)
    return subject, list(trace(subject).groups.values())


def traces(model):
    own = [([name for name, _ in m.named_parameters(recurse=False)], vars(m).get("weight"), type(m)) for m in model.modules()]
    return own, hooks(model)


def test_layers_compute_with_functions_while_parameters_stay():
    model, x = mlp((3, 4, 2)), th.randn(5, 3)
    before, marks = state(model), traces(model)
    with computed([model], [(model[0].weight, lambda w, training: 2 * w), (model[0].weight, lambda w, training: w + 1)]):
        expected = model[2](th.tanh(x @ (2 * model[0].weight + 1).T + model[0].bias))
        assert th.allclose(model(x), expected)
        assert same(before | {"hooks": hooks(model)}, state(model)) and isinstance(model[0].weight, nn.Parameter)
        with pytest.raises(RuntimeError):
            model(th.randn(5, 7))
        assert "weight" not in model[0].__dict__
    assert traces(model) == marks


def test_bridgeout_has_the_stated_mean_and_variance_and_spares_zeros():
    layer = nn.Linear(40, 30, bias=False)
    with th.no_grad():
        layer.weight[:, :5] = 0.0
    weight, draws = layer.weight.detach().clone(), []
    q, p = 1.5, 0.3
    with bridgeout(layer, ["weight"], q, p):
        for _ in range(4000):
            draws.append(layer(th.eye(40)).T.detach())
    draws = th.stack(draws)
    deviation = (weight.abs() ** q * p / (1 - p)).sqrt()
    errors = (draws.mean(0) - weight) / (deviation / 4000**0.5).clamp_min(1e-12)
    assert errors[:, 5:].abs().max() < 5 and errors[:, 5:].std() < 1.1 and (draws[:, :, :5] == 0).all()
    assert th.allclose(draws.var(0), deviation**2, rtol=0.15)
    # The two values that each weight takes.
    power = weight.abs() ** (q / 2)
    values = th.stack([weight - power, weight + power * (1 / (1 - p) - 1)])
    assert ((draws[:50, None] - values).abs().min(1).values < 1e-12).all()


def test_bridgeouts_own_exponent_and_probability_are_the_papers():
    layer = nn.Linear(12, 9, bias=False)
    weight = layer.weight.detach().clone()
    with bridgeout(layer, ["weight"]):
        draws = th.stack([layer(th.eye(12)).T.detach() for _ in range(400)])
    power = weight.abs() ** 0.75
    dropped, raised = weight - power, weight + power * (1 / 0.7 - 1)
    is_dropped = (draws - dropped).abs() < 1e-12
    assert (is_dropped | ((draws - raised).abs() < 1e-12)).all()
    assert abs(is_dropped.double().mean() - 0.3) < 0.01


def test_bridgeout_is_off_in_eval_mode_and_gone_afterwards():
    model, data = mlp((3, 6, 2)), batches()
    before, marks, expected = state(model), traces(model), model(data[0][0])
    with bridgeout(model, ["0.weight", "2.weight"]):
        assert not th.equal(model(data[0][0]), model(data[0][0]))
        model[0].weight.data[0, 0] = 0.0  # a masked weight has a finite gradient
        mse(model, data[0]).backward()
        assert all(th.isfinite(parameter.grad).all() for parameter in model.parameters())
        model[0].weight.data.copy_(before[0, "0.weight", "data"])
        model.zero_grad()
        assert th.equal(model.eval()(data[0][0]), expected)
        mlp((3, 6, 2)).load_state_dict(model.state_dict())  # a checkpoint in between is an ordinary one
        model.train()
    assert same(before, state(model)) and traces(model) == marks and th.equal(model(data[0][0]), expected)


def test_the_noise_of_bridgeout_is_a_penalty_on_the_q_norm():
    """For a linear model and squared errors the mean gradient is that of the error plus Σ |w|^q x² p / (1 − p)."""
    layer, q, p = nn.Linear(10, 1, bias=False), 1.5, 0.3
    x, y = th.randn(20, 10), th.randn(20, 1)
    penalised = mse(layer, (x, y)) + (layer.weight.abs() ** q * x**2).sum(1).mean() * p / (1 - p)
    (expected,) = th.autograd.grad(penalised, layer.weight)
    with bridgeout(layer, ["weight"], q, p):
        draws = th.cat([th.autograd.grad(mse(layer, (x, y)), layer.weight)[0] for _ in range(3000)])
    errors = (draws.mean(0) - expected[0]) / (draws.std(0) / 3000**0.5)
    (plain,) = th.autograd.grad(mse(layer, (x, y)), layer.weight)
    assert errors.abs().max() < 4 and ((draws.mean(0) - plain[0]) / (draws.std(0) / 3000**0.5)).abs().max() > 8


@pytest.mark.parametrize(
    "build", [lambda: (mlp(), (3,), 2), lambda: (cnn(), (1, 5, 5), 2), lambda: (Residual(), (2, 5, 5), 3)]
)
def test_gates_fold_exactly_and_leave_the_same_parameters_to_the_optimizer(build):
    model, shape, outputs = build()
    settled(model, shape)
    data = batches(shape, outputs)
    optimizer = th.optim.Adam(model.parameters(), lr=0.05)
    subject, groups = units_of(model, data, [optimizer])
    objects, marks = [id(p) for p in model.parameters()], traces(model)
    listed = [id(p) for p in optimizer.param_groups[0]["params"]]
    with gate_l1(subject, groups, 0.01) as gates:
        for batch in data:
            optimizer.zero_grad()
            mse(model, batch).backward()
            optimizer.step()
        assert set(gates) == {group.name for group in groups} and all((gate != 1).any() for gate in gates.values())
        gated_outputs = model.eval()(data[0][0])
        moments = {id(p): optimizer.state[p]["exp_avg"].clone() for p in model.parameters()}
    assert th.equal(model(data[0][0]), gated_outputs)
    assert [id(p) for p in model.parameters()] == objects and traces(model) == marks
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == listed and len(optimizer.state) == len(listed)
    assert all(th.equal(optimizer.state[p]["exp_avg"], moments[id(p)]) for p in model.parameters())
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


@pytest.mark.parametrize("build", [lambda: (mlp(), (3,), 2), lambda: (Residual(), (2, 5, 5), 3)])
def test_a_gate_of_zero_is_a_unit_that_sends_nothing(build):
    model, shape, outputs = build()
    settled(model, shape).eval()
    data = batches(shape, outputs)
    subject, groups = units_of(model, data)
    for group in groups:
        gates = {group.name: th.ones(group.n_units)}
        gates[group.name][1] = 0.0
        seen = {}
        module = dict(model.named_modules())[{"stem": "norm0"}.get(group.name, group.name)]
        handle = module.register_forward_hook(lambda layer, inputs, output, seen=seen: seen.update(out=output))
        with gated(subject, [group], gates), th.no_grad():
            model(data[0][0])
        handle.remove()
        if group.name != "first":  # a layer before a norm is gated in the norm
            assert (seen["out"][:, 1] == 0).all() and (seen["out"][:, 0] != 0).any()


@pytest.mark.parametrize(("optimizer", "lr", "strength"), [(th.optim.SGD, 0.5, 0.05), (th.optim.Adam, 0.02, 1.0)])
def test_l1_drives_gates_of_useless_units_to_zero(optimizer, lr, strength):
    model = mlp((3, 8, 1))
    with th.no_grad():
        model[2].weight[:, 4:] = 0.0  # nobody listens to the second half
    x = th.randn(64, 3)
    y = x.sum(1, keepdim=True).tanh()
    listening = [model[0].weight, model[0].bias]
    trained = optimizer(listening, lr=lr)
    with gate_l1(*units_of(model, [(x, y)], [trained]), strength) as gates:
        for _ in range(60):
            trained.zero_grad()
            mse(model, (x, y)).backward()
            trained.step()
        useless, useful = gates["0"][4:].detach().clone(), gates["0"][:4].detach().clone()
    assert (useless == 0).all() and useful.abs().max() > 0
    assert (model[0].weight[4:] == 0).all()


def test_targets_compute_with_the_same_gates_and_get_them_folded_in():
    model, data = mlp((3, 5, 2)), batches()
    target = copy.deepcopy(model)
    optimizer = th.optim.SGD(model.parameters(), lr=0.1)
    expected = copy.deepcopy(model)
    with gate_l1(*units_of(model, data, [optimizer], [target]), 0.1) as gates:
        optimizer.zero_grad()
        mse(model, data[0]).backward()
        optimizer.step()
        with th.no_grad():
            for parameter in (expected[0].weight, expected[0].bias):
                parameter.mul_(gates["0"].reshape(-1, *[1] * (parameter.dim() - 1)))
        assert th.equal(target(data[0][0]), expected(data[0][0]))
    assert all(th.equal(a, b) for a, b in zip(target.parameters(), expected.parameters(), strict=True))


def test_tied_weights_are_computed_in_every_layer():
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    model, x = nn.Sequential(first, second), th.randn(5, 4)
    expected = 4 * model(x)
    with computed([model], [(first.weight, lambda w, training: 2 * w)]):
        assert th.allclose(model(x), expected)
