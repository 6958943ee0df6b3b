"""A criterion of the user's own is tried before anything is trained: what is wrong with it must not be found days later."""

from dataclasses import replace

from rl_crop.core.errors import explained
from rl_crop.core.importance.criteria import resolve_criterion
from rl_crop.core.model import Subject
from rl_crop.core.pruning.planning import make_plan
from rl_crop.core.pruning.schedules import MET
from rl_crop.core.recipes.engine import PruningEngine
from rl_crop.core.recipes.state import as_target


def criterion_is_own(engine: PruningEngine) -> bool:
    """:return: whether the criterion is none of this package's."""
    module = getattr(resolve_criterion(engine.recipe.criterion), "__module__", None)  # none of what was made by `exec`
    return not (module or "").startswith("rl_crop.")


def try_criterion(engine: PruningEngine, subject: Subject) -> None:
    """
    Score once; nothing is changed.

    :param engine: of a run that has not begun.
    :param subject: what it prunes, with batches that need not be real.
    :raises PruningError: the criterion fails, or returns no scores.
    """
    scored = {name: MET for name, share in engine.targets.items() if share}  # so little that no unit goes
    settings, weights = engine.settings.in_shares(), engine.weights
    with explained(f"criterion={settings.criterion_name!r} fails where it is tried, before training"):
        if settings.structured:
            make_plan(subject, as_target(scored), replace(settings, compensation="none"))
        else:
            weights.saliency(subject, settings.criterion, settings.seed or 0, {}, weights.tensors, networks=scored)
