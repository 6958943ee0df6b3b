"""``pruning:`` of a configuration as a recipe."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from rl_crop.core.errors import PruningError
from rl_crop.core.pruning.settings import check_sparsity
from rl_crop.core.recipes.recipe import OPTIONS, Recipe
from rl_crop.core.recipes.registry import RECIPES

EARLY = Recipe(criterion="crop", when="lazy", compensation="least_squares", options={"earliest": 0.1, "latest": 0.3})
"""What ``pruning:`` without a recipe starts from."""
SCHEDULES = {"one_shot": {"schedule": "once"}, "iterative": {"schedule": "once", "inner": "halving"}}
"""The callback's names of what a recipe says in two words."""


def chosen_recipe(pruning: Mapping[str, Any]) -> tuple[Recipe, float]:
    """
    The recipe that ``pruning:`` asks for.

    :param pruning: ``sparsity``; ``recipe``, a name in ``rl_crop.recipes`` (early pruning of units by default); and what is
        changed in it: fields of :class:`~rl_crop.core.recipes.recipe.Recipe`, and its options.
    :return: the recipe, and the sparsity (0.9 by default).
    :raises PruningError: names the key that is unknown or wrong.
    """
    given = dict(pruning)
    name, sparsity = given.pop("recipe", None), given.pop("sparsity", 0.9)
    check_sparsity(sparsity)
    if name is not None and name not in RECIPES:
        raise PruningError(f"pruning.recipe={name!r} is not one of {sorted(RECIPES)}.")
    base = EARLY if name is None else RECIPES[name]
    if given.get("schedule") in SCHEDULES:
        given |= SCHEDULES[given["schedule"]]
    if given.get("structured") is False and base.structured:  # weights cannot be removed, and nothing repairs a mask
        given = {"fate": "zero", "compensation": "none"} | given
    options = {key: given.pop(key) for key in list(given) if key in OPTIONS}
    unknown = sorted(set(given) - {field.name for field in fields(Recipe)})
    if unknown:
        raise PruningError(f"Unknown keys {unknown} in pruning: it has sparsity, recipe, and fields and options of a recipe.")
    return replace(base, **given, options={**base.options, **given.get("options", {}), **options}), sparsity
