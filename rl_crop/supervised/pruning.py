"""``pruning:`` of a configuration as a recipe."""

from collections.abc import Mapping
from typing import Any

from rl_crop.core.pruning.settings import check_sparsity
from rl_crop.core.recipes.arguments import recipe_of
from rl_crop.core.recipes.recipe import Recipe


def chosen_recipe(pruning: Mapping[str, Any]) -> tuple[Recipe, float]:
    """
    The recipe that ``pruning:`` asks for.

    :param pruning: ``sparsity``; ``recipe``, a name in ``rl_crop.recipes`` (early pruning of units by default); and what is
        changed in it: fields of :class:`~rl_crop.core.recipes.recipe.Recipe`, and its options.
    :return: the recipe, and the sparsity (0.9 by default).
    :raises PruningError: names the key that is unknown or wrong.
    """
    given = dict(pruning)
    sparsity = given.pop("sparsity", 0.9)
    check_sparsity(sparsity)
    return recipe_of(given.pop("recipe", None), given), sparsity
