"""plan_pruning and the plan: nothing changes while planning; what a plan says; what is refused before anything happens."""

import dataclasses
import random

import numpy as np
import pytest
import torch as th
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import rl_crop
from rl_crop.core.errors import PruningError
from rl_crop.core.importance.criteria import CRITERIA
from rl_crop.core.prune import plan_pruning, prune_model
from rl_crop.core.pruning.plan import PruningPlan
from rl_crop.core.pruning.settings import Settings
from tests.zoo.networks import Residual, batches, cnn, cross_entropy, mlp, mse, noisy_mse, settled
from tests.zoo.oracles import n_params
from tests.zoo.snapshots import same, state


def generators():
    return random.getstate(), np.random.get_state(), th.get_rng_state()


class Noisy(nn.Module):
    """Dropout, BatchNorm in train mode, some modules in other modes, gradients present, a forward that draws numbers."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 6), nn.ReLU())
        self.head = nn.Linear(6, 2)
        self.body[4].eval()
        self.register_buffer("calls", th.zeros(()))

    def forward(self, x):
        random.random(), np.random.rand()
        self.calls += 1
        return self.head(self.body(x)) + 0.1 * th.randn(len(x), 2)


@pytest.mark.parametrize("criterion", sorted(CRITERIA.keys() - {"relative_change"}))
def test_planning_changes_nothing(criterion):
    model, data = Noisy(), batches()
    optimizer = th.optim.Adam(model.parameters())
    mse(model, data[0]).backward()
    optimizer.step()
    before, random_before = state(model, optimizers=[optimizer]), generators()
    loader = DataLoader(TensorDataset(*(th.cat(parts) for parts in zip(*data, strict=True))), batch_size=9, shuffle=True)
    for example in (None, data[0][0]):
        plan_pruning(model, noisy_mse, loader, 0.5, criterion=criterion, optimizers=[optimizer], example_inputs=example)
    assert same(before, state(model, optimizers=[optimizer])) and same(random_before, generators())
    assert model.body[1].training and not model.body[4].training and model.head.weight.grad is not None


def test_the_seed_decides_and_nothing_else():
    model, data = Noisy(), batches()
    plans = []
    for disturbance in (1, 2, 3):
        th.manual_seed(disturbance), np.random.seed(disturbance), random.seed(disturbance)
        plans.append(plan_pruning(model, noisy_mse, data, 0.5, seed=None if disturbance == 1 else disturbance - 2))
    assert same(plans[0].scores, plans[1].scores) and not same(plans[0].scores, plans[2].scores)


def test_what_a_plan_says():
    model, data = mlp((3, 12, 10, 2), nn.ReLU), batches(n=30)
    with th.no_grad():
        model[0].bias[:4] = -100.0  # never active
    plan = plan_pruning(model, mse, data, 0.6, criterion="crop")
    assert isinstance(plan, PruningPlan) and isinstance(plan, rl_crop.PruningPlan)
    assert set(plan.keep) == set(plan.scores) == set(plan.widths_before) == set(plan.widths_after) == {"0", "2"}
    for name, kept in plan.keep.items():
        assert kept.dtype == np.int64 and kept.ndim == 1 and (np.diff(kept) > 0).all()
        assert len(plan.scores[name]) == plan.widths_before[name] and len(kept) == plan.widths_after[name]
    assert plan.dormant["0"][0] >= 4 / 12 and plan.dormant["0"][1] >= plan.dormant["0"][0]
    assert not set(plan.keep["0"]) & {0, 1, 2, 3}  # without gradient flow
    table = str(plan)
    assert "layer" in table and "dormant" in table and "FLOPs" in table and "left whole: 4" in table and "%" in table
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.keep = {}


def test_keys_and_indices_are_of_the_producing_layers_rows():
    model, data = settled(Residual(6), (2, 4, 4)), batches((2, 4, 4), 3)
    plan = plan_pruning(model, mse, data, 0.5)
    named = dict(model.named_modules())
    assert all(isinstance(named[name], nn.Conv2d) for name in plan.keep)
    old = {name: named[name].weight.detach().clone() for name in plan.keep}
    biases = model.stem.bias.detach().clone()
    plan.apply()
    assert th.equal(model.stem.bias, biases[plan.keep["stem"]])  # a producer's rows are kept as they are
    assert all(len(named[name].weight) == len(kept) for name, kept in plan.keep.items()) and len(old) == 2


def test_applying_uses_the_weights_of_that_moment_on_the_observations_of_planning():
    model, other, data = mlp((3, 12, 2)), mlp((3, 12, 2)), batches(n=30)
    inputs = [x.clone() for x, _ in data]
    plan = plan_pruning(model, mse, data, 0.5, criterion="random")
    for x, _ in data:
        x.fill_(float("nan"))
    model.load_state_dict(other.state_dict())
    before = model(inputs[0])
    plan.apply()
    kept = th.as_tensor(plan.keep["0"])
    assert th.equal(model[0].weight, other[0].weight[kept])
    plain = th.tanh(other[0](inputs[0]))[:, kept] @ other[2].weight[:, kept].T + other[2].bias
    assert (model(inputs[0]) - before).norm() < 0.2 * (plain - before).norm()


def test_a_plan_is_applied_once_and_not_to_another_shape():
    model, data = mlp((3, 12, 8, 2)), batches()
    first, second = (plan_pruning(model, mse, data, 0.5) for _ in range(2))
    first.apply()
    for plan in (first, second):
        with pytest.raises(PruningError, match="changed its shape since .* make a new plan"):
            plan.apply()
    plan_pruning(model, mse, data, 0.5).apply()

    model, mirror = mlp((3, 12, 2)), mlp((3, 12, 2))
    plan = plan_pruning(model, mse, data, 0.5, mirrors=[mirror])
    mirror[0] = nn.Linear(3, 11)
    plan_of_model = plan_pruning(model, mse, data, 0.5)
    model[0] = nn.Linear(3, 12)
    with pytest.raises(PruningError, match="has been replaced since"):
        plan_of_model.apply()


def test_prune_model_is_plan_and_apply():
    data = batches()
    models = [mlp((3, 12, 8, 2)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizer = th.optim.Adam(models[1].parameters())
    plan = plan_pruning(models[0], mse, data, 0.7, criterion="span_crop")
    first = plan.apply()
    second = rl_crop.prune_model(models[1], mse, data, 0.7, criterion="span_crop", optimizers=[optimizer])
    assert isinstance(first, rl_crop.PruningReport) and first.widths == second.widths
    assert same(list(models[0].parameters()), list(models[1].parameters()))
    assert rl_crop.plan_pruning is plan_pruning


def test_without_loss_or_data():
    x = th.randn(5, 3)
    model = mlp((3, 8, 2))
    for keywords in ({"criterion": "magnitude"}, {"criterion": "synflow"}, {"criterion": "random"}):
        assert plan_pruning(model, None, None, 0.3, compensation="none", example_inputs=x, **keywords).dormant == {}
    # With observations and no loss, activations and least squares are at hand.
    for data in ([x], [(x, None)], [[x, 1]]):
        plan_pruning(model, None, data, 0.3, criterion="span").apply()
    for name in ("least_squares", "bias", "distill"):
        with pytest.raises(PruningError, match="give batches, or use 'none'"):
            plan_pruning(model, None, None, 0.3, criterion="magnitude", compensation=name, example_inputs=x)
    with pytest.raises(PruningError, match="give example_inputs"):
        plan_pruning(model, None, None, 0.3, criterion="magnitude", compensation="none")


WRONG = {
    "Unknown criterion 'best'": {"criterion": "best"},
    "scope='all' is not one of": {"scope": "all"},
    "budget='bytes' is not one of": {"budget": "bytes"},
    "compensation='some' is not one of": {"compensation": "some"},
    "min_units=0 must be an integer": {"min_units": 0},
    "min_units=1.5 must be an integer": {"min_units": 1.5},
    "seed=-1 must be": {"seed": -1},
    "ignore='nowhere' is not a module": {"ignore": "nowhere"},
    "criterion='span' ranks whole units": {"structured": False, "criterion": "span"},
    "budget='units' counts what units cost": {"structured": False, "budget": "units"},
}


@pytest.mark.parametrize("message", WRONG)
def test_arguments_that_make_no_sense_are_refused(message):
    model = mlp()
    before = state(model)
    with pytest.raises(PruningError, match=message):
        prune_model(model, mse, batches(), 0.5, **WRONG[message])
    assert same(before, state(model))


def test_unknown_arguments_and_empty_data():
    with pytest.raises(TypeError, match="Unknown arguments .*'sparsify'.*'criterion'"):
        plan_pruning(mlp(), mse, batches(), 0.5, sparsify=True)
    for empty in ([], (), None, iter(())):
        with pytest.raises(PruningError, match="give batches|Give batches"):
            prune_model(mlp(), mse, empty, 0.5, example_inputs=th.randn(2, 3))


def test_settings_normalise_ignore_and_name_their_criterion():
    assert Settings(ignore="0").ignore == ("0",)
    assert Settings(criterion=lambda context: {}).criterion_name == "<lambda>"
    assert plan_pruning(mlp(), mse, batches(), 0.3, ignore=["0"]).keep.keys() == {"2"}


def test_classes_and_images():
    model, data = cnn((1, 6, 5)), batches((1, 5, 5), classes=True)
    before = n_params(model)
    report = prune_model(model, cross_entropy, data, 0.8)
    assert report.sparsity["model"] >= 0.8 and n_params(model) == report.n_params_after < 0.3 * before
