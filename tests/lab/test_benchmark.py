"""The benchmark: times in turns, what its rows hold, and that it goes on where it was interrupted."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch as th

from lab.performance import growth, parts, whole_runs
from lab.performance.cost import STAGES, event_cost, undo_apply
from lab.performance.footprint import agent_bytes, peak_bytes
from lab.performance.learners import agent_learner, build_agent, gradient_steps, image_classifier, plain_network
from lab.performance.ledger import Ledger
from lab.performance.machine import is_busy
from lab.performance.table import Column, rows_table
from lab.performance.timing import in_turns, median_ratio, repeat
from rl_crop.core.errors import PruningError
from tests.evaluation.studies import make_results
from tests.lab.benchmarks import CPU, TINY


def test_arms_take_turns_and_each_round_begins_with_another():
    order = []
    measure = in_turns({name: lambda name=name: order.append(name) for name in "abc"}, CPU)
    times = repeat(measure, 4)
    assert order == list("abcbcacababc") and {name: len(seconds) for name, seconds in times.items()} == dict.fromkeys("abc", 4)


def test_no_further_round_when_time_is_up_but_three_at_least():
    assert len(repeat(lambda number: {"a": number}, 9, max_seconds=0.0)["a"]) == 3


def test_a_ratio_is_of_pairs_of_one_round():
    times = {"a": [1.0, 10.0, 300.0], "b": [2.0, 30.0, 200.0]}
    assert median_ratio(times, "a", "b") == pytest.approx(0.5)  # of the medians it would be 1/3


def test_rows_that_a_file_holds_are_not_measured_again(tmp_path):
    path, facts, measured = tmp_path / "rows.json", {"machine": {"cores": 2}}, []

    def measure(value):
        measured.append(value)
        return {"value": value}

    ledger = Ledger(path, facts)
    ledger.row({"part": "a", "width": 1}, lambda: measure(1))
    with pytest.raises(ZeroDivisionError):  # interrupted: the file is whole
        ledger.row({"part": "a", "width": 2}, lambda: 1 / 0)
    again = Ledger(path, facts)
    assert again.row({"part": "a", "width": 1}, lambda: measure(3))["value"] == 1
    assert again.row({"part": "a", "width": 2}, lambda: measure(2))["value"] == 2
    assert measured == [1, 2] and [row["value"] for row in json.loads(path.read_text())["rows"]] == [1, 2]
    assert Ledger(path, facts, fresh=True).rows == []
    with pytest.raises(PruningError, match="another machine"):
        Ledger(path, {"machine": {"cores": 4}})


def test_something_else_runs():
    assert is_busy(2.2, 1.0) and not is_busy(1.2, 1.0) and not is_busy(None, 1.0)


def test_a_table_has_dashes_for_what_is_not_there_and_a_star_for_noise():
    text = rows_table([Column("a", "a"), Column("b", "b", ".1f")], [{"a": "x", "b": 1.26}, {"a": "y", "busy": True}])
    assert text.splitlines()[2:] == ["x  1.3", "y    –  *"]


def test_the_peak_is_what_is_held_at_once():
    def work():
        first = th.zeros(1000)
        second = first + 1  # both are held: 8000 bytes
        del first
        return second * 2

    assert 8000 <= peak_bytes(work, CPU) < 9000


@pytest.mark.parametrize("algo", ["sac", "ppo"])
def test_bytes_of_an_agent(algo):
    model = build_agent(algo, [4, 3], TINY, CPU)
    gradient_steps(model, TINY.batch_size)(TINY.steps)
    found = agent_bytes(model)
    target = sum(p.numel() for p in model.policy.critic_target.parameters()) if algo == "sac" else 0
    learnt = sum(p.numel() for p in model.policy.parameters()) - target
    steps = sum(1 for _ in model.policy.parameters()) - (len(list(model.critic_target.parameters())) if algo == "sac" else 0)
    coefficient = 1 if algo == "sac" else 0
    assert found["parameters_bytes"] == 4 * learnt and found["targets_bytes"] == 4 * target
    assert found["optimizer_bytes"] == 4 * (2 * learnt + steps + 3 * coefficient)  # two moments, and steps


@pytest.fixture(scope="module")
def rows():
    said = []
    found = parts.run(TINY, said.append)
    return found, "\n".join(said)


def test_an_event_in_stages(rows):
    found, said = rows
    assert [(row["agent"], row["criterion"], row["compensation"]) for row in found] == [
        ("sac", "crop", "least_squares"), ("sac", "magnitude", "none"), ("ppo", "crop", "least_squares"),
        ("ppo", "magnitude", "none"),
    ]  # fmt: skip
    for row in found:
        assert row["rounds"] == TINY.rounds and row["gradient_steps"] > 0 and row["event_ms"] > 0
        assert all(f"{stage}_steps" in row for stage in STAGES) and row["cut_steps"] > 0
        # One round: the stages are the whole.
        assert sum(row[f"{stage}_steps"] for stage in STAGES) == pytest.approx(row["gradient_steps"])
        assert row["event_in_products"] == pytest.approx(row["event_ms"] / row["products_ms"])
        assert row["score_bytes"] > 0 < row["activations_bytes"] and row["score_copies"] > 1
        assert row["plan_bytes"] >= row["parameters_bytes"] > 0 and row["cut_bytes"] > 0
    assert said.count("least_squares") >= 4 and "event, products" in said


def test_an_event_leaves_nothing_behind():
    model = build_agent("sac", [6, 5], TINY, CPU)
    learner = agent_learner(model, "sac", TINY.batch_size)
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    undo_apply(learner.plan(0.5), "least_squares")
    assert all(th.equal(tensor, before[name]) for name, tensor in model.policy.state_dict().items())
    assert not getattr(model, "pruning_history", [])


def test_the_same_command_measures_nothing_twice(tmp_path, monkeypatch):
    options = replace(TINY, agents=("ppo",), cases=("magnitude+none",), out=tmp_path / "rows.json")
    first = parts.run(options, lambda text: None)
    monkeypatch.setattr("lab.performance.cost.event_cost", lambda *_: pytest.fail("measured again"))
    assert parts.run(options, lambda text: None) == first
    assert str(tmp_path) not in options.out.read_text()


def test_ppo_says_which_numbers_of_steps_it_makes():
    with pytest.raises(PruningError, match="take a multiple"):
        gradient_steps(build_agent("ppo", [4, 4], TINY, CPU), TINY.batch_size)(3)


@pytest.mark.parametrize("kind", ["resnet18", "vgg16"])
def test_networks_for_images(kind, monkeypatch):
    monkeypatch.setattr("lab.performance.learners.CLASSIFIER_BATCH", 2)
    monkeypatch.setattr("lab.performance.learners.N_BATCHES", 1)
    cost = event_cost(image_classifier(kind, CPU, width=2), 0.5, "crop", "least_squares", 1, 1, 60.0)
    assert cost["score_steps"] > 0 and cost["steps"] == 1


@pytest.mark.parametrize("wanted", [1000, 30_000])
def test_networks_of_a_wanted_size(wanted):
    learner, parameters = plain_network(wanted, 4, CPU)
    assert parameters == pytest.approx(wanted, rel=0.1)
    assert learner.plan(0.5, criterion="magnitude", compensation="none").n_params_before == parameters


def test_the_exponent_of_a_power_law():
    sizes = np.array([1e4, 1e5, 1e6])
    assert growth.exponent(sizes, 3 * sizes**0.7) == pytest.approx(0.7)
    assert growth.exponent([10, 10], [1, 2]) is None
    rows = [{"parameters": size, **dict.fromkeys(growth.FITTED, size**1.1), "device": "cpu"} for size in sizes]
    assert growth.exponents(rows, least=10**6)["score_ms"] is None
    assert "score_ms 1.10" in growth.footer(rows)


def test_whole_runs_are_compared_by_seed():
    arms = {("sac_halfcheetah", "dense", "0"): [1.0, 3.0], ("sac_halfcheetah", "crop", "0.9"): [10.0, 20.0]}
    results = make_results(arms)
    results.runs.loc[results.runs["arm"] == "crop", "cpu_seconds"] /= 2
    rows = whole_runs.whole_runs(results)
    assert {row["arm"]: row["of_dense"] for row in rows} == {"dense": 1.0, "crop": 0.5}
    assert rows[1]["score"] == pytest.approx(15.0) and rows[1]["runs"] == 2
