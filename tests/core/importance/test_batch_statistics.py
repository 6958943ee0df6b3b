"""At initialisation norms are scored with the statistics of the batch; later with their own. The oracle is training mode."""

import copy

import numpy as np
import pytest
import torch as th
from torch import nn

from rl_crop.core.prune import plan_pruning
from rl_crop.core.recipes.engine import PruningEngine
from rl_crop.core.recipes.registry import RECIPES
from tests.zoo.networks import Residual, batches, cross_entropy, mse, settled
from tests.zoo.oracles import unit_sums
from tests.zoo.snapshots import same, state
from tests.zoo.tasks import SmallTask


def normed(norm=nn.BatchNorm1d):
    return nn.Sequential(nn.Linear(3, 8), norm(8), nn.ReLU(), nn.Linear(8, 6), norm(6), nn.ReLU(), nn.Linear(6, 2))


def plain(model, loss, data):
    """g and Hg over all batches, by name, in the mode that the model is in."""
    parameters = dict(model.named_parameters())
    values = list(parameters.values())
    g = [sum(part) for part in zip(*(th.autograd.grad(loss(model, b), values, create_graph=True) for b in data), strict=True)]
    weights = [(a * b.detach()).sum() for name, a, b in zip(parameters, g, g, strict=True) if parameters[name].dim() > 1]
    hg = th.autograd.grad(sum(weights), values)
    return (dict(zip(parameters, [t.detach() for t in each], strict=True)) for each in (g, hg))


NETWORKS = {
    "linear": (normed, (3,), mse),
    "no affine": (lambda: normed(lambda n: nn.BatchNorm1d(n, affine=False)), (3,), mse),
    "cumulative": (lambda: normed(lambda n: nn.BatchNorm1d(n, momentum=None)), (3,), mse),
    "residual": (Residual, (2, 5, 5), cross_entropy),
    "instances": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True), nn.Flatten(), nn.Linear(36, 3)
        ),
        (2, 5, 5), cross_entropy,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("training", [True, False])
def test_saliencies_at_initialisation_are_those_of_training_mode(name, training):
    build, shape, loss = NETWORKS[name]
    model = build().train(training)
    data = batches(shape, 3 if loss is cross_entropy else 2, classes=loss is cross_entropy)
    before = state(model)
    plans = {
        criterion: plan_pruning(model, loss, data, 0.5, criterion=criterion, structured=False)
        for criterion in ("snip", "grasp", "crop", "force")
    }
    units = plan_pruning(model, loss, data, 0.3, criterion="snip", compensation="none")
    assert same(before, state(model)) and all(module.training == training for module in model.modules())
    g, hg = plain(copy.deepcopy(model).train(), loss, data)
    flow = {name: parameter.detach() * hg[name] for name, parameter in model.named_parameters()}
    first = {name: (parameter.detach() * g[name]).abs() for name, parameter in model.named_parameters()}
    expected = {"snip": first, "force": first, "grasp": flow, "crop": {name: t.abs() for name, t in flow.items()}}
    for criterion, plan in plans.items():
        for weight, score in plan.scores.items():
            oracle = expected[criterion][weight].numpy()
            assert np.allclose(score, oracle, rtol=1e-6, atol=1e-9 * np.abs(oracle).max()), (criterion, weight)
    for group, score in units.scores.items():
        assert np.allclose(score, unit_sums(first, units.graph.groups[group]), rtol=1e-6, atol=1e-12)


def test_norms_that_have_seen_data_keep_to_what_they_have_seen():
    model, data = settled(normed(), (3,)), batches()
    plan = plan_pruning(model, mse, data, 0.5, criterion="snip", structured=False)
    g, _ = plain(copy.deepcopy(model).eval(), mse, data)
    assert all(np.allclose(score, (model.get_parameter(n).detach() * g[n]).abs()) for n, score in plan.scores.items())


def test_one_norm_without_statistics_among_others_is_alone_in_using_the_batch():
    model, data = settled(normed(), (3,)), batches()
    model[4].reset_running_stats()
    plan = plan_pruning(model, mse, data, 0.5, criterion="snip", structured=False)
    oracle = copy.deepcopy(model).eval()
    oracle[4].train()
    g, _ = plain(oracle, mse, data)
    assert all(np.allclose(score, (model.get_parameter(n).detach() * g[n]).abs()) for n, score in plan.scores.items())


def test_a_mirror_of_fresh_norms_stays_in_evaluation_mode():
    model = settled(normed(), (3,))
    mirror = normed()
    seen = []
    mirror[1].register_forward_hook(lambda module, inputs, output: seen.append(module.training))

    def distance(net, batch):
        return (net(batch[0]) - mirror.eval()(batch[0]).detach()).pow(2).mean()

    plan_pruning(model, distance, batches(), 0.3, mirrors=[mirror])
    assert seen and not any(seen)


@pytest.mark.parametrize("name", ["snip", "snip_it", "grasp", "force", "crop_u"])
def test_recipes_at_the_start_choose_as_in_training_mode(name):
    th.manual_seed(0)
    task = SmallTask(normed(), batches(n=16, count=4), steps=10)
    oracle = copy.deepcopy(task)
    run = PruningEngine(RECIPES[name], 0.5, task.subject)
    run.update(0.0, lambda: task.batches(4))
    for module in oracle.model.modules():  # an oracle without statistics of its own: always those of the batch
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean = module.running_var = module.num_batches_tracked = None
            module.track_running_stats = False
    other = PruningEngine(RECIPES[name], 0.5, oracle.subject)
    other.update(0.0, lambda: oracle.batches(4))
    assert same(run.masks.keep, other.masks.keep)
    assert not task.model[1].running_mean.any() and (task.model[1].running_var == 1).all()
