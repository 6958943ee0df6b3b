"""Sizes found by themselves: known truth, what a tolerance means, and that trials leave no trace."""

import copy
import math

import pytest
import torch as th
from torch import nn

import rl_crop
from rl_crop.core.pruning.automatic import smallest, unexplained
from rl_crop.core.pruning.plan import SizePoint
from tests.zoo.networks import batches, mlp, mse
from tests.zoo.snapshots import same, state


def student(width, activation=nn.Tanh, wide=96, seed=0):
    """A wide network that computes exactly what one of the given width does, its other units being of no use."""
    th.manual_seed(seed)
    teacher = nn.Sequential(nn.Linear(6, width), activation(), nn.Linear(width, 3)).double()
    net = nn.Sequential(nn.Linear(6, wide), activation(), nn.Linear(wide, 3)).double()
    with th.no_grad():
        place = th.randperm(wide)[:width]
        net[2].weight.mul_(1e-4)
        net[0].weight[place], net[0].bias[place] = 2 * teacher[0].weight, teacher[0].bias
        net[2].weight[:, place] = 3 * teacher[2].weight
    return net


def data(n=6, rows=128):
    generator = th.Generator().manual_seed(1)
    return [(th.randn(rows, 6, generator=generator).double(), th.zeros(rows, 3).double()) for _ in range(n)]


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.SiLU])
@pytest.mark.parametrize("width", [4, 12, 32])
def test_known_widths_are_found(width, activation):
    net = student(width, activation)
    plan = rl_crop.plan_pruning(net, mse, data())
    assert plan.settings.criterion == "obs_crop"
    assert width * 0.6 <= plan.widths_after["0"] <= width * 1.25 + 1  # units can be alike


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-3, 1e-5])
def test_the_repaired_cut_keeps_what_the_tolerance_says_on_other_data(tolerance):
    net = mlp((6, 48, 32, 3)).double()
    dense = copy.deepcopy(net)
    report = rl_crop.prune_model(net, mse, data(), tolerance=tolerance)
    x = th.randn(4000, 6).double()
    assert unexplained(dense(x).detach(), net(x).detach()) < 3 * tolerance
    assert report.n_params_after < report.n_params_before or tolerance < 1e-3


def test_a_larger_tolerance_is_a_smaller_network():
    sizes = [rl_crop.plan_pruning(mlp((6, 48, 32, 3)).double(), mse, data(), tolerance=t).n_params_after for t in (1e-4, 1e-2)]
    assert sizes[0] > sizes[1]


def test_planning_leaves_no_trace_and_the_curve_is_of_the_plan():
    net = student(8)
    optimizer = th.optim.Adam(net.parameters())
    mse(net, data()[0]).backward()
    optimizer.step()
    before = state(net, optimizers=[optimizer])
    plan = rl_crop.plan_pruning(net, mse, data(), optimizers=[optimizer])
    assert same(before, state(net, optimizers=[optimizer]))
    points = plan.curve["model"]
    assert [point.n_params for point in points] == sorted(point.n_params for point in points)
    assert any(point.n_params == plan.n_params_after and point.error <= 1e-3 for point in points)
    assert any(point.error > 1e-3 for point in points) and "size of model found" in str(plan)
    report = plan.apply()
    assert report.n_params_after == plan.n_params_after and len(optimizer.state) == 0  # repaired: moments begin anew


def test_the_curve_is_drawn(tmp_path):
    plan = rl_crop.plan_pruning(student(4), mse, data())
    plan.plot(str(tmp_path / "curve.png"))
    assert (tmp_path / "curve.png").stat().st_size > 1000
    with pytest.raises(rl_crop.PruningError, match="no curve"):
        rl_crop.plan_pruning(student(4), mse, data(), 0.5).plot()


def test_auto_is_the_default_and_a_word():
    plans = [rl_crop.plan_pruning(student(8), mse, data(), *given) for given in ((), (None,), ("auto",), ({"model": "auto"},))]
    assert len({plan.n_params_after for plan in plans}) == 1


def test_a_network_that_needs_all_its_units_stays_whole():
    th.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 6)).double()
    before = copy.deepcopy(net.state_dict())
    report = rl_crop.prune_model(net, mse, [(x, th.zeros(len(x), 6).double()) for x, _ in data()], tolerance=1e-6)
    assert report.n_params_after == report.n_params_before and same(before, dict(net.state_dict()))


def test_without_a_loss_or_with_a_criterion_of_ones_own():
    x = [batch[0] for batch in data()]
    assert rl_crop.plan_pruning(student(8), None, x).settings.criterion == "obs"
    assert rl_crop.plan_pruning(student(8), mse, data(), criterion="magnitude").settings.criterion == "magnitude"


WRONG = [
    ({"structured": False, "criterion": "magnitude"}, "needs a sparsity"),
    ({"tolerance": 0}, "tolerance is 0"),
    ({"tolerance": "small"}, "tolerance is 'small'"),
    ({"schedule": "iterative"}, "schedule='iterative' needs a sparsity"),
    ({"scope": "global"}, "scope='global' has one budget"),
]


@pytest.mark.parametrize(("keywords", "message"), WRONG, ids=str)
def test_what_cannot_be_is_said(keywords, message):
    net = student(8)
    before = state(net)
    with pytest.raises(rl_crop.PruningError, match=message):
        rl_crop.prune_model(net, mse, data(), **keywords)
    assert same(before, state(net))


def test_without_observations_it_says_so():
    with pytest.raises(rl_crop.PruningError, match="needs observations|compares outputs"):
        rl_crop.plan_pruning(student(8), None, None, example_inputs=th.zeros(1, 6).double(), compensation="none")


def test_the_first_size_that_fails_counts():
    errors = {0.5: 0.0, 0.75: 0.0, 0.875: 1.0}  # beyond, it would be good again

    def point_at(share):
        return SizePoint(share, share, round(1000 * (1 - share)), errors.get(share, 0.0 if share < 0.8 else 1.0))

    share, points = smallest(point_at, 0.1)
    assert 0.79 < share < 0.8 and all(point.sparsity <= 0.875 for point in points)
    assert smallest(lambda share: None, 0.1) == (0.0, [])


def test_unexplained_variance():
    y = th.tensor([[0.0, 5.0], [2.0, 5.0]])
    assert unexplained(y, y) == 0.0 and unexplained(y, y + 1.0) == pytest.approx(4.0 / 2.0)
    same_infinite = th.tensor([[math.inf, 1.0], [1.0, 3.0]])
    assert unexplained(same_infinite, same_infinite) == 0.0
    assert unexplained(th.ones(2, 1), th.tensor([[1.0], [math.nan]])) == math.inf


@pytest.mark.parametrize("most", [2000, 700, 300])
@pytest.mark.parametrize("multiple", [1, 4])
def test_a_budget_of_parameters_is_met(most, multiple):
    net = mlp((6, 48, 32, 3))
    report = rl_crop.prune_model(net, mse, batches((6,), 3), max_params=most, round_to=multiple)
    left = sum(parameter.numel() for parameter in net.parameters())
    assert left == report.n_params_after <= most
    assert left > most - 48 * (6 + 1 + 32) * multiple / 16  # no more than a few units below
    assert all(after % multiple == 0 for _, after in report.widths.values())


def test_a_budget_of_operations_is_met():
    net = mlp((6, 48, 32, 3))
    report = rl_crop.prune_model(net, mse, batches((6,), 3), max_flops=1000)
    assert report.flops_after <= 1000 < report.flops_before


BUDGETS = [
    ({"max_params": 2}, "max_params=2 of the model cannot be reached"),
    ({"max_params": 5}, "largest reachable|cannot be reached"),
    ({"max_params": 500, "sparsity": 0.5}, "in two ways"),
    ({"max_params": 500, "max_flops": 500}, "two budgets"),
    ({"max_params": "few"}, "max_params='few'"),
    ({"max_params": {"actor": 500}}, "max_params names .'actor'."),
    ({"max_params": 500, "structured": False}, "of units"),
    ({"round_to": 0}, "round_to=0"),
]


@pytest.mark.parametrize(("keywords", "message"), BUDGETS, ids=str)
def test_budgets_that_cannot_be(keywords, message):
    net = mlp((6, 48, 32, 3))
    before = state(net)
    with pytest.raises(rl_crop.PruningError, match=message):
        rl_crop.prune_model(net, mse, batches((6,), 3), **keywords)
    assert same(before, state(net))


def test_a_budget_that_is_there_already_changes_nothing():
    net = mlp((6, 48, 32, 3))
    report = rl_crop.prune_model(net, mse, batches((6,), 3), max_params=10**6)
    assert report.n_params_after == report.n_params_before
