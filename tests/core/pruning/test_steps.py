import copy

import pytest
import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.prune import plan_pruning, prune_model
from rl_crop.core.pruning.allocation import Budget
from rl_crop.core.pruning.steps import apply_steps, merge_reports, step_targets
from tests.zoo.networks import Residual, batches, mlp, mse, settled
from tests.zoo.oracles import count_removed, n_params


def test_the_steps_of_an_event():
    assert step_targets(0.9, "one_shot") == [0.9]
    halves = step_targets(0.9, "iterative")
    assert len(halves) == 7 and halves[0] == 0.5 and halves[1] == pytest.approx(0.7) and halves[-1] == 0.9
    by_network = step_targets({"actor": 0.9, "critic": 0.0}, "iterative")
    assert [row["actor"] for row in by_network] == halves and {row["critic"] for row in by_network} == {0.0}
    for schedule in ("gradual", "often", None):
        with pytest.raises(PruningError, match="not one of .*one_shot.*iterative"):
            step_targets(0.5, schedule)
    for sparsity in (1.0, -0.1, "0.5", {"actor": 2}):
        with pytest.raises(PruningError, match="must be a number"):
            step_targets(sparsity, "iterative")


@pytest.mark.parametrize("budget", ["params", "flops", "units"])
@pytest.mark.parametrize("scope", ["network", "layer", "global"])
@pytest.mark.parametrize("sparsity", [0.3, 0.8, 0.95])
def test_an_iterative_event_ends_where_a_single_cut_would(budget, scope, sparsity):
    """The overshoots of its steps do not add up: all in all at most one unit (a layer) too much is gone."""
    settings = {"criterion": "snip", "compensation": "none", "scope": scope, "budget": budget}
    model, data = mlp((4, 40, 30, 3)), batches((4,), 3)
    whole = copy.deepcopy(model)
    graph_plan = plan_pruning(whole, mse, data, sparsity, **settings)
    report = prune_model(model, mse, data, sparsity, schedule="iterative", **settings)
    once = graph_plan.apply()
    after = {name: pair[1] for name, pair in report.widths.items()}
    cost = Budget(graph_plan.graph, dict(model.named_parameters()), budget)
    assert cost.sparsity(after) >= sparsity - 1e-9
    assert cost.sparsity({name: width + 1 for name, width in after.items()}) < sparsity
    assert (report.n_params_before, report.n_params_after) == (once.n_params_before, n_params(model))


def test_the_merged_report_is_consistent():
    model, data = settled(Residual(12), (2, 4, 4)), batches((2, 4, 4), 3)
    reference = copy.deepcopy(model)
    before = n_params(model)
    report = prune_model(model, mse, data, 0.9, schedule="iterative", criterion="span_crop")
    plan = plan_pruning(reference, None, None, 0.0, criterion="magnitude", compensation="none", example_inputs=data[0][0])
    _, prunable = count_removed(reference, plan)
    assert report.n_params_before == before and report.n_params_after == n_params(model)
    assert report.sparsity["total"] == pytest.approx((before - n_params(model)) / prunable, abs=1e-12)
    assert report.sparsity["model"] == report.sparsity["total"] >= 0.9 - 1e-9
    assert report.widths == {"stem": (12, model.stem.out_channels), "first": (12, model.first.out_channels)}
    assert report.flops_before > 5 * report.flops_after and report.seconds > 0
    single = [name for name, (_, after) in report.widths.items() if after == 1]
    assert len(report.notes) == 2 + len(single) and len([note for note in report.notes if "has no bias" in note]) == 2


def test_steps_that_have_nothing_left_to_do_are_left_out():
    """Units of a narrow layer are large: the first steps already reach the target."""
    model, data = mlp((3, 4, 2)), batches()
    plans = []

    def plan_for(target):
        plans.append(target)
        return plan_pruning(model, mse, data, target)

    report = apply_steps(plan_for, step_targets(0.5, "iterative"))
    assert model[0].out_features == 2 and report.sparsity["total"] == 0.5 and len(plans) == 2
    assert apply_steps(plan_for, step_targets(0.0, "iterative")).sparsity["total"] == 0.0


def test_a_first_plan_that_has_been_made_already_is_used():
    model, data = mlp((3, 12, 2)), batches()
    first = plan_pruning(model, mse, data, 0.25, criterion="random", seed=5)
    kept = first.keep["0"]
    old = model[0].weight.clone()
    report = apply_steps(lambda target: plan_pruning(model, mse, data, target), [0.25], first=first)
    assert th.equal(model[0].weight, old[th.as_tensor(kept)]) and merge_reports([report]) == report


def test_a_generator_of_batches_serves_all_steps():
    model = mlp((3, 12, 8, 2))
    assert prune_model(model, mse, iter(batches()), 0.8, schedule="iterative").sparsity["total"] >= 0.8 - 1e-9
