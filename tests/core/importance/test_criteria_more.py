import numpy as np
import pytest
import torch as th
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.importance.context import ImportanceContext
from rl_crop.core.importance.criteria import CRITERIA
from rl_crop.core.prune import plan_pruning
from tests.zoo.networks import CASES, Residual, batches, cnn, mlp, mse, settled
from tests.zoo.oracles import unit_sums


def planned(criterion, model, loss, data):
    return plan_pruning(model, loss, data, 0.3, criterion=criterion, compensation="none", seed=2)


class Gated(nn.Module):
    """A layer with a gate on each of its outputs, before what follows."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.gate = layer, th.ones(layer.weight.shape[0])

    def forward(self, x):
        outputs = self.layer(x)
        return outputs * self.gate.reshape(-1, *[1] * (outputs.dim() - 2))


@pytest.mark.parametrize("case", ["mlp mse", "mlp cross-entropy", "cnn mse", "cnn cross-entropy"])
def test_snap_is_the_finite_difference_of_the_loss_by_a_real_gate(case):
    build, shape, loss, classes = CASES[case]
    model, data = build(), batches(shape, classes=classes)
    scores = planned("snap", model, loss, data).scores
    for name in scores:
        gated = Gated(model[int(name)])
        model[int(name)] = gated
        for unit, score in enumerate(scores[name]):
            values = []
            for step in (1e-6, -1e-6):
                gated.gate = th.ones_like(gated.gate)
                gated.gate[unit] += step
                values.append(sum(loss(model, batch).item() for batch in data))
            assert np.isclose(score, abs(values[0] - values[1]) / 2e-6, rtol=1e-5, atol=1e-8)
        model[int(name)] = gated.layer


def test_taylor_squares_the_change_of_each_batch():
    model, data = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 2)), batches(count=3)
    expected = np.zeros(5)
    for batch in data:
        model.zero_grad()
        mse(model, batch).backward()
        own = [*model[0].parameters(), *model[1].parameters()]
        expected += np.array([sum((p[unit] * p.grad[unit]).sum().item() for p in own) ** 2 for unit in range(5)])
    assert np.allclose(planned("taylor", model, mse, data).scores["0"], expected, rtol=1e-10)


def test_norms_of_filters():
    model, data = cnn((2, 4, 3)), batches((2, 5, 5))
    for place in (0, 2):
        weight = model[place].weight.detach().flatten(1)
        for criterion, expected in (
            ("filter_l1", weight.abs().sum(1)),
            ("filter_l2", weight.norm(dim=1)),
            ("unit_norm", weight.norm(dim=1) / weight.shape[1] ** 0.5),
        ):
            assert np.allclose(planned(criterion, model, None, data).scores[str(place)], expected)


def test_unit_norm_counts_every_layer_that_makes_a_coupled_unit():
    model = settled(Residual(), (2, 5, 5))
    weights = th.cat([model.stem.weight.flatten(1), model.second.weight.flatten(1)], dim=1).detach()
    expected = weights.norm(dim=1) / weights.shape[1] ** 0.5
    assert np.allclose(planned("unit_norm", model, mse, batches((2, 5, 5), outputs=3)).scores["stem"], expected)


def scoring_of(model, data, **fields):
    parameters = dict(model.named_parameters())
    groups = list(planned("magnitude", model, mse, data).graph.groups.values())
    return ImportanceContext(groups, parameters, lambda batch: mse(model, batch), data, lambda: None, dict, 0, **fields)


def test_force_weighs_the_gradient_of_the_masked_network_with_dense_weights():
    model, data = mlp((3, 6, 2)), batches()
    dense = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    plain = CRITERIA["force"](scoring_of(model, data))
    assert all(th.equal(score, CRITERIA["snip"](scoring_of(model, data))[name]) for name, score in plain.items())
    with th.no_grad():
        model[0].weight[::2] = 0.0
    model.zero_grad()
    for batch in data:
        mse(model, batch).backward()
    scores = CRITERIA["force"](scoring_of(model, data, dense=dense))
    for name, parameter in model.named_parameters():
        assert th.allclose(scores[name], (dense[name] * parameter.grad).abs(), rtol=1e-10)
    assert scores["0.weight"][::2].max() > 0  # what is masked can return


def test_relative_change_compares_weights_with_their_start():
    model, data = mlp((3, 4, 2)), batches()
    initial = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with th.no_grad():
        model[0].weight[1, 2] *= 1.5
        model[0].bias += 3.0
        model[2].weight[0, 3] *= -1.0
    changes = CRITERIA["relative_change"](scoring_of(model, data, initial=initial))
    expected = {name: th.zeros_like(initial[name]) for name in ("0.weight", "2.weight")}
    expected["0.weight"][1, 2], expected["2.weight"][0, 3] = 0.5, 2.0
    assert changes.keys() == expected.keys() and all(th.allclose(changes[name], expected[name]) for name in expected)
    with pytest.raises(PruningError, match="initial weights"):
        planned("relative_change", model, mse, data)


@pytest.mark.parametrize("criterion", ["snap", "taylor", "force"])
def test_criteria_with_a_gradient_say_that_they_need_one(criterion):
    with pytest.raises(PruningError, match="needs a gradient: give a loss and batches"):
        plan_pruning(mlp(), None, None, 0.3, criterion=criterion, compensation="none", example_inputs=th.randn(4, 3))


def test_sums_over_slots_agree_with_the_oracle():
    model, data = cnn((2, 4, 3)), batches((2, 5, 5))
    plan = planned("force", model, mse, data)
    for batch in data:
        mse(model, batch).backward()
    elements = {name: (p.detach() * p.grad).abs() for name, p in model.named_parameters() if name != "5.bias"}
    assert all(np.allclose(plan.scores[name], unit_sums(elements, group)) for name, group in plan.graph.groups.items())
