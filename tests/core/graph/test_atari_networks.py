"""Features extractors as plain modules: what their units are, and that cutting them equals masking them."""

import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from torch import nn

from rl_crop.core.graph.finding import find_units
from rl_crop.core.graph.groups import named_tensors
from rl_crop.core.prune import plan_pruning, prune_model
from tests.zoo.extractors import OwnExtractor
from tests.zoo.networks import Calls, mse, settled
from tests.zoo.oracles import MaskedTwin
from tests.zoo.worlds import SIDE


def headed(build, space, *args):
    """An extractor with a linear head, in float64 (Stable-Baselines3's constructors want float32)."""
    th.set_default_dtype(th.float32)
    extractor = build(space, *args)
    model = nn.Sequential(extractor, nn.ReLU(), nn.Linear(extractor.features_dim, 3)).double()
    th.set_default_dtype(th.float64)
    return model


def image(channels, side):
    return spaces.Box(0, 255, (channels, side, side), np.uint8)


def nature():
    return headed(NatureCNN, image(4, 84), 16), th.rand(6, 4, 84, 84)


def combined():
    space = spaces.Dict({"view": image(1, 36), "place": spaces.Box(-1, 1, (3,)), "map": image(3, 44)})
    x = {"view": th.rand(6, 1, 36, 36), "place": th.randn(6, 3), "map": th.rand(6, 3, 44, 44)}
    return headed(CombinedExtractor, space, 10), x


def own():
    return settled(headed(OwnExtractor, image(1, SIDE), 10), (1, SIDE, SIDE)), th.rand(6, 1, SIDE, SIDE)


def depthwise():
    """Two depthwise convolutions, the second with two outputs a channel."""
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(),
        nn.Conv2d(6, 12, 2, groups=6), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 9, 5), nn.ReLU(), nn.Linear(5, 3),
    )  # fmt: skip
    return settled(model, (2, 8, 8)), th.rand(6, 2, 8, 8)


MODELS = {"nature": nature, "combined": combined, "own": own, "depthwise": depthwise}
WIDTHS = {
    "nature": {"0.cnn.0": 32, "0.cnn.2": 64, "0.cnn.4": 64, "0.linear.0": 16},
    "combined": {
        f"0.extractors.{key}.{layer}": width
        for key in ("map", "view")
        for layer, width in {"cnn.0": 32, "cnn.2": 64, "cnn.4": 64, "linear.0": 10}.items()
    },
    "own": {"0.stem.0": 8, "0.inner.0": 6, "0.linear": 10},
    "depthwise": {"0": 6, "8": 5},
}


@pytest.mark.parametrize("name", MODELS)
def test_cut_extractors_equal_their_masked_twins(name):
    model, x = MODELS[name]()
    batch = (x, th.randn(6, 3))
    units = find_units(model, named_tensors(model), [lambda: model(x)], 6).groups
    assert {key: group.n_units for key, group in units.items()} == WIDTHS[name]
    ignore = ("0.linear",) if name == "own" else ()  # a LayerNorm over its units
    plan = plan_pruning(model, mse, [batch], 0.6, criterion="crop", compensation="none", ignore=ignore, scope="layer")
    assert all(plan.widths_after[key] < plan.widths_before[key] for key in plan.widths_before)
    twin = MaskedTwin(model, plan).model
    plan.apply()
    for mode in (False, True):
        model.train(mode), twin.train(mode)
        assert (model(x) - twin(x)).abs().max() < 1e-12


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_columns_behind_maps_of_seven_by_seven(channels_last):
    model = Calls(
        lambda m, x: m.head((m.maps(x).permute(0, 2, 3, 1) if channels_last else m.maps(x)).flatten(1)),
        maps=nn.Sequential(nn.Conv2d(1, 5, 2), nn.ReLU()), head=nn.Linear(5 * 49, 2),
    )  # fmt: skip
    x, dense = th.rand(8, 1, 8, 8), model.head.weight.detach().clone()
    plan = plan_pruning(model, mse, [(x, th.randn(8, 2))], 0.5, criterion="random", compensation="none")
    kept = plan.keep["maps.0"]
    twin = MaskedTwin(model, plan).model
    plan.apply()
    wanted = dense.view(2, 49, 5)[:, :, kept] if channels_last else dense.view(2, 5, 49)[:, kept]
    assert th.equal(model.head.weight, wanted.flatten(1)) and 0 < len(kept) < 5
    assert (model(x) - twin(x)).abs().max() < 1e-12


def test_natures_channels_own_forty_nine_columns_each():
    model, x = nature()
    group = find_units(model, named_tensors(model), [lambda: model(x)], 6).groups["0.cnn.4"]
    slot = next(slot for slot in group.slots if slot.tensor == "0.linear.0.weight")
    assert slot.axis == 1 and np.array_equal(slot.index, np.arange(64 * 49).reshape(64, 49))


def test_the_parts_of_a_dictionary_lie_one_behind_the_other():
    model, x = combined()
    groups = find_units(model, named_tensors(model), [lambda: model(x)], 6).groups
    columns = [
        next(slot for slot in groups[f"0.extractors.{key}.linear.0"].slots if slot.tensor == "2.weight").index.ravel()
        for key in ("map", "view")
    ]
    assert [column.tolist() for column in columns] == [list(range(10)), list(range(13, 23))]  # three of "place" between them


@pytest.mark.parametrize("name", ["nature", "own"])
def test_compensation_brings_a_cut_extractor_closer(name):
    model, x = MODELS[name]()
    dense = model.eval()(x).detach()
    gaps = []
    for compensation in ("none", "least_squares"):
        cut = copy.deepcopy(model)
        prune_model(cut, mse, [(x, dense)], 0.5, criterion="random", compensation=compensation, seed=1)
        gaps.append((cut(x) - dense).abs().max())
    assert gaps[1] < 0.5 * gaps[0]
