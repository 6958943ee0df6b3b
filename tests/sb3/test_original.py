"""A share of the first network: cuts that follow each other end where one cut would."""

from functools import partial

import pytest
import torch as th

import rl_crop
from tests.zoo.agents import SCORING, ppo


@pytest.fixture
def model():
    return ppo().learn(64)


@pytest.mark.parametrize("schedule", ["one_shot", "iterative"])
def test_a_share_of_the_original_counts_what_is_gone(model, schedule):
    first = rl_crop.prune_policy(model, 0.5, of="original", **SCORING).sparsity
    second = rl_crop.prune_policy(model, 0.7, of="original", schedule=schedule, **SCORING).sparsity
    for name in ("actor", "critic"):
        gone = 1 - (1 - first[name]) * (1 - second[name])
        assert 0.7 <= gone + 1e-9 < 0.85, name
    plan = rl_crop.plan_policy_pruning(model, {"actor": 0.9}, of="original", **SCORING)
    before = (1 - first["actor"]) * (1 - second["actor"])
    assert plan.sparsity["actor"] == pytest.approx(1 - 0.1 / before, abs=0.2) and plan.sparsity["critic"] == 0


def test_what_is_gone_already_and_what_is_no_share_are_refused(model):
    rl_crop.prune_policy(model, 0.6, **SCORING)
    for wrong, message in (
        ({"sparsity": 0.3, "of": "original"}, "gone already"),
        ({"sparsity": "auto", "of": "original"}, "give a sparsity"),
        ({"max_params": 50, "of": "original"}, "give a sparsity"),
        ({"sparsity": 0.8, "of": "original", "budget": "flops"}, "budget='params'"),
        ({"sparsity": 0.8, "of": "first"}, "of='first' is not one of"),
    ):
        for function in (rl_crop.prune_policy, rl_crop.plan_policy_pruning):
            with pytest.raises(rl_crop.PruningError, match=message):
                function(model, **wrong, **SCORING)
    with pytest.raises(rl_crop.PruningError, match="number in"):
        rl_crop.prune_policy(model, 1.5, of="original", **SCORING)


def test_a_callback_counts_what_is_gone_before_its_own_events():
    model = ppo().learn(64)
    first = rl_crop.prune_policy(model, 0.5, networks="critic", **SCORING).sparsity
    callback = {"sparsity": 0.7, "of": "original", "schedule": "gradual", "n_events": 2, "when": 0.3, "until": 0.6}
    callback |= {"criterion": "magnitude", "verbose": 0}
    model.learn(160, callback=rl_crop.PruningCallback(**callback))
    history = model.pruning_history
    assert len(history) == 3
    for name, before in (("actor", 0.0), ("critic", first["critic"])):
        left = 1 - before
        for event in history[1:]:
            left *= 1 - event["sparsity"][name]
        assert 0.15 < left <= 0.3 + 1e-9, name
    model.learn(64, callback=rl_crop.PruningCallback(**callback))  # finished: its own events are not counted again
    assert len(model.pruning_history) == 3
    with pytest.raises(rl_crop.PruningError, match="gone already"):
        model.learn(64, callback=rl_crop.PruningCallback(0.3, of="original"))
    with pytest.raises(rl_crop.PruningError, match="of='first' is not one of"):
        model.learn(64, callback=rl_crop.PruningCallback(0.9, of="first"))


def test_networks_that_are_not_named_do_not_count():
    model = ppo().learn(64)
    rl_crop.prune_policy(model, 0.8, networks="critic", **SCORING)
    report = rl_crop.prune_policy(model, 0.5, networks="actor", of="original", **SCORING)
    assert report.sparsity["actor"] >= 0.5 and report.sparsity["critic"] == 0


def test_a_module_of_ones_own_needs_the_reports_of_earlier_cuts():
    net, settings = th.nn.Sequential(th.nn.Linear(4, 20), th.nn.Tanh(), th.nn.Linear(20, 2)), {"compensation": "none"}
    cut = partial(rl_crop.prune_model, net, None, None, example_inputs=th.ones(1, 4), criterion="magnitude", **settings)
    with pytest.raises(rl_crop.PruningError, match="history="):
        cut(0.5, of="original")
    reports = [cut(0.5, of="original", history=[])]
    reports.append(cut(0.75, of="original", history=[reports[0].to_dict()]))
    assert net[0].out_features == 5 and reports[1].widths == {"0": (10, 5)}
    for wrong, message in (
        ({"history": reports}, "give of='original'"),
        ({"of": "original", "history": [3]}, "list of reports"),
    ):
        with pytest.raises(rl_crop.PruningError, match=message):
            cut(0.9, **wrong)
