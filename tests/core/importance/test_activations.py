import numpy as np
import pytest
import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn

from rl_crop.core.graph.observer import LayerObserver
from rl_crop.core.graph.tracer import tensors_in
from rl_crop.core.importance import activations
from rl_crop.core.importance.activations import dormant_shares, patches_of, rows_of, unit_activations
from rl_crop.core.prune import plan_pruning
from tests.zoo.networks import Calls, mlp


def test_rows_are_positions_and_the_same_choice_of_them(monkeypatch):
    maps = th.randn(5, 3, 4, 2)
    rows = rows_of(maps, 1)
    assert rows.shape == (40, 3) and th.equal(rows[9], maps[1, :, 0, 1])
    monkeypatch.setattr(activations, "MAX_ROWS", 7)
    other = th.randn(5, 6, 4, 2)
    chosen = [int((rows == row).all(1).nonzero()[0]) for row in rows_of(maps, -3)]
    assert len(chosen) == 7 and chosen == sorted(chosen)
    assert th.equal(rows_of(other, -3), other.movedim(1, -1).reshape(-1, 6)[chosen])


CALLS = {
    "linear": (lambda x, w, b: F.linear(x, w, b), (6, 5), (4, 5)),
    "sequences": (lambda x, w, b: F.linear(x, w, b), (6, 3, 5), (4, 5)),
    "convolution": (lambda x, w, b: F.conv2d(x, w, b, 2, 1), (3, 4, 6, 5), (2, 4, 3, 2)),
    "groups and dilation": (lambda x, w, b: F.conv2d(x, w, b, dilation=2, groups=2), (3, 4, 6, 5), (6, 2, 2, 2)),
    "one dimension": (lambda x, w, b: F.conv1d(x, w, b, stride=2), (3, 4, 9), (2, 4, 3)),
}


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("few", [False, True], ids=["all rows", "some rows"])
def test_a_layer_is_a_matrix_product_of_its_patches(kind, few, monkeypatch):
    if few:
        for name, value in (("MAX_ROWS", 5), ("MIN_OBSERVATIONS", 2), ("AT_ONCE", 1)):
            monkeypatch.setattr(activations, name, value)
    function, input_shape, weight_shape = CALLS[kind]
    x, weight, bias = th.randn(input_shape), th.randn(weight_shape), th.randn(weight_shape[0])

    def call(input=x, weight=weight, bias=bias):
        return function(input, weight, bias)

    patches = patches_of(x, weight, call)
    n_groups = patches.shape[1]
    product = th.einsum("rgf,gof->rgo", patches, weight.reshape(n_groups, -1, patches.shape[2]))
    wanted = rows_of(call(), -1 if weight.dim() == 2 else -(weight.dim() - 1))
    assert th.allclose(product.reshape(len(patches), -1) + bias, wanted, atol=1e-12) and (len(wanted) <= 5 or not few)


def test_inputs_of_several_consumers_are_stacked_once_each():
    model = Calls(
        lambda m, x: (m.b(m.a(x)), m.c(th.tanh(m.a(x)))), a=nn.Linear(3, 4), b=nn.Linear(4, 2), c=nn.Linear(4, 2)
    )  # fmt: skip
    x = th.randn(6, 3)
    plan = plan_pruning(model, None, None, 0.0, criterion="magnitude", compensation="none", example_inputs=x)
    weights = {"b.weight": model.b.weight, "c.weight": model.c.weight}
    found = unit_activations(plan.graph.groups.values(), weights, [lambda: model(x)])["a"]
    hidden = model.a(x).detach()
    assert np.allclose(found, th.cat([hidden, th.tanh(hidden)]).numpy())
    model.function = lambda m, x: (lambda h: (m.b(h), m.c(h)))(m.a(x))  # the same tensor twice
    assert len(unit_activations(plan.graph.groups.values(), weights, [lambda: model(x)])["a"]) == 6


def test_dormant_shares_among_all_and_among_the_removed():
    model = mlp((3, 4, 2))
    plan = plan_pruning(model, None, None, 0.0, criterion="magnitude", compensation="none", example_inputs=th.ones(1, 3))
    rows = np.array([[0.0, 1.0, -2.0, 0.01]] * 5)
    assert dormant_shares({"0": rows}, {"0": np.array([1, 2, 3])}, plan.graph) == {"0": (0.5, 1.0)}
    assert dormant_shares({"0": rows}, {"0": np.arange(4)}, plan.graph) == {"0": (0.5, 0.0)}
    assert dormant_shares({}, {"0": np.arange(4)}, plan.graph) == {}


def test_an_observer_sees_layers_and_can_repeat_their_calls_with_other_tensors():
    model, x = mlp((3, 4, 2)), th.randn(5, 3)
    seen = {}

    def before(name, received, weight, bias, call):
        seen[name] = (received, call(), call(weight=2 * weight, bias=None))
        assert not th.is_grad_enabled()

    with LayerObserver({id(model[2].weight): "second"}, before):
        out = model(x)
    received, plain, other = seen.pop("second")
    assert not seen and th.equal(plain, out) and out.requires_grad
    assert th.allclose(other, 2 * (out - model[2].bias)) and th.allclose(received, th.tanh(model[0](x)))


def test_tensors_in_nested_structures():
    a, b = th.ones(1), th.ones(2)
    distribution = th.distributions.Normal(a, a)
    assert [len(t) for t in tensors_in({"x": [a, (b, None)], "y": "text"})] == [1, 2, 1][:2]
    assert sum(1 for _ in tensors_in(distribution)) >= 2 and list(tensors_in(3)) == []
