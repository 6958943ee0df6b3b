"""Layers and calls by kind: what is cut of each equals the masked twin, and what is left whole says why."""

import pytest
import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn

from rl_crop.core.prune import prune_model
from tests.zoo.networks import Calls, batches, mse
from tests.zoo.outcomes import widths_of_exact_cut


def parted(pick, whole=8):
    """A layer whose outputs are taken apart, and one that reads what is made of the parts."""
    return lambda: Calls(
        lambda m, x: m.c(th.tanh(m.b(pick(th.tanh(m.a(x)))))),
        a=nn.Linear(3, whole), b=nn.Linear(whole // 2, 6), c=nn.Linear(6, 2),
    )  # fmt: skip


def gated(parts):
    first, second = parts
    return first * second


def shuffled(h, groups):
    n, channels, *places = h.shape
    return h.view(n, groups, channels // groups, *places).transpose(1, 2).reshape(n, channels, *places)


def image(between, channels=8, groups=1, inner=8):
    """A convolution, something between, another one, and a head."""
    return lambda: Calls(
        lambda m, x: m.c(th.tanh(m.b(between(m, th.tanh(m.a(x))))).mean((2, 3))),
        a=nn.Conv2d(1, channels, 2), b=nn.Conv2d(inner, 4, 2, groups=groups), c=nn.Linear(4, 2),
    )  # fmt: skip


def transposed(dim, **options):
    kinds = getattr(nn, f"Conv{dim}d"), getattr(nn, f"ConvTranspose{dim}d")
    return lambda: Calls(
        lambda m, x: m.c(th.tanh(m.b(th.tanh(m.t(th.tanh(m.a(x)))))).flatten(2).mean(-1)),
        a=kinds[0](1, 4, 2), t=kinds[1](4, 6, 2, stride=2, **options), b=kinds[0](6, 4, 2), c=nn.Linear(4, 2),
    )  # fmt: skip


def attended(m, x):
    """Two heads, whose number is written out; that of values' features is left open."""
    q, k, v = (layer(x).view(len(x), x.shape[1], 2, -1).transpose(1, 2) for layer in (m.q, m.k, m.v))
    return m.c(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)).mean(1)


def with_heads():
    return Calls(attended, q=nn.Linear(3, 8), k=nn.Linear(3, 8), v=nn.Linear(3, 8), c=nn.Linear(8, 2))


def half(h):
    return h.shape[1] // 2


FLAT, IMAGE = (3,), (1, 5, 5)
CUT = {  # model, shape of an observation, what is cut
    "chunk": (parted(lambda h: gated(h.chunk(2, -1))), FLAT, {"a", "b"}),
    "split": (parted(lambda h: gated(h.split(half(h), -1))), FLAT, {"a", "b"}),
    "split with sizes": (parted(lambda h: gated(h.split([half(h)] * 2, -1))), FLAT, {"a", "b"}),
    "tensor_split": (parted(lambda h: gated(h.tensor_split(2, -1))), FLAT, {"a", "b"}),
    "slices": (parted(lambda h: h[:, : half(h)] * h[:, half(h) :]), FLAT, {"a", "b"}),
    "narrow": (parted(lambda h: h.narrow(1, 0, half(h)) * h.narrow(1, half(h), half(h))), FLAT, {"a", "b"}),
    "every second": (parted(lambda h: h[:, ::2] * h[..., 1::2]), FLAT, {"a", "b"}),
    "glu": (parted(F.glu), FLAT, {"a", "b"}),
    "swiglu": (parted(lambda h: gated((F.silu(h[..., : half(h)]), h[..., half(h) :]))), FLAT, {"a", "b"}),
    "pixel shuffle": (image(lambda m, h: F.pixel_shuffle(h, 2), inner=2), IMAGE, {"a", "b"}),
    "pixel unshuffle": (image(lambda m, h: F.pixel_unshuffle(h, 2), 4, inner=16), (1, 9, 9), {"a", "b"}),
    "channel shuffle": (image(lambda m, h: F.channel_shuffle(h, 2), groups=2, inner=8), IMAGE, {"a", "b"}),
    "channel shuffle by hand": (image(lambda m, h: shuffled(h, 2), groups=2), IMAGE, {"a", "b"}),
    "transposed 1d": (transposed(1), (1, 6), {"a", "t", "b"}),
    "transposed 2d": (transposed(2, padding=1, output_padding=1), IMAGE, {"a", "t", "b"}),
    "transposed 3d": (transposed(3, bias=False), (1, 3, 3, 3), {"a", "t", "b"}),
    "instance norm": (image(lambda m, h: m.n(h)), IMAGE, {"a", "b"}),
    "batch norm without tensors": (image(lambda m, h: m.n(h)), IMAGE, {"a", "b"}),
    "features of values": (with_heads, (5, 3), {"v"}),
}
BARE = {
    "instance norm": nn.InstanceNorm2d(8),
    "batch norm without tensors": nn.BatchNorm2d(8, affine=False, track_running_stats=False),
}
normed = nn.utils.parametrizations
WHOLE = {  # model, shape of an observation, the layer left whole, why
    "slices by number": (parted(lambda h: h[:, :4] * h[:, 4:]), FLAT, "a", "expects its width"),
    "split by number": (parted(lambda h: gated(h.split(4, -1))), FLAT, "a", "expects its width"),
    "unequal parts": (parted(lambda h: h[:, :5][:, :4]), FLAT, "a", "getitem"),
    "transposed in groups": (transposed(2, groups=2), IMAGE, "t", "transposed convolution in groups"),
    "weight norm": (lambda: norm_of(normed.weight_norm), FLAT, "a", "a weight that is computed"),
    "spectral norm": (lambda: norm_of(normed.spectral_norm), FLAT, "a", "a weight that is computed"),
    "old weight norm": (lambda: norm_of(nn.utils.weight_norm), FLAT, "a", "a weight that is computed"),
    "old spectral norm": (lambda: norm_of(nn.utils.spectral_norm), FLAT, "a", "a weight that is computed"),
}


def norm_of(wrap):
    model = Calls(
        lambda m, x: m.d(th.tanh(m.c(th.tanh(m.b(th.tanh(m.a(x))))))),
        a=nn.Linear(3, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 6), d=nn.Linear(6, 2),
    )  # fmt: skip
    wrap(model.b)
    return model


def data_of(shape):
    return [(x.double(), y.double()) for x, y in batches(shape, count=2)]


@pytest.mark.parametrize("case", CUT)
def test_a_cut_equals_the_masked_twin(case):
    build, shape, expected = CUT[case]
    model = build().double()
    model.n = BARE.get(case)
    widths, plan = widths_of_exact_cut(model, mse, data_of(shape), 0.4, scope="layer")
    assert widths is not None and set(widths) == expected, plan
    assert all(after < before for before, after in widths.values())
    assert model.n is None or model.n.num_features == widths["a"][1]


@pytest.mark.parametrize("case", WHOLE)
@pytest.mark.filterwarnings("ignore")
def test_what_stays_whole_says_why(case):
    build, shape, layer, why = WHOLE[case]
    widths, plan = widths_of_exact_cut(build().double(), mse, data_of(shape), 0.3)
    assert widths and layer not in widths and why in plan.graph.untouched[layer]


@pytest.mark.parametrize("case", ["glu", "pixel shuffle", "transposed 2d", "channel shuffle"])
def test_scores_that_know_the_repair_and_the_repair_itself(case):
    build, shape, _ = CUT[case]
    th.manual_seed(0)
    gaps = {}
    for compensation in ("bias", "least_squares"):
        th.manual_seed(0)
        model, data = build().double(), data_of(shape)
        dense = [model(x).detach() for x, _ in data]
        prune_model(model, mse, data, 0.4, criterion="obs", scope="layer", compensation=compensation)
        gaps[compensation] = sum((model(x) - y).square().sum().item() for (x, _), y in zip(data, dense, strict=True))
    assert gaps["least_squares"] < gaps["bias"]
    if case == "transposed 2d":
        assert (model.t.in_channels, model.t.out_channels) == tuple(model.t.weight.shape[:2])
