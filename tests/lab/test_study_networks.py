"""Every network, cut, equals its masked dense twin in float64; what a text model keeps whole is named."""

import pytest
import torch as th

from lab.supervised.networks import NETWORKS
from rl_crop.core.prune import plan_pruning
from rl_crop.supervised.objectives import OBJECTIVES
from tests.zoo.networks import settled
from tests.zoo.oracles import MaskedTwin

pytestmark = pytest.mark.usefixtures("double_precision")
CASES = {
    "mlp": ("mlp", (6,), 3, {"widths": [12, 10], "normalised": True}, "classification"),
    "cnn": ("cnn", (1, 8, 8), 4, {"channels": [6, 8], "widths": [10]}, "classification"),
    "early_exit_cnn": ("early_exit_cnn", (1, 8, 8), 4, {"channels": [6, 8]}, "classification"),
    "resnet18": ("resnet18", (3, 16, 16), 5, {"width": 4}, "classification"),
    "vgg16": ("vgg16", (3, 32, 32), 5, {"width": 2}, "classification"),
    "resnext": ("resnext", (3, 8, 8), 5, {"width": 4, "n_groups": 2, "group_width": 4, "blocks": [2, 1]}, "classification"),
    "coordinate": ("coordinate", (2,), 3, {"widths": [16, 16], "n_frequencies": 4}, "image"),
    "character_transformer": ("character_transformer", (6,), 9, {"width": 8, "n_heads": 2, "hidden": 12}, "language"),
    "character_gru": ("character_gru", (6,), 9, {"width": 8, "hidden": 12}, "language"),
}


def task(case):
    name, shape, n_outputs, options, kind = CASES[case]
    model = NETWORKS[name](shape, n_outputs, **options)
    generator = th.Generator().manual_seed(1)
    if kind == "language":
        inputs, targets = th.randint(n_outputs, (2, 8, *shape), generator=generator)
    else:
        settled(model, shape)
        inputs = th.randn(8, *shape, generator=generator)
        targets = th.randint(n_outputs, (8,), generator=generator) if kind == "classification" else th.rand(8, n_outputs)
    objective = OBJECTIVES[kind]
    return model, lambda network, batch: objective.loss(network(batch[0]), batch[1]), [(inputs, targets)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("criterion", ["crop", "random"])
def test_a_cut_network_equals_its_masked_twin(case, criterion):
    model, loss, batches = task(case)
    plan = plan_pruning(model, loss, batches, 0.5, criterion=criterion, compensation="none", seed=3)
    twin = MaskedTwin(model, plan).model
    n_before = sum(parameter.numel() for parameter in model.parameters())
    report = plan.apply()
    assert report.sparsity["total"] >= 0.5
    assert sum(parameter.numel() for parameter in model.parameters()) == report.n_params_after < n_before
    model.eval(), twin.eval()
    assert (model(batches[0][0]) - twin(batches[0][0])).abs().max() < 1e-12
    model.train()
    loss(model, batches[0]).backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in model.parameters())


def test_residual_blocks_lose_the_channels_that_their_shortcut_loses():
    model, loss, batches = task("resnet18")
    plan_pruning(model, loss, batches, 0.5, compensation="none").apply()
    blocks = [module for module in model if hasattr(module, "shortcut")]
    assert len(blocks) == 8
    for block in blocks:
        outputs = block.convolutions[-1].out_channels
        ways_around = [module for module in block.shortcut.modules() if isinstance(module, th.nn.Conv2d)]
        received = ways_around[0].out_channels if ways_around else block.convolutions[0].in_channels
        assert outputs == received == block.norms[-1].num_features


def test_groups_stay_equal_and_in_number():
    model, loss, batches = task("resnext")
    plan_pruning(model, loss, batches, 0.5, compensation="none").apply()
    grouped = [module for module in model.modules() if isinstance(module, th.nn.Conv2d) and module.groups > 1]
    assert len(grouped) == 3 and all(layer.groups == 2 for layer in grouped)
    assert any(layer.out_channels < width for layer, width in zip(grouped, (8, 8, 16), strict=True))
    assert all(layer.in_channels % 2 == layer.out_channels % 2 == 0 for layer in grouped)


@pytest.mark.parametrize(
    ("case", "units", "whole"),
    [
        ("character_transformer", {"blocks.1.block.hidden", "blocks.3.block.hidden"}, {"embedding", "blocks.0.block.inputs"}),
        ("character_gru", {"blocks.1.block.hidden"}, {"embedding", "blocks.0.block.gru"}),
    ],
)
def test_text_models_lose_units_of_their_mlp_blocks_alone(case, units, whole):
    model, loss, batches = task(case)
    plan = plan_pruning(model, loss, batches, 0.5)
    assert set(plan.keep) == units and whole <= set(plan.graph.untouched)


def test_attention_does_not_look_ahead():
    model, _, [(codes, _)] = task("character_transformer")
    changed = codes.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 9
    before, after = model(codes), model(changed)
    assert th.equal(before[:, :4], after[:, :4]) and not th.allclose(before[:, 4:], after[:, 4:])


def test_standard_networks_have_their_published_sizes():
    counts = {
        name: sum(parameter.numel() for parameter in NETWORKS[name]((3, 32, 32), 10).parameters())
        for name in ("resnet18", "vgg16", "resnext")
    }
    assert counts == {"resnet18": 11_173_962, "vgg16": 14_724_042, "resnext": 34_426_698}
