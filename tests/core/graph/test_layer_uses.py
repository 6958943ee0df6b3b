"""Hessian-gradient products put together layer by layer, against the dense Hessian, wherever layers are used in odd ways."""

import pytest
import torch as th
from torch import nn
from torch.nn import functional as F
from torch.profiler import profile

from rl_crop.core.graph.layer_uses import LayerUses
from rl_crop.core.importance.curvature import gradient, hessian_gradient_product
from tests.zoo.networks import Calls, batches, mlp, mse
from tests.zoo.oracles import dense_hessian


class Doubled(th.autograd.Function):
    """x @ (2 w), which autograd sees and no interception of functions does."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w * 2

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return grad @ w.t() * 2, x.t() @ grad * 2


def two(function, **modules):
    return Calls(function, a=nn.Linear(3, 4), b=nn.Linear(4, 2), **modules)


def conv(**options):
    return Calls(
        lambda m, x: m.b(m.c(x.reshape(-1, 2, 3, 4)).tanh().flatten(1)), c=nn.Conv2d(2, 4, 3, **options), b=nn.LazyLinear(2)
    )


def seen_through(function):
    """A model whose loss is a function of it and its inputs, beside the usual one."""
    return two(lambda m, x: m.b(m.a(x).tanh()) + function(m, x))


def penalty(m, x):
    """The squared gradient of the outputs by the inputs, as in gradient penalties."""
    x = x.clone().requires_grad_()
    return th.autograd.grad(m.b(m.a(x).tanh()).sum(), x, create_graph=True)[0].square().sum()


def functional(m, x):
    return th.func.grad(lambda row: m.b(m.a(row).tanh()).sum())(x[0]).square().sum()


class Remembers(Doubled):
    """Has an attribute of the name that leaves have in the graph."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.variable = w
        return Doubled.forward(ctx, x, w)


# A model, and how many of its weights are differentiated by layer
ODD = {
    "in place": (lambda: two(lambda m, x: m.b(F.softplus(m.a(x).mul_(2).tanh_()))), 2),
    "twice": (lambda: two(lambda m, x: m.b(m.s(m.s(m.a(x)).tanh()).tanh()), s=nn.Linear(4, 4)), 3),
    "without activation": (lambda: two(lambda m, x: m.b(m.a(x)).sigmoid()), 2),
    "residual": (lambda: two(lambda m, x: m.b((m.a(x) + m.s(m.a(x).tanh())).tanh()), s=nn.Linear(4, 4)), 3),
    "weight decay": (lambda: two(lambda m, x: m.b(m.a(x).tanh()) + m.a.weight.pow(3).sum()), 1),
    "transposed": (lambda: two(lambda m, x: m.b((m.a(x).tanh() @ m.a.weight @ m.a.weight.t()).tanh())), 1),
    "unseen": (lambda: two(lambda m, x: m.b(Doubled.apply(m.a(x).tanh(), m.a.weight)[:, [0, 1, 2, 0]].tanh())), 1),
    "unseen, remembering": (
        lambda: two(lambda m, x: m.b(Remembers.apply(m.a(x).tanh(), m.a.weight)[:, [0, 1, 2, 0]].tanh())),
        1,
    ),
    "in place, of a view": (
        lambda: two(lambda m, x: m.b(m.a(x.reshape(-1, 2, 3)).tanh_()).mul_(2).sum(1).repeat_interleave(2, 0)),
        0,
    ),
    "gradient penalty": (lambda: seen_through(penalty), 0),
    "functional gradient": (lambda: seen_through(functional), 0),
    "detached": (lambda: seen_through(lambda m, x: m.b(m.a(x).detach()) * 2 + m.a(x).detach().sum()), 2),
    "detached, and unseen": (lambda: two(lambda m, x: m.b(m.a(x).detach()) + m.a.weight.pow(3).sum()), 1),
    "one unit": (lambda: two(lambda m, x: m.b(m.a(x).tanh()) + F.linear(x, m.v.bias).tanh()[:, None], v=nn.Linear(3, 3)), 2),
    "by keyword": (lambda: two(lambda m, x: m.b(F.linear(x, weight=m.a.weight).tanh())), 1),
    "sequences": (lambda: two(lambda m, x: m.b(m.a(x.reshape(-1, 2, 3)).tanh().sum(1)).repeat_interleave(2, 0)), 2),
    "stride and groups": (lambda: conv(stride=2, padding=(1, 0), groups=2), 2),
    "dilation": (lambda: conv(padding=2, dilation=2, bias=False), 2),
    "padding by name": (lambda: conv(padding="same"), 1),
    "reflected": (lambda: conv(padding=1, padding_mode="reflect"), 2),
}


@pytest.mark.parametrize("case", ODD)
def test_products_equal_the_dense_hessians(case):
    build, by_layer = ODD[case]
    model, data = build(), batches((24,) if "Conv2d" in str(build()) else (3,))
    model(data[0][0])
    exact, hessian, split = dense_hessian(model, mse, data)
    parameters = list(model.parameters())
    g = list(split(exact).values())
    product = hessian_gradient_product(lambda batch: mse(model, batch), parameters, data, g)
    for found, expected in zip(product, split(hessian @ exact).values(), strict=True):
        assert (found - expected).abs().max() <= 1e-10 * expected.abs().max()

    with LayerUses(parameters) as recorder:
        loss = mse(model, data[0])
    assert len({use.weight for use in recorder.sole(loss)}) == by_layer


def test_mixed_precision_is_left_to_autograd():
    model, data = mlp().float(), [(x.float(), y.float()) for x, y in batches()]
    with LayerUses(model.parameters()) as recorder, th.autocast("cpu", th.bfloat16):
        loss = mse(model, data[0])
    assert recorder.sole(loss) == []


def held(call, parameters):
    """:return: the most that a call holds in tensors beyond what was there, in units of the parameters"""
    with profile(profile_memory=True) as profiler:
        call()
    events = profiler.profiler.kineto_results.events()
    amount = most = 0
    for _, change in sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"):
        amount += change
        most = max(most, amount)
    return most / sum(parameter.numel() * parameter.element_size() for parameter in parameters)


@pytest.mark.parametrize("count", [1, 3])
def test_a_product_holds_little_besides_itself(count):
    model, data = mlp((3, 600, 600, 2)), batches(count=count)
    parameters = list(model.parameters())

    def loss(batch):
        return mse(model, batch)

    g = gradient(loss, parameters, data)
    assert held(lambda: gradient(loss, parameters, data), parameters) < 2.2  # the sum, and what is added to it
    assert held(lambda: hessian_gradient_product(loss, parameters, data, g), parameters) < 1.5
