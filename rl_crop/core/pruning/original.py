"""Shares of networks as they were before their first cut, turned into shares of what they are now."""

from collections.abc import Mapping, Sequence
from typing import Any

from rl_crop.core.errors import PruningError
from rl_crop.core.given import described
from rl_crop.core.pruning.report import PruningReport
from rl_crop.core.pruning.schedules import relative_sparsity
from rl_crop.core.pruning.settings import check_choices, check_sparsity, is_auto

Event = PruningReport | Mapping[str, Any]
"""A cut that has been: its report, or what ``to_dict`` makes of it."""
FORMS = ("current", "original")
"""Whose share a sparsity is."""


def share_of_now(sparsity: Any, of: str, history: Sequence[Event] | None, settings: Mapping[str, Any]) -> Any:
    """
    :param sparsity: one share, or one by network.
    :param of: whose share: ``"current"``, of the networks as they are; ``"original"``, as they were before the first cut.
    :param history: the cuts that have been; ``None`` where they are not known.
    :param settings: of the cut.
    :return: the same as shares of the networks as they are.
    :raises PruningError: more is gone already, or there is no share or no history to count by.
    """
    check_choices({"of": (of, FORMS)})
    if of == "current":
        return sparsity
    if history is None:
        raise PruningError(
            "of='original' counts by the cuts that have been, which are not known here: give history=, the reports of all "
            "earlier cuts, or prune an agent, which keeps its pruning_history; or use 'current'."
        )
    if sparsity is None or is_auto(sparsity) or settings.get("budget", "params") != "params":
        raise PruningError("of='original' is of a share of parameters: give a sparsity, and budget='params'.")
    if not isinstance(history, (list, tuple)):
        raise PruningError(f"history is {described(history)}: it must be a list of reports of earlier cuts.")
    check_sparsity(sparsity)
    if not settings.get("structured", True):
        return sparsity  # what is masked already counts in any case
    left = _left(history)
    if isinstance(sparsity, Mapping):
        return {name: relative_sparsity(share, 1.0 - left.get(name, 1.0)) for name, share in sparsity.items()}
    if settings.get("scope") == "global" or not left:
        return relative_sparsity(sparsity, 1.0 - left.get("total", 1.0))
    return {name: relative_sparsity(sparsity, 1.0 - share) for name, share in left.items() if name != "total"}


def _left(history: Sequence[Event]) -> dict[str, float]:
    """:return: by network and in ``"total"``, the share of its first prunable parameters that is left."""
    left: dict[str, float] = {}
    for event in history:
        known = vars(event) if isinstance(event, PruningReport) else event
        if not isinstance(known, Mapping) or not isinstance(known.get("sparsity"), Mapping):
            raise PruningError(f"history holds what is {described(event)}: it must be a list of reports of earlier cuts.")
        if known.get("structured", True):
            for name, share in known["sparsity"].items():
                left[name] = left.get(name, 1.0) * (1.0 - share)
    return left
