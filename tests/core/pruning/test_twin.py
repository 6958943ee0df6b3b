"""What no trace sees shows when a cut is tried: the layer stays whole, with the reason, or the cut is refused."""

import math

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils import dlpack

from rl_crop.core.prune import plan_pruning
from tests.zoo.networks import Calls, batches, mse
from tests.zoo.outcomes import widths_of_exact_cut


def three(middle, after=lambda m, h, y: y):
    """Two hidden layers; something is done with what the second computes, and with the outputs."""
    return Calls(
        lambda m, x: (lambda h: after(m, h, m.c(middle(m, h))))(th.tanh(m.b(th.tanh(m.a(x))))),
        a=nn.Linear(3, 8), b=nn.Linear(8, 6), c=nn.Linear(6, 2),
    )  # fmt: skip


@th.jit.script
def scripted_mean(h: th.Tensor):
    return h.mean(-1, keepdim=True)


class Scripted(nn.Module):
    def forward(self, h: th.Tensor):
        return h - h.mean(-1, keepdim=True)


class OwnGradient(th.autograd.Function):
    @staticmethod
    def forward(ctx, h):
        return h - h.mean(-1, keepdim=True)

    @staticmethod
    def backward(ctx, grad):
        return grad - grad.mean(-1, keepdim=True)


scripted_module = th.jit.script(Scripted())
by_row = th.func.vmap(lambda row: row - row.mean())
WIDTHS = {  # numbers computed from a width
    "readout by width": three(lambda m, h: h, lambda m, h, y: y * (6 / h.shape[-1])),
    "square root": three(lambda m, h: h / h.shape[-1] ** 0.5),
    "size()": three(lambda m, h: h / math.sqrt(h.size(1))),
    "out_features": three(lambda m, h: h / m.b.out_features),
    "in_features": three(lambda m, h: h, lambda m, h, y: y / m.c.in_features),
    "shape of a weight": three(lambda m, h: h, lambda m, h, y: y / m.c.weight.shape[1]),
    "number of elements": three(lambda m, h: h, lambda m, h, y: y * m.b.bias.numel()),
    "length": three(lambda m, h: h, lambda m, h, y: y / len(m.b.weight)),
    "fan in": three(lambda m, h: h * nn.init._calculate_fan_in_and_fan_out(m.c.weight)[0] ** -0.5),
    "temperature": three(lambda m, h: h, lambda m, h, y: (y / h.shape[-1]).softmax(-1)),
    "mean as a sum": three(lambda m, h: h, lambda m, h, y: y + th.ones(len(h), 1) * h.shape[1]),
    "loop": three(lambda m, h: h * sum(0.1 for _ in range(h.shape[1]))),
    "choice": three(lambda m, h: h, lambda m, h, y: y if h.shape[1] > 5 else -y),
    "places": three(lambda m, h: h * th.linspace(0, 1, h.shape[1])),
}
UNSEEN = {  # calls that mix units where nobody sees it
    "scripted function": three(lambda m, h: h - scripted_mean(h)),
    "scripted module": three(lambda m, h: scripted_module(h)),
    "vmap": three(lambda m, h: by_row(h)),
    "dlpack": three(lambda m, h: h - dlpack.from_dlpack(h.detach().__dlpack__()).mean(-1, keepdim=True)),
    "numpy": three(lambda m, h: h - th.from_numpy(np.asarray(h.detach()).mean(-1, keepdims=True))),
    "list": three(lambda m, h: h - th.tensor([sum(row) / len(row) for row in h.tolist()])[:, None]),
    "function with its own gradient": three(lambda m, h: OwnGradient.apply(h)),
    "size in a view": three(lambda m, h: h.view(-1, 6)),
    "named tensor": three(lambda m, h: h - th.as_tensor(h.data.numpy()).mean(-1, keepdim=True)),
}


@pytest.mark.parametrize("case", [*WIDTHS, *UNSEEN])
@pytest.mark.filterwarnings("ignore")
def test_a_layer_whose_cut_differs_from_masks_stays_whole(case):
    widths, plan = widths_of_exact_cut((WIDTHS | UNSEEN)[case].double(), mse, batches())
    assert widths is not None and widths.keys() == {"a"}, plan
    assert plan.graph.untouched["b"]


EXACT = {
    "layer norm": Calls(
        lambda m, x: m.c(m.n(th.tanh(m.a(x)))), a=nn.Linear(3, 8), n=nn.LayerNorm(8), c=nn.Linear(8, 2)
    ),
    "rms norm": Calls(lambda m, x: m.c(m.n(th.tanh(m.a(x)))), a=nn.Linear(3, 8), n=nn.RMSNorm(8), c=nn.Linear(8, 2)),
    "noise": Calls(lambda m, x: m.c(th.tanh(m.a(x)) + 0.1 * th.randn(len(x), m.a.out_features)), a=nn.Linear(3, 8),
                   c=nn.Linear(8, 2)),
    "infinite outputs": Calls(
        lambda m, x: th.where(th.arange(2) == 1, -th.inf, m.c(th.tanh(m.a(x)))), a=nn.Linear(3, 8), c=nn.Linear(8, 2)
    ),
    "nan outputs": Calls(
        lambda m, x: F.pad(m.c(th.tanh(m.a(x))), (0, 1), value=th.nan), a=nn.Linear(3, 8), c=nn.Linear(8, 2)
    ),
    "decisions": Calls(lambda m, x: m.c(th.tanh(m.a(x))).argmax(-1), a=nn.Linear(3, 8), c=nn.Linear(8, 2)),
}  # fmt: skip


@pytest.mark.parametrize("case", EXACT)
def test_what_a_norm_noise_or_infinity_explains_is_cut(case):
    plan = plan_pruning(EXACT[case].double(), None, batches(), 0.4, criterion="magnitude", compensation="none")
    assert plan.widths_after == {"a": 5} or plan.widths_after == {"a": 4}
    plan.apply()


def test_a_cut_that_differs_where_the_trial_did_not_is_refused():
    """Only widths below three are treated in another way."""
    model = three(lambda m, h: h, lambda m, h, y: y if h.shape[1] > 2 else -y).double()
    widths, plan = widths_of_exact_cut(model, mse, batches(), 0.9, scope="layer")
    assert widths is None and plan.widths_after["b"] < 3
