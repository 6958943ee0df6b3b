"""Faults at any call of a cut: nothing is left behind, and what would be is seen."""

from collections import Counter

import pytest

from lab import faults as script
from lab.fuzzing.faults import BAD, Case, cases, try_case, ways


def case_of(algorithm, way):
    callback, keywords = ways()[way]
    return Case(algorithm, way, {"sparsity": 0.5, **keywords}, callback)


@pytest.mark.parametrize(
    ("algorithm", "way"),
    [
        ("PPO", "iterative"),
        pytest.param("SAC", "rigl", marks=pytest.mark.long),
        pytest.param("DQN", "masks", marks=pytest.mark.long),
    ],
)
def test_nothing_is_left_behind(algorithm, way):
    found = Counter(try_case(case_of(algorithm, way), 3, 1, 0))
    assert found == {
        ("first", "everything as it was"): 3, ("second", "everything as it was"): 1, ("after", "pruned and trained on"): 1,
    }  # fmt: skip


def test_what_is_left_behind_is_seen(monkeypatch):
    monkeypatch.setattr("rl_crop.sb3.agent.record_event", lambda model, *_, **facts: vars(model).update(_n_updates=-1))
    (kind, outcome), *_ = try_case(case_of("PPO", "one_shot"), 1, 0, 0)
    assert kind == "first" and outcome.startswith(BAD[0])


def test_cases_go_through_all_ways_and_algorithms():
    drawn = [case for case, _ in zip(cases(0), range(len(ways())), strict=False)]
    assert {case.way for case in drawn} == set(ways()) and len({case.algorithm for case in drawn}) > 10
    assert drawn == [case for case, _ in zip(cases(0), drawn, strict=False)]


@pytest.mark.parametrize("outcome", ["everything as it was", "LEFT BEHIND: weights"])
def test_the_command_counts(outcome, monkeypatch, capsys):
    monkeypatch.setattr(
        script, "try_case", lambda case, n, n_second, seed: [("first", outcome)] * n + [("second", "x")] * n_second
    )
    assert script.main(script.Args(faults=45, second=2)) == outcome.startswith(BAD)
    printed = capsys.readouterr().out
    assert f"| first | {outcome} | 45 |" in printed and "| second | x | 2 |" in printed
