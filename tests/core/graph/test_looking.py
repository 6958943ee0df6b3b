"""Branches that one look at a model does not take, and what a loss reads beside the outputs."""

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.prune import plan_pruning, prune_model
from tests.zoo.networks import Calls, batches, mse
from tests.zoo.outcomes import widths_of_exact_cut


def stem(forward, heads=3, **more):
    """A stem and heads of two outputs."""
    return Calls(forward, stem=nn.Linear(3, 8), heads=nn.ModuleList(nn.Linear(8, 2) for _ in range(heads)), **more)


def h(m, x):
    return th.tanh(m.stem(x))


def all_outputs(m, b):
    outs = m(b[0])
    return sum(F.mse_loss(out, b[1]) for out in (outs if isinstance(outs, tuple) else (outs,)))


def experts(m, x):
    weight = m.gate(x).softmax(-1)
    top = weight.argmax(-1)
    return sum(
        head(h(m, x)) * (weight[:, i : i + 1] * (top == i)[:, None]) for i, head in enumerate(m.heads) if (top == i).any()
    )


def skipping(m, x):
    inner = h(m, x)
    if not m.training or th.rand(()) < 0.5:
        inner = inner + th.tanh(m.block(inner))
    return m.heads[0](inner)


def counted(m, x):
    m.calls = m.calls + 1 if m.training else 0
    return m.heads[0](h(m, x)) + (m.heads[1](h(m, x)) if m.calls % 3 == 0 else 0)


def first_expert(m, x):
    gate = m.gate(x).softmax(-1)
    out, _ = th.stack([head(h(m, x)) for head in m.heads[:2]], 1).max(1)
    return out * gate[:, :1]


BRANCHES = {
    "head of training": (
        lambda: stem(lambda m, x: (m.heads[0](h(m, x)), m.heads[1](h(m, x))) if m.training else m.heads[0](h(m, x))),
        all_outputs,
    ),
    "head of evaluation": (
        lambda: stem(lambda m, x: m.heads[0](h(m, x)) if m.training else m.heads[1](h(m, x))),
        all_outputs,
    ),
    "head by argument": (
        lambda: stem(lambda m, x, task=0: m.heads[task](h(m, x))),
        lambda m, b: F.mse_loss(m(b[0]), b[1]) + F.mse_loss(m(b[0], 2), b[1]),
    ),
    "head by keyword in a dictionary": (
        lambda: Calls(
            lambda m, x, head="first": m.heads[head](h(m, x)), stem=nn.Linear(3, 8),
            heads=nn.ModuleDict({"first": nn.Linear(8, 2), "second": nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))}),
        ),
        lambda m, b: F.mse_loss(m(b[0]), b[1]) + F.mse_loss(m(b[0], head="second"), b[1]),
    ),
    "experts": (lambda: stem(experts, 6, gate=nn.Linear(3, 6)), mse),
    "two experts of three": (lambda: stem(first_expert, 3, gate=nn.Linear(3, 3)), mse),
    "skipped at random in training": (lambda: stem(skipping, 1, block=nn.Linear(8, 8)), mse),
    "skipped at random in evaluation": (
        lambda: stem(lambda m, x: m.heads[int(x.sum() > 0)](h(m, x)), 2), mse,
    ),
    "by the data of a batch": (lambda: stem(lambda m, x: m.heads[int(x[0, 0] > 0)](h(m, x)), 2), mse),
    "every third call": (lambda: stem(counted, 2, calls=0), mse),
    "by the size of a batch": (lambda: stem(lambda m, x: m.heads[int(len(x) > 9)](h(m, x)), 2), mse),
    "in a method that the loss calls": (
        lambda: stem(lambda m, x: m.heads[0](h(m, x)), 2),
        lambda m, b: mse(m, b) + m.heads[1](h(m, b[0])).square().mean(),
    ),
    "auxiliary decoder": (
        lambda: stem(lambda m, x: m.heads[0](h(m, x)), 1, decoder=nn.Linear(8, 3)),
        lambda m, b: mse(m, b) + F.mse_loss(m.decoder(h(m, b[0])), b[0]),
    ),
    "deep supervision": (
        lambda: stem(
            lambda m, x: (m.heads[0](th.tanh(m.block(h(m, x)))), *([m.side(h(m, x))] if m.training else [])), 1,
            block=nn.Linear(8, 8), side=nn.Linear(8, 2),
        ),
        all_outputs,
    ),
    "a switch": (lambda: stem(lambda m, x: m.heads[0](h(m, x)) + (m.heads[1](h(m, x)) if m.on else 0), 2, on=False), mse),
}  # fmt: skip


@pytest.mark.parametrize("case", BRANCHES)
def test_branches_run_after_the_cut(case):
    build, loss = BRANCHES[case]
    model = build()
    widths, plan = widths_of_exact_cut(model, loss, batches())
    assert widths is not None and "stem" in widths, plan
    heads = model.heads.values() if isinstance(model.heads, nn.ModuleDict) else model.heads
    readers = [model.side] if case == "deep supervision" else [getattr(head, "0", head) for head in heads]
    assert {reader.weight.shape[1] for reader in readers} == {widths["stem"][1]}


UNREACHED = {
    "decoder": (lambda: Calls(lambda m, x: m.c(h(m, x)), stem=nn.Linear(3, 8), c=nn.Linear(8, 2), decoder=nn.Linear(8, 3))),
    "deeper decoder": lambda: Calls(
        lambda m, x: m.c(h(m, x)), stem=nn.Linear(3, 8), c=nn.Linear(8, 2),
        decoder=nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)),
    ),
    "norm": lambda: Calls(lambda m, x: m.c(h(m, x)), stem=nn.Linear(3, 8), c=nn.Linear(8, 2), norm=nn.LayerNorm(8)),
    "parameter": lambda: Calls(
        lambda m, x: m.c(h(m, x)), stem=nn.Linear(3, 8), c=nn.Linear(8, 2), scale=nn.Parameter(th.ones(8))
    ),
    "cell": lambda: Calls(lambda m, x: m.c(h(m, x)), stem=nn.Linear(3, 8), c=nn.Linear(8, 2), memory=nn.GRUCell(8, 5)),
    "transposed convolution": lambda: Calls(
        lambda m, x: m.c(h(m, x)), stem=nn.Linear(3, 8), c=nn.Linear(8, 2), up=nn.ConvTranspose1d(8, 3, 2)
    ),
    "attention": lambda: Calls(
        lambda m, x: m.c(h(m, x)), stem=nn.Linear(3, 8), c=nn.Linear(8, 2), pool=nn.MultiheadAttention(8, 2)
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNREACHED)
def test_what_no_call_reaches_may_read_a_layer_of_its_width(case):
    with pytest.raises(PruningError, match="stem: .* no call reached"):
        plan_pruning(UNREACHED[case](), mse, batches(), 0.5)
    model = UNREACHED[case]()
    idle = next(name for name, _ in model.named_children() if name not in ("stem", "c")) if case != "parameter" else None
    if idle is not None:
        assert prune_model(model, mse, batches(), 0.5, ignore=[idle]).widths == {"stem": (8, 4)}


Pair = namedtuple("Pair", "prediction features")


@dataclass
class Record:
    prediction: th.Tensor
    features: th.Tensor


class Slotted:
    __slots__ = ("features", "prediction")

    def __init__(self, prediction, features):
        self.prediction, self.features = prediction, features


class WithMethods(nn.Module):
    def __init__(self, wrap=None):
        super().__init__()
        self.stem, self.b, self.c, self.wrap = nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(6, 2), wrap

    def features(self, x):
        return th.tanh(self.b(h(self, x)))

    @property
    def last(self):
        return self.kept[-1]

    def forward(self, x):
        found = self.features(x)
        self.kept, self.found = [found], {"features": found}
        return self.c(found) if self.wrap is None else self.wrap(self.c(found), found)


class Nested:
    def __init__(self, prediction, features):
        self.inner = SimpleNamespace(both={"prediction": prediction, "features": [features]})

    @property
    def prediction(self):
        return self.inner.both["prediction"]

    @property
    def features(self):
        return self.inner.both["features"][0]


def by_hook(model, seen):
    model.b.register_forward_hook(lambda m, i, o: seen.update(found=o))
    return model


FEATURES = {
    "method": lambda m, x, out, seen: m.features(x),
    "attribute in a list": lambda m, x, out, seen: m.kept[0],
    "attribute in a dictionary": lambda m, x, out, seen: m.found["features"],
    "property": lambda m, x, out, seen: m.last,
    "hook": lambda m, x, out, seen: seen["found"],
    "a layer of its own": lambda m, x, out, seen: m.b(h(m, x)),
}
WRAPPED = {
    "plain object": lambda p, f: SimpleNamespace(prediction=p, features=f),
    "dataclass": Record,
    "named tuple": Pair,
    "slots": Slotted,
    "nested object": Nested,
    "dictionary": lambda p, f: {"prediction": p, "features": f},
}


def part(out, name):
    return out[name] if isinstance(out, dict) else getattr(out, name)


@pytest.mark.parametrize("kind", FEATURES)
def test_features_that_a_loss_compares_keep_their_number(kind):
    seen, teacher = {}, th.randn(12, 6)
    model = by_hook(WithMethods(), seen)

    def loss(m, b):
        out = m(b[0])
        return F.mse_loss(out, b[1]) + F.mse_loss(FEATURES[kind](m, b[0], out, seen), teacher)

    assert widths_of_exact_cut(model, loss, batches())[0].keys() == {"stem"}


@pytest.mark.parametrize("kind", WRAPPED)
def test_features_in_outputs_of_many_kinds_keep_their_number(kind):
    model, teacher = WithMethods(WRAPPED[kind]), th.randn(12, 6)

    def loss(m, b):
        out = m(b[0])
        return F.mse_loss(part(out, "prediction"), b[1]) + F.mse_loss(part(out, "features"), teacher)

    widths, _ = widths_of_exact_cut(model, loss, batches(), run=lambda m, b: part(m(b[0]), "prediction"))
    assert widths.keys() == {"stem"}


ASKED = {
    "cosine similarity": lambda f: 1 - F.cosine_similarity(f, th.ones(6)).mean(),
    "dot product": lambda f: (f @ th.ones(6)).mean(),
    "chosen features": lambda f: f[:, 2].square().mean() + f[:, 5].mean(),
    "a layer of the loss": lambda f: F.linear(f, th.ones(2, 6)).square().mean(),
    "normalised": lambda f: F.normalize(f, dim=-1).sub(th.ones(6)).square().mean(),
    "targets of classes": lambda f: F.cross_entropy(f, th.zeros(len(f), dtype=th.int64)),
}
FREE = {
    "penalty": lambda f: f.abs().mean(),
    "norm": lambda f: f.norm(),
    "similarity between rows": lambda f: (f @ f.T).square().mean(),
    "variance": lambda f: f.var(0).mean(),
}


@pytest.mark.parametrize("kind", [*ASKED, *FREE])
def test_what_a_loss_does_with_features(kind):
    def loss(m, b):
        return mse(m, b) + (ASKED | FREE)[kind](m.features(b[0]))

    widths, _ = widths_of_exact_cut(WithMethods(), loss, batches())
    assert "stem" in widths and ("b" not in widths or kind in FREE)


def test_penalties_on_weights_leave_units_free():
    penalties = {
        "l1": lambda m: m.b.weight.abs().sum(),
        "group lasso": lambda m: m.b.weight.norm(dim=1).sum(),
        "all": lambda m: sum(p.square().sum() for p in m.parameters()),
        "in one vector": lambda m: nn.utils.parameters_to_vector(m.parameters()).norm(),
    }
    for penalty in penalties.values():
        widths, _ = widths_of_exact_cut(WithMethods(), lambda m, b, p=penalty: mse(m, b) + p(m), batches())
        assert widths.keys() == {"stem", "b"}


def test_a_loss_that_no_longer_runs_puts_everything_back():
    model, target = WithMethods(), th.randn(6)

    def loss(m, b):  # by numpy, which nobody sees
        return mse(m, b) + float(((m.c.weight.detach().numpy() - target.numpy()) ** 2).sum()) * 0.0

    widths, found = widths_of_exact_cut(model, loss, batches())
    assert widths is None or "b" not in widths, found
