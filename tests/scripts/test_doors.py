"""The record of what recipes do through every door: what it notes, and what it calls a difference."""

import json

import pytest

import rl_crop
from lab import doors
from lab.door_cases import line_of
from tests.zoo.long import all_in_long, and_long


@pytest.fixture(scope="module")
def lines():
    """Two doors to the same training, and one that is closed."""
    kinds = [("snap", "trainer"), ("snap", "loop"), ("gmp", "loop"), ("imp", "callback:ppo")]
    return {kind: line_of(kind[1], kind[0]) for kind in kinds}


def test_a_line_says_when_and_what(lines):
    (event,) = lines["snap", "trainer"]["events"]
    kept = event["kept"]
    assert event["at"] == 0 and list(kept) == ["0", "2", "4"] and kept["4"] == 3 and kept["0"] < 32 > kept["2"]
    assert len(event["cuts"]) == 1 and lines["snap", "trainer"]["sparsity"]["total"] >= 0.8
    masked = [event["kept"] for event in lines["gmp", "loop"]["events"]]
    counts = [sum(number for name, number in kept.items() if name.endswith("weight")) for kept in masked]
    assert counts == sorted(counts, reverse=True) and counts[-1] == round(0.2 * (8 * 32 + 32 * 32 + 32 * 3))
    assert lines["imp", "callback:ppo"]["error"].startswith("PruningError: recipe='imp' needs several runs")


def test_what_differs(lines):
    by_trainer, by_loop = lines["snap", "trainer"], lines["snap", "loop"]
    assert doors.differences(by_trainer, by_loop) == []
    assert doors.differences(by_trainer, lines["imp", "callback:ppo"]) == ["refused"]
    assert doors.differences(by_loop, lines["gmp", "loop"]) == ["times", "widths", "what is kept", "sparsity", "weights"]


def test_lines_are_kept_and_compared(lines, tmp_path, capsys):
    kept, other = tmp_path / "kept.jsonl", tmp_path / "other.jsonl"
    kept.write_text("".join(json.dumps(line) + "\n" for line in lines.values()))
    changed = {**lines["snap", "loop"], "parameters": "others"}
    other.write_text("".join(json.dumps(line) + "\n" for line in [lines["snap", "trainer"], changed]))
    args = doors.Args(kept, recipes=("snap",), doors=("trainer", "loop"), compare=other, table=tmp_path / "table.md")
    with pytest.raises(SystemExit) as ended:
        doors.main(args)
    printed = capsys.readouterr().out
    assert ended.value.code == 1 and "2 lines compared, 1 differ." in printed and "weights" in printed
    assert "| `snap` | 0.000: 12-11-3 | 0.000: 12-11-3 |  |" in (tmp_path / "table.md").read_text()


AGENTS = ["earlycrop_s", "span_gradual"]
"""A trigger and a gradual schedule."""
MORE = ["rigl", "pat_magnitude", "iss_p", "bridgeout", "crop_it_s", "random_units", "earlycrop_u", "acdc", "gmp", "greg_1"]
"""Recipes of every other strategy and schedule."""
SINGLE = [*(name for name, recipe in rl_crop.recipes.items() if recipe.driver == "single"), "(lazy)"]
EVERY_TIME = ["crop_s", "earlycrop_u", "rigl", "acdc", "greg_1", "bridgeout", "iss_p", "pat_taylor", "(lazy)"]


@pytest.mark.parametrize("name", and_long(AGENTS, MORE))
def test_a_recipe_does_the_same_to_an_agent_through_every_door(name):
    assert doors.differences(line_of("callback:ppo", name), line_of("task:ppo", name)) == []


@pytest.mark.parametrize("name", and_long([], ["crop_s", "rigl"]))
def test_a_recipe_does_the_same_to_an_off_policy_agent_through_every_door(name):
    assert doors.differences(line_of("callback:td3", name), line_of("task:td3", name)) == []


@pytest.mark.parametrize("name", all_in_long(SINGLE, EVERY_TIME))
def test_every_recipe_does_the_same_through_run_recipe_and_a_loop_of_ones_own(name):
    assert doors.differences(line_of("trainer", name), line_of("loop", name)) == []
