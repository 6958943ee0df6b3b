"""Structured Optimal Brain Surgeon: order and errors against refitting every candidate anew, and against the real repair."""

import copy

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import named_tensors
from rl_crop.core.importance.obs import Reader, errors_along, readers_of, removal_order
from rl_crop.core.importance.received import ReceivedMoments
from rl_crop.core.model import Copy, Network, Subject, make_run
from rl_crop.core.prune import plan_pruning
from rl_crop.core.pruning import compensation
from rl_crop.core.pruning.planning import make_plan
from rl_crop.core.pruning.settings import Settings
from tests.zoo.networks import Calls, batches, cnn, mlp, mse
from tests.zoo.oracles import dense_hessian


def left_without(matrix, weight, features, ridge):
    """Refit y = W x without some features: (what the surgeon minimises, what is no longer computed), both squared."""
    moments = matrix.T @ matrix / len(matrix)
    stays = np.setdiff1d(np.arange(weight.shape[1]), features)
    change = np.zeros_like(weight)
    change[:, features] = -weight[:, features]
    system = moments[np.ix_(stays, stays)] + ridge * np.eye(len(stays))
    change[:, stays] = np.linalg.solve(system, moments[np.ix_(stays, features)] @ weight[:, features].T).T
    lost = ((matrix @ change.T) ** 2).sum() / len(matrix)
    return lost + ridge * (change**2).sum(), lost


class Consumer:
    """What one layer receives (rows x features, centred where it has a bias), its weights, and which features are a unit's."""

    def __init__(self, matrix, weight, units, bias=True):
        self.matrix = matrix - matrix.mean(0) * bias
        self.weight, self.units = weight, units
        self.ridge = compensation.RIDGE * (self.matrix**2).mean()
        self.variance = ((self.matrix @ weight.T) ** 2).sum() / len(matrix)

    def without(self, gone):
        both = left_without(self.matrix, self.weight, self.units[list(gone)].ravel(), self.ridge)
        return np.array(both) / self.variance


def removed_one_by_one(consumers, first=()):
    """The naive surgeon: every candidate refitted anew at every step. Order, and errors with 0, 1, ... units gone."""
    gone, errors, n_units = list(first), [0.0] * (len(first) + 1), len(consumers[0].units)
    while len(gone) < n_units:
        costs = {j: sum(c.without([*gone, j])[0] for c in consumers) for j in range(n_units) if j not in gone}
        gone.append(min(costs, key=costs.get))
        errors.append(sum(c.without(gone)[1] for c in consumers))
    return gone, np.array(errors)


def scores_along(order, errors):
    """What the criterion gives each unit: the increment of the error, never less than that of a unit that went before."""
    scores = np.empty(len(order))
    scores[order] = np.maximum.accumulate(np.diff(np.maximum.accumulate(errors)))
    return scores


def planned(model, data, criterion="obs", **keywords):
    return plan_pruning(model, mse, data, 0.3, criterion=criterion, compensation="none", **keywords)


def assert_scores(found, consumers, first=()):
    order, errors = removed_one_by_one(consumers, first)
    assert list(np.argsort(found, kind="stable")) == order
    assert np.allclose(found, scores_along(order, errors), rtol=1e-7, atol=1e-12)


def inputs_of(data):
    return th.cat([x for x, _ in data])


def after(model, place, data):
    """What the layer at a place of a sequence receives."""
    with th.no_grad():
        return model[:place](inputs_of(data))


def linear(matrix, layer):
    weight = layer.weight.detach().numpy()
    return Consumer(matrix.numpy(), weight, np.arange(weight.shape[1])[:, None], layer.bias is not None)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.SiLU])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_equal_the_naive_surgeon(activation, bias):
    model, data = mlp((3, 9, 7, 2), activation), batches(n=20)
    model[2], model[4] = nn.Linear(9, 7, bias=bias), nn.Linear(7, 2, bias=bias)
    scores = planned(model, data).scores
    assert_scores(scores["0"], [linear(after(model, 2, data), model[2])])
    assert_scores(scores["2"], [linear(after(model, 4, data), model[4])])


def test_a_unit_of_a_convolution_is_a_kernel_and_after_a_flatten_a_map():
    model, data = cnn((1, 6, 5)), batches((1, 5, 5), n=8)
    scores = planned(model, data).scores
    patches = F.unfold(after(model, 2, data), 2).transpose(1, 2).reshape(-1, 24).numpy()
    kernel = Consumer(patches, model[2].weight.detach().flatten(1).numpy(), np.arange(24).reshape(6, 4))
    assert_scores(scores["0"], [kernel])
    flat, weight = after(model, 5, data).numpy(), model[5].weight.detach().numpy()
    assert_scores(scores["2"], [Consumer(flat, weight, np.arange(45).reshape(5, 9))])


def test_a_unit_of_grouped_convolutions_goes_in_every_group():
    model = nn.Sequential(nn.Conv2d(1, 8, 2), nn.Tanh(), nn.Conv2d(8, 4, 2, groups=2), nn.Flatten(), nn.Linear(36, 2))
    data = batches((1, 5, 5), n=10)
    patches = F.unfold(after(model, 2, data), 2).transpose(1, 2).reshape(-1, 8, 4).numpy()
    weight = model[2].weight.detach().flatten(1).numpy()
    halves = [
        Consumer(patches[:, half * 4 : half * 4 + 4].reshape(-1, 16), weight[half * 2 : half * 2 + 2],
                 np.arange(16).reshape(4, 4))
        for half in range(2)
    ]  # fmt: skip
    assert_scores(planned(model, data).scores["0"], halves)


def test_consumers_add_up_and_those_of_one_input_are_one():
    def forward(net, x):
        h = th.tanh(net.first(x))
        return net.mean(h), net.spread(h), net.square(h**2)

    parts = {
        "first": nn.Linear(3, 8),
        "mean": nn.Linear(8, 2),
        "spread": nn.Linear(8, 3),
        "square": nn.Linear(8, 2, bias=False),
    }
    model, data = Calls(forward, **parts), batches(n=20)
    plan = plan_pruning(model, lambda net, batch: net(batch[0])[0].square().mean(), data, 0.3, criterion="obs")
    with th.no_grad():
        h = th.tanh(model.first(inputs_of(data))).numpy()
    units = np.arange(8)[:, None]
    both = th.cat([model.mean.weight, model.spread.weight]).detach().numpy()
    square = Consumer(h**2, model.square.weight.detach().numpy(), units, bias=False)
    assert_scores(plan.scores["first"], [Consumer(h, both, units), square])


def test_inputs_beside_the_units_stay_and_stand_in_for_them():
    def forward(net, x):
        return net.second(th.cat([th.tanh(net.first(x)), x], 1))

    model, data = Calls(forward, first=nn.Linear(3, 6), second=nn.Linear(9, 2)), batches(n=20)
    with th.no_grad():
        matrix = th.cat([th.tanh(model.first(inputs_of(data))), inputs_of(data)], 1).numpy()
    consumer = Consumer(matrix, model.second.weight.detach().numpy(), np.arange(6)[:, None])
    assert_scores(planned(model, data).scores["first"], [consumer])


def test_twins_lose_a_unit_together_each_refitted_on_its_own():
    twins, x = Calls(None, first=mlp((3, 8, 1)), second=mlp((3, 8, 1))), th.randn(30, 3)
    names = frozenset(name for name, _ in twins.named_parameters())
    runs = [make_run(twin, [x]) for twin in (twins.first, twins.second)]
    subject = Subject(
        twins, (Network("critic", names),), Copy(named_tensors(twins), runs, (twins,)),
        ties=((("first.0.weight", 0), ("second.0.weight", 0)),),
    )  # fmt: skip
    scores = make_plan(subject, 0.3, Settings("obs")).scores
    data = [(x, None)]
    assert_scores(scores["first.0"], [linear(after(twin, 2, data), twin[2]) for twin in (twins.first, twins.second)])


@pytest.mark.parametrize("ridge, tolerance", [(1e-9, 1e-4), (1e-2, 0.15)])
def test_errors_are_those_that_the_repair_leaves(monkeypatch, ridge, tolerance):
    """The repair measures its ridge by the units that are left, the surgeon by all: with hardly any, both are the same."""
    monkeypatch.setattr(compensation, "RIDGE", ridge)
    model, data = mlp((3, 12, 2)), batches(n=40)
    with th.no_grad():
        dense = model(inputs_of(data))
    errors = None
    for left in (10, 8, 6, 4, 2, 1):
        cut = copy.deepcopy(model)
        plan = plan_pruning(cut, mse, data, 1 - left / 12, criterion="obs", budget="units")
        if errors is None:
            group = plan.graph.groups["0"]
            received = ReceivedMoments(plan.subject, [group])([group])["0"]
            readers = readers_of(group, received, plan.subject.trained.tensors, {})
            errors = errors_along(readers, removal_order(readers))
        plan.apply()
        with th.no_grad():
            lost = (cut(inputs_of(data)) - dense).square().sum() / (dense - dense.mean(0)).square().sum()
        assert cut[0].out_features == left
        assert errors[12 - left] == pytest.approx(lost.item(), rel=tolerance, abs=1e-9)


def test_units_that_never_change_cost_nothing_and_go_first():
    model, data = mlp((3, 9, 2), nn.ReLU), batches(n=20)
    with th.no_grad():
        model[0].weight[[2, 7]] = 0.0
        model[0].bias[[2, 7]] = th.tensor([3.0, -1.0])  # one is constant, one is dead
        model[2].weight[:, [2, 7]] *= 100
    scores = planned(model, data).scores["0"]
    assert list(np.argsort(scores)[:2]) == [2, 7] and scores[[2, 7]].max() < 1e-300 < np.sort(scores)[2]
    assert_scores(scores, [linear(after(model, 2, data), model[2])], first=[2, 7])


def test_of_equal_units_one_goes_early_and_what_lives_does_not_depend_on_places():
    model, data = mlp((3, 8, 2)), batches(n=20)
    with th.no_grad():
        model[0].weight[4:], model[0].bias[4:] = model[0].weight[:4].clone(), model[0].bias[:4].clone()
    scores = planned(model, data).scores["0"]
    assert {unit % 4 for unit in np.argsort(scores)[:4]} == {0, 1, 2, 3}  # one of each pair
    assert np.sort(scores)[:4].sum() < 1e-3 and len(set(scores)) == 8
    fresh = mlp((3, 8, 2))
    scores, places = planned(fresh, data).scores["0"], [3, 1, 7, 0, 5, 2, 6, 4]
    with th.no_grad():
        for tensor, axis in ((fresh[0].weight, 0), (fresh[0].bias, 0), (fresh[2].weight, 1)):
            tensor.copy_(tensor.index_select(axis, th.tensor(places)))
    assert np.allclose(planned(fresh, data).scores["0"], scores[places], rtol=1e-6)


def test_single_precision_gives_the_same_order():
    model, data = mlp((3, 24, 16, 2)), batches(n=60)
    double = planned(model, data).scores
    single = planned(copy.deepcopy(model).float(), [(x.float(), y.float()) for x, y in data]).scores
    for name, scores in double.items():
        assert np.allclose(single[name], scores, rtol=1e-2, atol=1e-6)
        assert list(np.argsort(scores)[-8:]) == list(np.argsort(single[name])[-8:])


def test_blocks_that_are_settled_in_between_change_nothing(monkeypatch):
    generator = np.random.default_rng(0)
    matrix = np.tanh(generator.standard_normal((300, 20)) @ generator.standard_normal((20, 90)))
    weight = generator.standard_normal((120, 90))  # more outputs than features
    consumer = Consumer(matrix, weight, generator.permutation(90)[:80].reshape(40, 2))
    gram = consumer.matrix.T @ consumer.matrix / len(matrix)
    reader = Reader(weight, gram, consumer.ridge, consumer.units)
    orders = []
    for block in (2, 14, 64, 1000):
        monkeypatch.setattr("rl_crop.core.importance.obs.BLOCK", block)
        orders.append(list(removal_order([reader])))
        errors = errors_along([reader], np.array(orders[-1]))
        expected = [0.0, *(consumer.without(orders[-1][:n])[1] for n in range(1, 41))]
        assert np.allclose(errors, np.maximum.accumulate(expected), rtol=1e-9, atol=1e-13)
    assert orders[0] == orders[1] == orders[2] == orders[3]
    assert orders[0][:5] == removed_one_by_one([consumer])[0][:5]


def test_obs_crop_counts_errors_by_the_flow_through_the_weights_that_make_an_output():
    model, data = mlp((3, 7, 5, 2)), batches(n=20)
    names = [name for name, _ in model.named_parameters() if name != "4.bias"]
    g, hessian, split = dense_hessian(model, mse, data, names)
    product = split(hessian @ g)
    scores = planned(model, data, "obs_crop").scores
    for name, place in (("0", 2), ("2", 4)):
        weight = model[place].weight.detach()
        flow = (weight * product[f"{place}.weight"]).abs().sum(1, keepdim=True).sqrt()
        matrix = after(model, place, data).numpy()
        consumer = Consumer(matrix, (weight * flow).numpy(), np.arange(weight.shape[1])[:, None])
        assert_scores(scores[name], [consumer])


def test_obs_crop_counts_all_outputs_alike_where_no_gradient_flows():
    model, data = mlp((3, 7, 5, 2)), batches(n=20)
    model[4].weight.requires_grad_(False)
    assert np.array_equal(planned(model, data, "obs_crop").scores["2"], planned(model, data).scores["2"])


@pytest.mark.parametrize("criterion", ["obs", "obs_crop"])
def test_what_it_needs_is_asked_for(criterion):
    with pytest.raises(PruningError, match="ranks whole units"):
        planned(mlp(), batches(), criterion, structured=False)
    message = "give batches of observations" if criterion == "obs" else "give a loss and batches"
    with pytest.raises(PruningError, match=message):
        plan_pruning(mlp(), None, None, 0.3, criterion=criterion, compensation="none", example_inputs=th.randn(4, 3))


def test_obs_needs_no_loss():
    model, data = mlp(), batches()
    plan = plan_pruning(model, None, data, 0.3, criterion="obs")
    assert all(np.array_equal(plan.scores[name], score) for name, score in planned(model, data).scores.items())


@pytest.mark.parametrize(
    ("loss", "settings", "criterion"),
    [
        (mse, {}, "obs_crop"),
        (mse, {"compensation": "distill"}, "obs_crop"),
        (None, {}, "obs"),
        (mse, {"compensation": "bias"}, "crop"),
        (mse, {"structured": False}, "crop"),
        (mse, {"sparsity": "auto", "compensation": "none"}, "obs_crop"),
    ],
)
def test_where_none_is_given_the_criterion_knows_the_repair_that_comes(loss, settings, criterion):
    data = batches() if loss is not None else [x for x, _ in batches()]
    plan = plan_pruning(mlp(), loss, data, **{"sparsity": 0.5, **settings})
    assert plan.settings.criterion == criterion


def test_where_nothing_is_read_units_go_in_their_order():
    still = Reader(np.zeros((2, 3)), np.eye(3), 0.1, np.arange(3)[:, None])
    assert removal_order([still]).tolist() == [0, 1, 2]
