from dataclasses import replace

import numpy as np
import pytest
import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.prune import module_subject
from rl_crop.core.pruning.planning import trace
from rl_crop.core.recipes.drivers import run_recipe
from rl_crop.core.recipes.perturbation import gate_l1
from rl_crop.core.recipes.registry import RECIPES
from rl_crop.core.recipes.systems.gate_decorators import gate_scores
from tests.zoo.networks import batches, mlp, mse
from tests.zoo.oracles import n_params
from tests.zoo.tasks import SmallTask

GBN = replace(RECIPES["gbn"], options={"n_events": 3, "choosing": 0.2, "l1": 0.5})


def task_with_useless_units(width=12, useful=4):
    """The output listens to the first units only, and the others' incoming weights are larger."""
    model = mlp((3, width, 2))
    with th.no_grad():
        model[2].weight[:, useful:] *= 1e-3
        model[0].weight[useful:] *= 3.0
    x = th.randn(40, 3)
    return SmallTask(model, [(x, model(x).detach() + 0.05 * th.randn(40, 2))], steps=90)


def test_scores_are_the_sums_of_gate_times_gradient():
    model, data = mlp((3, 6, 2)), batches()
    optimizer = th.optim.SGD(model.parameters(), lr=0.1)
    subject = module_subject(model, mse, data, optimizers=[optimizer])
    expected = np.zeros(6)
    with gate_l1(subject, list(trace(subject).groups.values()), 0.0) as gates, gate_scores([optimizer], gates) as scores:
        for batch in data:
            optimizer.zero_grad()
            mse(model, batch).backward()
            expected += (gates["0"].detach() * gates["0"].grad).abs().numpy()
            optimizer.step()
    assert np.allclose(scores["0"], expected, rtol=1e-12) and expected.min() > 0


def test_useless_units_go_first_whatever_the_size_of_their_weights():
    task = task_with_useless_units()
    weights = [task.model[0].weight, task.model[0].bias, task.model[2].weight, task.model[2].bias]
    report = run_recipe(task, GBN, 8 / 12, 0)
    assert task.model[0].out_features == 4 and report.widths == {"0": (12, 4)}
    assert [id(p) for p in task.model.parameters()] == [id(p) for p in weights]
    assert task.optimizers[0].param_groups[0]["params"] == weights and len(task.optimizers[0].state) == 4
    assert all(p.requires_grad for p in weights) and task.place == 90
    assert abs(report.sparsity["total"] - 8 / 12) < 1e-12
    assert -task.evaluate() < 2 * 0.05**2  # the four that the output listens to are still there


def test_the_cut_comes_in_events_and_ends_at_the_sparsity_that_was_asked_for(monkeypatch):
    task = SmallTask(mlp((3, 20, 20, 2)), batches(n=20), steps=60)
    before, widths, train = n_params(task.model), [], task.train

    def watched(share=1.0, after_step=None):
        widths.append(n_params(task.model))
        train(share, after_step)

    monkeypatch.setattr(task, "train", watched)
    report = run_recipe(task, GBN, 0.7, 0)
    assert len(widths) == 1 + 2 * 3 and sorted(widths, reverse=True) == widths and len(set(widths)) == 4
    assert report.n_params_before == before and report.n_params_after == n_params(task.model)
    assert 0.7 <= report.sparsity["total"] < 0.7 + 45 / 542


def test_ticks_move_gates_and_no_weights_and_tocks_shrink_gates(monkeypatch):
    task, moved, seen = task_with_useless_units(), [], []
    train = task.train

    def watched(share=1.0, after_step=None):
        gates = [p for p in task.optimizers[0].param_groups[0]["params"] if not isinstance(p, th.nn.Parameter)]
        before = task.model[2].weight.detach().clone()
        train(share, after_step)
        moved.append(not th.equal(before, task.model[2].weight))
        seen.append([gate.detach().clone() for gate in gates])

    monkeypatch.setattr(task, "train", watched)
    run_recipe(task, GBN, 0.5, 0)
    assert moved == [True, False, True, False, True, False, True]
    assert [len(gates) for gates in seen] == [0] + [1] * 6
    assert all((gates[0] != 1).all() for gates in seen[1:])


def test_ticks_without_a_step_are_refused():
    task = task_with_useless_units()
    with pytest.raises(PruningError, match="No gate was trained"):
        run_recipe(task, replace(GBN, options={"choosing": 0.0}), 0.5, 0)
    assert task.model[0].out_features == 12
