"""Models of many kinds: each is cut, and then equals its masked twin, or is refused with everything as it was."""

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.utils import prune as masks
from torch.utils.checkpoint import checkpoint

from rl_crop.core.errors import PruningError
from rl_crop.core.importance.criteria import CRITERIA
from rl_crop.core.prune import plan_pruning, prune_model
from tests.zoo.networks import Calls, batches, mlp, mse
from tests.zoo.oracles import MaskedTwin
from tests.zoo.snapshots import same, state


@dataclass
class Outputs:
    prediction: th.Tensor
    nothing: None = None


def chain(middle, forward=None):
    """A linear layer, something odd, and two layers that can be pruned after it."""
    forward = forward or (lambda odd, h: odd(h))
    return Calls(
        lambda m, x: m.c(th.tanh(m.b(forward(m.odd, th.tanh(m.a(x)))))),
        a=nn.Linear(3, 8), odd=middle, b=nn.Linear(8, 10), c=nn.Linear(10, 2),
    )  # fmt: skip


def attention(odd, h):
    return odd(h[:, None], h[:, None], h[:, None], need_weights=False)[0][:, 0]


def transposed():
    layers = [
        nn.Conv2d(1, 4, 2),
        nn.Tanh(),
        nn.ConvTranspose2d(4, 4, 2),
        nn.Tanh(),
        nn.Conv2d(4, 5, 2),
        nn.Tanh(),
        nn.Flatten(),
    ]
    return nn.Sequential(*layers, nn.Linear(80, 2))


def tied_autoencoder():
    model = chain(nn.Linear(8, 8))
    model.function = lambda m, x: m.c(th.tanh(m.b(F.linear(th.tanh(m.odd(th.tanh(m.a(x)))), m.odd.weight.t()))))
    return model


WHOLE = {  # what is left whole: the layers pruned all the same
    "transposed weight": (tied_autoencoder, {"b"}),
    "matrix product": (lambda: chain(nn.Linear(8, 8), lambda odd, h: h @ odd.weight.T), {"b"}),
    "bilinear": (lambda: chain(nn.Bilinear(8, 8, 8), lambda odd, h: odd(h, h)), {"b"}),
    "weight norm": (lambda: chain(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))), {"b"}),
    "old weight norm": (lambda: chain(nn.utils.weight_norm(nn.Linear(8, 8))), {"b"}),
    "spectral norm": (lambda: chain(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))), {"b"}),
    "old spectral norm": (lambda: chain(nn.utils.spectral_norm(nn.Linear(8, 8))), {"b"}),
    "masks of torch": (lambda: chain(masks.random_unstructured(nn.Linear(8, 8), "weight", 0.5)), {"b"}),
    "softmax": (lambda: chain(nn.Softmax(1)), {"b"}),
}
CUT = {
    "transposed convolution": (transposed, {"0", "2", "4"}),
    "lstm": (lambda: chain(nn.LSTM(8, 8, batch_first=True), lambda odd, h: odd(h[:, None])[0][:, 0]), {"a", "odd", "b"}),
    "gru cell": (lambda: chain(nn.GRUCell(8, 8)), {"a", "odd", "b"}),
    "attention": (
        lambda: chain(nn.MultiheadAttention(8, 2, batch_first=True), attention),
        {"a", "odd", "odd.out_proj", "b"},
    ),
    "checkpoint": (lambda: chain(nn.Linear(8, 8), lambda odd, h: checkpoint(odd, h, use_reentrant=False)), {"a", "odd", "b"}),
    "frozen layer": (lambda: chain(nn.Linear(8, 8).requires_grad_(False)), {"a", "odd", "b"}),
    "one unit": (lambda: chain(nn.Sequential(nn.Linear(8, 1), nn.Tanh(), nn.Linear(1, 8))), {"a", "b", "odd.0", "odd.2"}),
    "dropout": (lambda: chain(nn.Sequential(nn.Dropout(0.5), nn.AlphaDropout(0.2))), {"a", "b"}),
    "compiled": (lambda: th.compile(chain(nn.Identity()), backend="eager"), {"a", "b"}),
    "empty parameter": (lambda: chain(nn.ParameterList([th.zeros(0, 3)]), lambda odd, h: h), {"a", "b"}),
    "scripted activation": (lambda: chain(nn.Linear(8, 8), lambda odd, h: F.silu(odd(h))), {"a", "odd", "b"}),
}


@pytest.mark.parametrize("case", [*WHOLE, *CUT])
@pytest.mark.parametrize("criterion", ["crop", "crop_gate", "span_crop", "synflow"])
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_cut_is_left_whole_and_the_rest_is_cut(case, criterion):
    build, expected = (WHOLE | CUT)[case]
    model = build()
    data = batches((1, 5, 5) if case == "transposed convolution" else (3,))
    before = state(model)
    plan = plan_pruning(model, mse, data, 0.4, criterion=criterion, compensation="none")
    twin = MaskedTwin(getattr(model, "_orig_mod", model), plan).model
    assert same(before, state(model)) and set(plan.keep) == expected
    if case in WHOLE and case != "softmax":
        assert any(name.startswith(("odd", "2")) and reason for name, reason in plan.graph.untouched.items())
    plan.apply()
    model.eval(), twin.eval()
    for x, _ in data:
        assert (model(x) - twin(x)).abs().max() < 1e-10
    mse(model, data[0]).backward()
    prune_model(model, mse, data, 0.2, criterion=criterion, compensation="distill" if criterion == "crop" else "least_squares")


def test_embeddings_are_left_whole():
    model = Calls(lambda m, i: m.b(th.tanh(m.a(m.e(i).mean(1)))), e=nn.Embedding(9, 6), a=nn.Linear(6, 8), b=nn.Linear(8, 2))
    data = [(th.randint(9, (12, 4)), th.randn(12, 2)) for _ in range(2)]
    report = prune_model(model, mse, data, 0.5, compensation="distill")
    assert report.widths == {"a": (8, 4)} and "embedding" in report.untouched["e"]


LOSSES = {
    "keyword": lambda m, b: F.mse_loss(m(x=b[0]), b[1]),
    "called twice": lambda m, b: F.mse_loss(m(b[0]), b[1]) + m(0.5 * b[0]).square().mean(),
    "called on a part": lambda m, b: F.mse_loss(m(b[0]), b[1]) + m.a(b[0]).square().mean(),
    "penalty on the gradient": lambda m, b: F.mse_loss(m(b[0]), b[1]) + penalty(m, b[0]),
    "one-element tensor": lambda m, b: F.mse_loss(m(b[0]), b[1]).reshape(1, 1),
    "regularised": lambda m, b: F.mse_loss(m(b[0]), b[1]) + sum(p.square().sum() for p in m.parameters()),
}


def penalty(model, x):
    x = x.clone().requires_grad_()
    (slope,) = th.autograd.grad(model(x).sum(), x, create_graph=True)
    return slope.square().mean()


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_of_many_kinds(kind):
    model = Calls(lambda m, x: m.b(th.tanh(m.a(x))), a=nn.Linear(3, 8), b=nn.Linear(8, 2))
    assert prune_model(model, LOSSES[kind], batches(), 0.5).widths == {"a": (8, 4)}


def test_inputs_and_outputs_of_many_kinds():
    model = Calls(lambda m, d: Outputs(m.b(th.tanh(m.a(d["x"]))) * d["scale"]), a=nn.Linear(3, 8), b=nn.Linear(8, 2))
    data = [{"x": x, "y": y, "scale": th.tensor(2.0)} for x, y in batches()]
    report = prune_model(model, lambda m, b: F.mse_loss(m(b).prediction, b["y"]), data, 0.5, compensation="distill")
    assert report.widths == {"a": (8, 4)} and list(report.untouched) == ["b"]


def test_one_observation_and_single_precision():
    for dtype in (th.float32, th.float64, th.bfloat16):
        model = mlp((3, 8, 2)).to(dtype)
        data = [(x.to(dtype), y.to(dtype)) for x, y in batches(n=1, count=1)]
        for compensation in ("least_squares", "distill"):
            report = prune_model(model, mse, data, 0.3, criterion="span_crop", compensation=compensation)
        assert all(parameter.dtype == dtype for parameter in model.parameters()) and report.n_params_after < 42
    assert plan_pruning(mlp((3, 8, 2)), mse, batches(n=1, count=1), 0.3).flops_before == 2 * (24 + 16)


REFUSED = {
    "no hidden layer": (lambda: nn.Linear(3, 2), "no layer whose units can be removed"),
    "nothing but norms": (lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)), "no layer whose units can be removed"),
    "sizes not known yet": (lambda: nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)), "call it once on a batch first"),
    "scripted": (lambda: th.jit.script(mlp()), "not scripted"),
    "all frozen": (lambda: mlp().requires_grad_(False), "does not depend on any parameter"),
    "no module": (lambda: lambda x: x, "Expected a torch.nn.Module"),
    "single units": (lambda: mlp((3, 1, 1, 2)), "the largest reachable is 0"),
    "other inputs": (lambda: mlp((4, 5, 2)), "The loss failed on a batch .RuntimeError.* shapes cannot be multiplied"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_pruned_is_refused(case):
    build, message = REFUSED[case]
    model = build()
    before = state(model) if isinstance(model, nn.Module) and case != "sizes not known yet" else None
    with pytest.raises(PruningError, match=message):
        prune_model(model, mse, batches(), 0.5)
    assert before is None or same(before, state(model))


def test_no_warning_comes_out_of_a_cut():
    model = nn.Sequential(nn.Conv2d(1, 6, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prune_model(model, mse, batches((1, 5, 5)), 0.5, compensation="distill")


class FixedProjection(nn.Module):
    """A reservoir's read-out: the weights between two layers are a buffer."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 12), nn.Linear(6, 2)
        self.register_buffer("fixed", th.randn(6, 12))

    def forward(self, x):
        return self.b(th.tanh(F.linear(th.tanh(self.a(x)), self.fixed)))


@pytest.mark.parametrize("criterion", sorted(CRITERIA.keys() - {"relative_change"}))
def test_weights_that_are_buffers_are_cut_along(criterion):
    model = FixedProjection()
    report = prune_model(model, mse, batches(), 0.5, criterion=criterion, seed=np.int64(3))
    assert report.widths == {"a": (12, 4)} and model.fixed.shape == (6, 4)
