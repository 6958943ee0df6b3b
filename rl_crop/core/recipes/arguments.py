"""A recipe from plain arguments: what is given wins over a recipe, and early pruning is what nothing else says."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from rl_crop.core.errors import PruningError
from rl_crop.core.importance.criteria import REPAIRED, default_criterion
from rl_crop.core.pruning.schedules import SCHEDULES
from rl_crop.core.pruning.settings import check_choices
from rl_crop.core.recipes.recipe import OPTIONS, Recipe
from rl_crop.core.recipes.registry import resolve_recipe

EARLY = Recipe(when="lazy", until=0.3, compensation="least_squares")
"""Where no recipe is named: one early cut of units, repaired."""
STEPS = {"one_shot": {"schedule": "once", "inner": "none"}, "iterative": {"schedule": "once", "inner": "halving"}}
"""What ``schedule=`` of :func:`~rl_crop.prune_policy` and its like says in one word, as the parts of a recipe."""


def recipe_of(recipe: str | Recipe | None, given: Mapping[str, Any], finds_size: bool = False) -> Recipe:
    """
    :param recipe: a recipe, or the name of one; :data:`EARLY` where it is ``None``.
    :param finds_size: whether the size is to be found: units are then ranked by what the repair can do.
    :param given: what is changed in it: fields of :class:`~rl_crop.core.recipes.recipe.Recipe`, and options of its parts.
    :return: the recipe.
    :raises PruningError: a name is unknown, a value is wrong, or the recipe has a course that cannot be changed so.
    """
    units, repair = given.get("structured") is not False, given.get("compensation", EARLY.compensation)
    early = replace(EARLY, criterion=REPAIRED if units and finds_size else default_criterion(units, repair))
    base, given = early if recipe is None else resolve_recipe(recipe), dict(given)
    if isinstance(given.get("schedule"), str):
        check_choices({"schedule": (given["schedule"], [*STEPS, *SCHEDULES])})
    asked = {name: given[name] for name in ("schedule", "n_events") if name in given}
    if asked and (base.schedule not in ("once", "gradual") or base.strategy not in ("removed", "zero")):
        raise PruningError(f"{asked}: this recipe has a course of its own; `when` and `until` say where it begins and ends.")
    if given.get("schedule") in STEPS:
        given |= STEPS[given["schedule"]]
    if given.get("structured") is False and base.structured:  # weights cannot be removed, and nothing repairs a mask
        given = {"strategy": "zero"} | given | {"compensation": "none"}
    options = {name: given.pop(name) for name in list(given) if name in OPTIONS}
    unknown = sorted(set(given) - {part.name for part in fields(Recipe)})
    if unknown:
        raise PruningError(f"Unknown keys {unknown}: a recipe has {sorted(OPTIONS)}, and fields of Recipe.")
    return replace(base, **given, options={**base.options, **given.get("options", {}), **options})
