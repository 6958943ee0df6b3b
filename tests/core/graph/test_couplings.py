"""Networks whose layers share units in unusual ways: cut, each equals its masked dense twin."""

import pytest
import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.prune import plan_pruning
from tests.zoo.networks import Calls, batches, mse, settled
from tests.zoo.oracles import MaskedTwin


class Signs(th.autograd.Function):
    """An operation of one's own, with a straight-through gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, grad):
        return grad


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs)


def dense_block(m, x):
    first = F.relu(m.a(x))
    second = F.relu(m.b(th.cat([x, first], 1)))
    return m.c(th.cat([x, first, second], 1))


def highway(m, x):
    h = th.tanh(m.a(x))
    gate = th.sigmoid(m.b(h))
    return m.c(gate * F.relu(m.d(h)) + (1 - gate) * h)


VECTORS = {
    "one encoder, two inputs": (
        lambda m, x: m.b(th.cat([th.tanh(m.a(x)), th.tanh(m.a(2 * x))], 1)), {"a": (3, 6), "b": (12, 2)}, {"a"},
    ),
    "dense block": (dense_block, {"a": (3, 6), "b": (9, 5), "c": (14, 2)}, {"a", "b"}),
    "highway": (highway, {"a": (3, 6), "b": (6, 6), "c": (6, 2), "d": (6, 6)}, {"a"}),
    "steps of a sequence": (
        lambda m, x: m.b(F.gelu(m.a(x.unsqueeze(2))).flatten(1)), {"a": (1, 6), "b": (18, 2)}, {"a"},
    ),
    "steps of a sequence, channels first": (
        lambda m, x: m.b(F.gelu(m.a(x.unsqueeze(2))).transpose(1, 2).flatten(1)), {"a": (1, 6), "b": (18, 2)}, {"a"},
    ),
    "maximum of two layers": (
        lambda m, x: m.c(th.maximum(F.relu(m.a(x)), F.relu(m.b(x)))), {"a": (3, 6), "b": (3, 6), "c": (6, 2)}, {"a"},
    ),
    "scaled by a parameter": (
        lambda m, x: m.b(th.tanh(m.a(x)) * m.a.bias), {"a": (3, 6), "b": (6, 2)}, {"a"},
    ),
    "an operation of one's own": (lambda m, x: m.b(Signs.apply(m.a(x))), {"a": (3, 6), "b": (6, 2)}, {"a"}),
    "two heads": (
        lambda m, x: m.b(th.tanh(m.a(x))) + th.tanh(m.d(F.elu(m.a(x)))), {"a": (3, 6), "b": (6, 2), "d": (6, 2)}, {"a"},
    ),
}  # fmt: skip
IMAGES = {
    "depthwise with two outputs a channel": (
        lambda: [nn.Conv2d(2, 6, 1), nn.ReLU(), nn.Conv2d(6, 12, 3, groups=6), nn.ReLU(), nn.Flatten(),
                 nn.Linear(108, 2)], {"0"},
    ),
    "depthwise, twice": (
        lambda: [nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6),
                 nn.Flatten(), nn.Linear(6, 2)], {"0"},
    ),
    "equal groups in a row": (
        lambda: [nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=4),
                 nn.Flatten(), nn.Linear(4, 2)], {"0", "2", "4"},
    ),
    "norm after a flatten": (
        lambda: [nn.Conv2d(2, 5, 4), nn.Flatten(), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 2)], {"0"},
    ),
    "one channel": (
        lambda: [nn.Conv2d(2, 1, 3), nn.Tanh(), nn.Conv2d(1, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6, 2)], {"0", "2"},
    ),
    "pools of all kinds": (
        lambda: [nn.Conv2d(2, 6, 2, padding=1), nn.MaxPool2d(2, 1), nn.AvgPool2d(2, 1), nn.LPPool2d(2, 2, 1), nn.ReLU6(),
                 nn.Upsample(scale_factor=2), nn.ZeroPad2d(1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 2)], {"0"},
    ),
}  # fmt: skip


def check(model, shape, expected):
    data = batches(shape, n=20)
    plan = plan_pruning(model, mse, data, 0.3, criterion="random", compensation="none", seed=4)
    twin = MaskedTwin(model, plan).model
    report = plan.apply()
    assert set(plan.keep) == expected and report.n_params_after < report.n_params_before
    model.eval(), twin.eval()
    assert max((model(x) - twin(x)).abs().max() for x, _ in data) < 1e-12
    mse(model, data[0]).backward()


@pytest.mark.parametrize("name", VECTORS)
def test_vectors(name):
    function, sizes, expected = VECTORS[name]
    check(Calls(function, **{key: linear(*size) for key, size in sizes.items()}), (3,), expected)


@pytest.mark.parametrize("name", IMAGES)
def test_images(name):
    layers, expected = IMAGES[name]
    check(settled(nn.Sequential(*layers()), (2, 5, 5)), (2, 5, 5), expected)


def test_a_mapped_function_is_refused():
    model = Calls(lambda m, x: th.vmap(lambda row: m.b(th.tanh(m.a(row))))(x), a=nn.Linear(3, 6), b=nn.Linear(6, 2))
    with pytest.raises(PruningError, match="could not be looked at"):
        plan_pruning(model, mse, batches(), 0.5)
