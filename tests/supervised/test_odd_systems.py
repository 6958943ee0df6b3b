"""The page on odd systems names recipes that there are, and its example runs."""

import re
from pathlib import Path

import torch as th

import rl_crop

TEXT = (Path(__file__).parents[2] / "docs" / "odd_systems.md").read_text()


def test_the_table_names_recipes_with_what_is_odd():
    rows = [line for line in TEXT.splitlines() if line.startswith("| `")]
    named = {re.findall(r"`(\w+)`", row)[0]: row.split("|")[3].strip() for row in rows}
    odd = {
        name: "units" if recipe.structured else "single weights"
        for name, recipe in rl_crop.recipes.items()
        if recipe.driver in ("phases", "tick_tock", "meta", "learned_scores") or recipe.perturbation != "none"
    }
    assert named == odd
    assert {name: rl_crop.recipes[name].when for name in odd} == dict.fromkeys(odd, 0.4) | {"stamp": 0.2, "bridgeout": 0.5}


def test_the_example_runs(capsys):
    th.manual_seed(0)
    example = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)[1]
    namespace = {}
    exec(compile(example, "docs/odd_systems.md", "exec"), namespace)
    assert "80.0%" in capsys.readouterr().out
    assert namespace["trainer"].evaluate() > 0.7 and namespace["answers"].shape == (4, 10) and len(namespace["exits"]) == 4
