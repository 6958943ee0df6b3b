"""Layers about which a criterion says nothing: frozen ones, or those that no gradient reaches."""

from collections.abc import Mapping, Sequence

import numpy as np

from rl_crop.core.graph.groups import Group
from rl_crop.core.importance.context import ImportanceContext, unit_scores


def with_fallback(
    scores: Mapping[str, np.ndarray], context: ImportanceContext, groups: Sequence[Group]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """
    Rank units that all have one score by magnitude, so that ties do not fall by position.

    Magnitudes are no gradients, so only their order is taken: the lowest unit of such a layer gets the lowest score of the
    layers that have a signal, the one in the middle their median, and so on. Those layers then lose the share of units that
    the others lose; where no layer has a signal, all lose the same.

    :param scores: by group name, shape (n_units,).
    :param context: what a criterion may look at.
    :param groups: the groups of one network.
    :return: the scores, and the names of the groups without a signal.
    """
    silent = [group for group in groups if group.n_units > 1 and np.ptp(scores[group.name]) == 0.0]
    if not silent:
        return dict(scores), ()
    names = tuple(group.name for group in silent)
    telling = [scores[group.name] for group in groups if group.name not in names]
    scale = np.concatenate(telling) if telling else np.linspace(0.0, 1.0, 1001)
    magnitude = {name: tensor.detach().abs() for name, tensor in context.parameters.items()}
    ranked = {}
    for name, sizes in unit_scores(magnitude, silent).items():
        rank = np.empty(len(sizes))
        rank[np.argsort(sizes, kind="stable")] = np.arange(len(sizes))
        ranked[name] = np.quantile(scale, (rank + 0.5) / len(sizes))
    return {**scores, **ranked}, names


def signal_notes(silent: Sequence[str], criterion: str) -> tuple[str, ...]:
    """:return: what the user should know of layers without a signal."""
    return tuple(
        f"{name}: {criterion} gives all its units one score (is it frozen, does no gradient reach it, or cannot what reads it "
        f"be looked at?), so they are ranked by magnitude and go in the proportion of the other layers"
        for name in silent
    )
