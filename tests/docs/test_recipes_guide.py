"""The guide to recipes shows the table as it is, and its examples run."""

import re
from pathlib import Path

import pytest

import rl_crop
from rl_crop.core.importance.criteria import CRITERIA
from rl_crop.core.masking.masks import attached_masks
from rl_crop.core.recipes.registry import recipe_tables

GUIDE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()


def test_the_guide_shows_all_recipes_as_they_are():
    """``recipe_tables()`` of ``rl_crop.core.recipes.registry`` prints what belongs there."""
    assert GUIDE.rstrip().endswith(recipe_tables())


def test_the_examples_run(monkeypatch):
    monkeypatch.setattr("rl_crop.sb3.between_rollouts.STEPS_BETWEEN", {True: 1, False: 1})
    before = set(rl_crop.recipes), set(CRITERIA)
    names: dict = {}
    try:
        blocks = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
        for block in blocks[:2]:
            exec(block, names)
        assert names["report"].sparsity["total"] == pytest.approx(0.5, abs=0.001)
        for block in blocks[2:]:
            exec(block, names)
        assert names["report"].criterion == "snap" and names["report"].sparsity["total"] >= 0.5
        model = names["model"]
        assert model.pruning_history[-1]["criterion"] == "movement"
        masks = attached_masks(dict(model.policy.named_parameters()))
        kept = sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
        assert kept == pytest.approx(0.1, abs=0.001) and len(blocks) == 5
    finally:
        for known, names_before in zip((rl_crop.recipes, CRITERIA), before, strict=True):
            for name in set(known) - names_before:
                del known[name]
