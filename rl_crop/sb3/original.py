"""Shares of an agent's networks as they were before the first cut, turned into shares of what they are now."""

from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from rl_crop.core.errors import PruningError
from rl_crop.core.pruning.schedules import relative_sparsity
from rl_crop.core.pruning.settings import check_choices, check_sparsity, is_auto
from rl_crop.sb3.state import history


def share_of_now(model: BaseAlgorithm | None, sparsity: Any, of: str, settings: Mapping[str, Any]) -> Any:
    """
    :param model: the agent, whose ``pruning_history`` says what has gone.
    :param sparsity: one share, or one by network.
    :param of: whose share: ``"current"``, of the networks as they are; ``"original"``, as they were before the first cut.
    :param settings: of the cut.
    :return: the same as shares of the networks as they are.
    :raises PruningError: more is gone already, or there is no share or no history to count by.
    """
    check_choices({"of": (of, ("current", "original"))})
    if of == "current":
        return sparsity
    if model is None:
        raise PruningError("of='original' counts by an agent's pruning_history, which a bare policy has not: use 'current'.")
    if sparsity is None or is_auto(sparsity) or settings.get("budget", "params") != "params":
        raise PruningError("of='original' is of a share of parameters: give a sparsity, and budget='params'.")
    check_sparsity(sparsity)
    if not settings.get("structured", True):
        return sparsity  # what is masked already counts in any case
    left: dict[str, float] = {}
    for event in history(model):
        if event.get("structured", True):
            for name, share in event["sparsity"].items():
                left[name] = left.get(name, 1.0) * (1.0 - share)
    if isinstance(sparsity, Mapping):
        return {name: relative_sparsity(share, 1.0 - left.get(name, 1.0)) for name, share in sparsity.items()}
    if settings.get("scope") == "global" or not left:
        return relative_sparsity(sparsity, 1.0 - left.get("total", 1.0))
    return {name: relative_sparsity(sparsity, 1.0 - share) for name, share in left.items() if name != "total"}
