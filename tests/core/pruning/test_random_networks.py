"""Random small networks, cut at random: the pruned network equals its masked dense twin, and trains like it."""

import copy

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.importance.criteria import CRITERIA
from rl_crop.core.prune import plan_pruning
from tests.zoo.networks import batches, mse
from tests.zoo.oracles import MaskedTwin, count_removed, n_params
from tests.zoo.snapshots import same, state

ACTIVATIONS = [F.relu, th.tanh, F.elu, F.silu, F.gelu, lambda h: F.leaky_relu(h, 0.1)]


class RandomNetwork(nn.Module):
    """
    A chain of random blocks (plain, residual, concatenating, gated, chunked, twice the same layer) and a linear head.

    :param rng: draws everything.
    :param convolutional: images in, or vectors.
    """

    def __init__(self, rng, convolutional):
        super().__init__()
        self.convolutional = convolutional
        self.activation = ACTIVATIONS[rng.integers(len(ACTIVATIONS))]
        width = int(rng.integers(2, 9))
        self.kinds, self.blocks, norms = [], nn.ModuleList(), rng.random() < 0.5
        self.stem, self.norm = self.make_layer(rng, 2, width), self.make_norm(norms, width)
        for _ in range(rng.integers(0, 4)):
            kind = str(rng.choice(["plain", "residual", "concatenated", "gated", "chunked", "twice", "depthwise", "grouped"]))
            new = width if kind in ("residual", "gated", "twice", "depthwise") else int(rng.integers(1, 5)) * 2
            if kind == "grouped":
                kind, groups = ("plain", 1) if width % 2 or not convolutional else (kind, 2)
            else:
                groups = width if kind == "depthwise" and convolutional else 1
            layers = [self.make_layer(rng, width, 2 * new if kind == "chunked" else new, groups)]
            layers += [self.make_norm(norms, new)]
            if kind in ("residual", "gated"):
                layers += [self.make_layer(rng, width, width)]
            self.kinds.append(kind)
            self.blocks.append(nn.ModuleList(layers))
            width = width + new if kind == "concatenated" else new
        self.pooled = bool(rng.random() < 0.5)
        self.head = nn.Linear(width * (1 if self.pooled or not convolutional else 9), 2)

    def make_layer(self, rng, inputs, outputs, groups=1):
        bias = bool(rng.random() < 0.8)
        if not self.convolutional:
            return nn.Linear(inputs, outputs, bias)
        return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias, groups=groups)

    def make_norm(self, wanted, width):
        return (nn.BatchNorm2d(width) if self.convolutional else nn.BatchNorm1d(width)) if wanted else nn.Identity()

    def forward(self, x):
        act = self.activation
        h = act(self.norm(self.stem(x)))
        for kind, block in zip(self.kinds, self.blocks, strict=True):
            if kind == "chunked":
                first, second = block[0](h).chunk(2, 1)
                h = act(block[1](first)) * act(second)
                continue
            new = act(block[1](block[0](h)))
            if kind == "residual":
                h = h + block[2](new)
            elif kind == "gated":
                h = h * th.sigmoid(block[2](new))
            elif kind == "concatenated":
                h = th.cat([h, new], 1)
            elif kind == "twice":
                h = act(block[0](new))
            else:
                h = new
        if self.convolutional:
            h = h.mean((2, 3)) if self.pooled else h.flatten(1)
        return self.head(h)


def drawn(seed, convolutional):
    """A network with statistics, its data, and random settings of a cut."""
    rng = np.random.default_rng(seed)
    th.manual_seed(seed)
    shape = (2, 3, 3) if convolutional else (2,)
    model, data = RandomNetwork(rng, convolutional), batches(shape, n=16, seed=seed)
    for x, _ in data:
        model(x)
    settings = {
        "criterion": str(rng.choice(sorted(CRITERIA.keys() - {"relative_change"}))),
        "scope": str(rng.choice(["network", "layer", "global"])),
        "budget": str(rng.choice(["params", "flops", "units"])),
        "seed": seed,
    }
    return model, data, float(rng.uniform(0.1, 0.7)), settings


def train(model, optimizer, data, hold=lambda: None):
    for batch in data * 2:
        optimizer.zero_grad()
        mse(model, batch).backward()
        optimizer.step()
        hold()


@pytest.mark.parametrize("convolutional", [False, True], ids=["vectors", "images"])
@pytest.mark.parametrize("seed", range(30))
def test_a_random_network_equals_its_masked_twin(seed, convolutional):
    model, data, sparsity, settings = drawn(seed, convolutional)
    optimizer = th.optim.Adam(model.parameters(), lr=1e-3)
    train(model, optimizer, data)
    before, n_before = state(model, optimizers=[optimizer]), n_params(model)
    try:
        plan = plan_pruning(model, mse, data, sparsity, compensation="none", optimizers=[optimizer], **settings)
    except PruningError as error:
        assert "largest reachable" in str(error) or "no layer" in str(error)
        assert same(before, state(model, optimizers=[optimizer]))
        return
    assert same(before, state(model, optimizers=[optimizer]))
    removed, prunable = count_removed(model, plan)
    twin = MaskedTwin(model, plan)
    follower = th.optim.Adam(twin.model.parameters(), lr=1e-3)
    follower.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    report = plan.apply()
    assert report.n_params_after == n_params(model) == n_before - removed
    assert report.sparsity["model"] == pytest.approx(removed / prunable)
    for mode in (False, True):
        model.train(mode), twin.model.train(mode)
        assert max((model(x) - twin.model(x)).abs().max() for x, _ in data) < 1e-10
    train(model, optimizer, data)
    train(twin.model, follower, data, twin.hold)
    assert max((model(x) - twin.model(x)).abs().max() for x, _ in data) < 1e-6


@pytest.mark.parametrize("convolutional", [False, True], ids=["vectors", "images"])
@pytest.mark.parametrize("compensation", ["bias", "least_squares", "distill"])
@pytest.mark.parametrize("seed", range(100, 104))
def test_a_random_network_is_compensated_and_trains_on(seed, compensation, convolutional):
    model, data, sparsity, settings = drawn(seed, convolutional)
    mirror = copy.deepcopy(model).requires_grad_(False)
    optimizer = th.optim.Adam(model.parameters(), lr=1e-3)
    plan_pruning(
        model, mse, data, sparsity / 2, compensation=compensation, optimizers=[optimizer], mirrors=[mirror], **settings
    ).apply()
    train(model, optimizer, data)
    shapes = [[tensor.shape for tensor in network.state_dict().values()] for network in (model, mirror)]
    assert shapes[0] == shapes[1] and all(th.isfinite(model(x)).all() and th.isfinite(mirror(x)).all() for x, _ in data)
