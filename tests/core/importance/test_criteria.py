import copy

import numpy as np
import pytest
import torch as th
from scipy.linalg import qr
from torch import nn
from torch.func import functional_call

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import Group
from rl_crop.core.importance.context import unit_scores
from rl_crop.core.importance.criteria import CRITERIA, resolve_criterion
from rl_crop.core.prune import plan_pruning
from rl_crop.core.rng import isolated_rng
from tests.zoo.networks import CASES, batches, cnn, mlp, mse, settled
from tests.zoo.oracles import dense_hessian, unit_sums
from tests.zoo.snapshots import same, state


@pytest.fixture(params=CASES)
def task(request):
    build, shape, loss, classes = CASES[request.param]
    model = build()
    return model, loss, batches(shape, classes=classes)


def scores_of(criterion, model, loss, data, **keywords):
    plan = plan_pruning(model, loss, data, 0.3, criterion=criterion, compensation="none", seed=2, **keywords)
    return plan.scores, plan


def prunable(model, plan):
    """Names of the parameters in which units lie, in the model's order."""
    sliced = {slot.tensor for group in plan.graph.groups.values() for slot in group.slots}
    return [name for name, _ in model.named_parameters() if name in sliced]


def largest_error(found, expected):
    return max(np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max() for name in expected)


def flow(model, loss, data, plan):
    """θ, g and Hg over all prunable parameters, from the dense Hessian."""
    names = prunable(model, plan)
    g, hessian, split = dense_hessian(model, loss, data, names, seed=2)
    return {name: p.detach() for name, p in model.named_parameters() if name in names}, split(g), split(hessian @ g)


def test_crop_equals_the_dense_hessian(task):
    scores, plan = scores_of("crop", *task)
    theta, _, product = flow(*task, plan)
    elements = {name: (theta[name] * product[name]).abs() for name in theta}
    expected = {name: unit_sums(elements, group) for name, group in plan.graph.groups.items()}
    assert len(expected) == 2 and largest_error(scores, expected) <= 1e-8


def test_grasp_keeps_the_sign_and_snip_needs_no_hessian(task):
    _, plan = scores_of("crop", *task)
    theta, g, product = flow(*task, plan)
    for criterion, elements in (
        ("grasp", {name: theta[name] * product[name] for name in theta}),
        ("snip", {name: (theta[name] * g[name]).abs() for name in theta}),
        ("magnitude", {name: theta[name].abs() for name in theta}),
    ):
        scores, _ = scores_of(criterion, *task)
        expected = {name: unit_sums(elements, group) for name, group in plan.graph.groups.items()}
        assert largest_error(scores, expected) <= 1e-8


def test_crop_gate_equals_gates_on_the_pre_activations(task):
    """gᵀ g(c) differentiated by gates c = 1 that multiply every unit's incoming weights and bias; g over weights."""
    model, loss, data = task
    scores, plan = scores_of("crop_gate", *task)
    parameters = dict(model.named_parameters())
    weights = [name for name in prunable(model, plan) if parameters[name].dim() > 1]
    gates = {name: th.ones(group.n_units, requires_grad=True) for name, group in plan.graph.groups.items()}
    total = dict.fromkeys(weights, 0.0)
    for number, batch in enumerate(data):
        gated = {name: parameter.detach().clone().requires_grad_() for name, parameter in parameters.items()}
        leaves = {name: gated[name] for name in weights}
        for group, gate in gates.items():
            for kind in ("weight", "bias"):
                tensor = gated[f"{group}.{kind}"]
                gated[f"{group}.{kind}"] = tensor * gate.reshape(-1, *[1] * (tensor.dim() - 1))
        with isolated_rng(2 + number):
            value = loss(lambda x, gated=gated: functional_call(model, gated, x), batch)
        grads = th.autograd.grad(value, list(leaves.values()), create_graph=True)
        total = {name: total[name] + grad for name, grad in zip(leaves, grads, strict=True)}
    inner = sum((gradient.detach() * gradient).sum() for gradient in total.values())
    by_gate = th.autograd.grad(inner, list(gates.values()))
    expected = {name: grad.abs().numpy() for name, grad in zip(gates, by_gate, strict=True)}
    assert largest_error(scores, expected) <= 1e-8


def test_random_is_uniform_and_the_seeds():
    model, data = mlp((3, 400, 2)), batches()
    first, second = (scores_of("random", model, mse, data)[0]["0"] for _ in range(2))
    other = plan_pruning(model, None, None, 0.3, criterion="random", compensation="none", example_inputs=data[0][0], seed=3)
    assert np.array_equal(first, second) and not np.array_equal(first, other.scores["0"])
    assert first.min() >= 0 and first.max() <= 1 and abs(first.mean() - 0.5) < 0.05


def test_synflow_is_the_saliency_of_absolute_weights_on_ones_and_needs_no_data():
    model = mlp((3, 5, 4, 2), nn.ReLU)
    before = state(model)
    plan = plan_pruning(model, None, None, 0.3, criterion="synflow", compensation="none", example_inputs=th.randn(1, 3))
    assert same(before, state(model))
    positive = copy.deepcopy(model)
    with th.no_grad():
        for parameter in positive.parameters():
            parameter.abs_()
    positive[4].bias.data = model[4].bias.data  # belongs to no unit
    positive(th.ones(1, 3)).sum().backward()
    elements = {name: (p * p.grad).abs() for name, p in positive.named_parameters() if name != "4.bias"}
    expected = {name: unit_sums(elements, group) for name, group in plan.graph.groups.items()}
    assert largest_error(plan.scores, expected) <= 1e-12
    other = plan_pruning(model, None, None, 0.3, criterion="synflow", compensation="none", example_inputs=7 + th.randn(4, 3))
    assert same(plan.scores, other.scores)


def test_synflow_flows_where_biases_are_negative_and_norms_have_been_trained():
    """A unit that would be silent on ones is not scored as if it were dead."""
    model = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    with th.no_grad():
        model[0].bias.fill_(-50.0)
        model[1].weight.fill_(-1.0)
        model[1].running_mean.fill_(300.0)
    model.eval()
    before = state(model)
    for options in ({"compensation": "none"}, {"structured": False}):
        plan = plan_pruning(model, None, None, 0.3, criterion="synflow", example_inputs=th.ones(2, 3), **options)
        assert all((score > 0).all() for score in plan.scores.values())
    assert same(before, state(model))


def test_synflow_conserves_its_flow_through_layers():
    """Without biases the scores of incoming weights sum to the same in every layer (SynFlow's defining property)."""
    model = nn.Sequential(nn.Linear(3, 6, bias=False), nn.ReLU(), nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 2))
    model[4].bias = None
    plan = plan_pruning(model, None, None, 0.3, criterion="synflow", compensation="none", example_inputs=th.ones(1, 3))
    # Incoming plus outgoing: each unit counts its flow twice.
    assert np.isclose(plan.scores["0"].sum(), plan.scores["2"].sum(), rtol=1e-12)


def columns(model, upto, data):
    with th.no_grad():
        return model[:upto](th.cat([x for x, _ in data])).numpy()


def test_span_is_pivoted_qr_of_centred_activations_times_consumers():
    model, data = mlp((3, 12, 2)), batches(n=40)
    scores, plan = scores_of("span", model, mse, data)
    matrix = columns(model, 2, data)
    matrix = (matrix - matrix.mean(0)) * model[2].weight.detach().norm(dim=0).numpy()
    _, r, order = qr(matrix, mode="economic", pivoting=True)
    energies = np.diag(r) ** 2
    assert list(np.argsort(-scores["0"], kind="stable")) == list(order)
    assert np.allclose(scores["0"][order], energies / energies.sum(), rtol=1e-8, atol=1e-14)
    keep = plan_pruning(model, mse, data, 0.5, criterion="span", budget="units").keep["0"]
    assert sorted(keep) == sorted(order[:6])


def test_span_crop_is_pivoted_qr_of_standardised_activations_times_the_root_of_crop():
    model, data = mlp((3, 12, 2)), batches(n=40)
    importance = scores_of("crop", model, mse, data)[0]["0"]
    scores, _ = scores_of("span_crop", model, mse, data)
    matrix = columns(model, 2, data)
    matrix = (matrix - matrix.mean(0)) / matrix.std(0) * np.sqrt(importance / len(matrix))
    _, r, order = qr(matrix, mode="economic", pivoting=True)
    assert list(np.argsort(-scores["0"], kind="stable")) == list(order)
    assert np.allclose(scores["0"][order], np.diag(r) ** 2, rtol=1e-7, atol=1e-14 * importance.max())
    # The first pick has nothing before it: its score is its whole crop score.
    assert np.isclose(scores["0"].max(), importance.max(), rtol=1e-12)


@pytest.mark.parametrize("criterion", ["span", "span_crop"])
def test_of_duplicated_units_only_one_is_picked(criterion):
    model = mlp((3, 8, 2))
    with th.no_grad():
        for tensor in (model[0].weight, model[0].bias):
            tensor[4:] = tensor[:4]
    kept = plan_pruning(model, mse, batches(n=40), 0.5, criterion=criterion, budget="units").keep["0"]
    assert sorted(unit % 4 for unit in kept) == [0, 1, 2, 3]


def test_a_copy_of_the_most_important_unit_goes_first_with_span_crop_and_not_with_crop():
    model, data = mlp((3, 8, 2)), batches(n=40)
    best = int(scores_of("crop", model, mse, data)[0]["0"].argmax())
    copied = (best + 1) % 8
    with th.no_grad():
        model[0].weight[copied], model[0].bias[copied] = model[0].weight[best], model[0].bias[best]
        model[2].weight[:, copied] = model[2].weight[:, best]
    by_flow, by_span = (scores_of(name, model, mse, data)[0]["0"] for name in ("crop", "span_crop"))
    assert set(np.argsort(-by_flow)[:2]) == {best, copied}
    assert by_span[[best, copied]].min() == by_span.min() < 1e-9 * by_span.max()


def test_a_constant_unit_has_no_span():
    model = mlp((3, 6, 2))
    with th.no_grad():
        model[0].weight[2] = 0.0
    data = batches(n=40)
    for criterion in ("span", "span_crop"):
        assert scores_of(criterion, model, mse, data)[0]["0"][2] < 1e-20


def test_activations_of_flattened_channels_stack_their_positions():
    model, data = cnn((1, 4, 3)), batches((1, 5, 5), n=30)
    scores, _ = scores_of("span", model, mse, data)
    maps = columns(model, 4, data)  # observations, channels, height, width
    matrix = maps.transpose(2, 3, 0, 1).reshape(-1, 3)
    norms = model[5].weight.detach().reshape(2, 3, -1).norm(dim=(0, 2)).numpy()
    _, r, order = qr((matrix - matrix.mean(0)) * norms, mode="economic", pivoting=True)
    assert np.allclose(scores["2"][order], np.diag(r) ** 2 / (np.diag(r) ** 2).sum(), rtol=1e-8)


@pytest.mark.parametrize("criterion", sorted(CRITERIA.keys() - {"relative_change"}))
def test_every_criterion_scores_normalised_and_convolutional_networks(criterion):
    model = nn.Sequential(nn.Conv2d(2, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5), nn.LayerNorm(5),
                          nn.GELU(), nn.Linear(5, 2))  # fmt: skip
    data = batches((2, 5, 5))
    settled(model, (2, 5, 5))
    before = state(model)
    scores, plan = scores_of(criterion, model, mse, data, scope="layer")
    assert {name: len(score) for name, score in scores.items()} == {"0": 4, "4": 5} and same(before, state(model))


def test_a_criterion_of_ones_own():
    def by_first_weight(context):
        return {group.name: context.parameters[f"{group.name}.weight"][:, 0].abs() for group in context.groups}

    model, data = mlp((3, 8, 2)), batches()
    plan = plan_pruning(model, mse, data, 0.5, criterion=by_first_weight, budget="units")
    expected = np.sort(np.argsort(-model[0].weight[:, 0].abs().detach().numpy())[:4])
    assert list(plan.keep["0"]) == list(expected) and plan.apply().criterion == "by_first_weight"


def test_saliencies_by_parameter_are_summed():
    def squares(context):
        return {name: tensor.detach() ** 2 for name, tensor in context.parameters.items()}

    model = mlp((3, 5, 2))
    scores, plan = scores_of(squares, model, mse, batches())
    expected = unit_sums({n: p.detach() ** 2 for n, p in model.named_parameters() if n != "2.bias"}, plan.graph.groups["0"])
    assert np.allclose(scores["0"], expected, rtol=1e-12)


BAD = {
    "finite numbers": lambda context: {"0": np.full(5, np.nan)},
    "must be 5 finite": lambda context: {"0": np.ones(4)},
    "no score for '0.weight'": lambda context: {},
    "must return a mapping": lambda context: None,
    "another shape": lambda context: {name: th.ones(1) for name in context.parameters},
}


@pytest.mark.parametrize("message", BAD)
def test_scores_that_cannot_be_used_are_refused(message):
    with pytest.raises(PruningError, match=message):
        scores_of(BAD[message], mlp((3, 5, 2)), mse, batches())


def test_unknown_names_and_missing_data_say_what_to_do():
    for criterion in ("nonsense", 3, ["crop"]):
        with pytest.raises(PruningError, match="use one of .*crop.*magnitude"):
            resolve_criterion(criterion)
    inputs = th.randn(4, 3)
    for criterion in ("crop", "crop_gate", "snip", "grasp", "span_crop"):
        with pytest.raises(PruningError, match="needs a gradient: give a loss and batches"):
            plan_pruning(mlp(), None, None, 0.3, criterion=criterion, compensation="none", example_inputs=inputs)
    with pytest.raises(PruningError, match="give batches of observations"):
        plan_pruning(mlp(), None, None, 0.3, criterion="span", compensation="none", example_inputs=inputs)


def test_unit_scores_passes_scores_by_group_through():
    group = Group("layer", 3, ())
    assert list(unit_scores({"layer": [3, 1, 2]}, [group])["layer"]) == [3.0, 1.0, 2.0]
