"""From scores to kept units: each network meets its own budget, and layers of one stored size end with one width."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import DependencyGraph, Group
from rl_crop.core.importance.criteria import ERRORS
from rl_crop.core.model import Network, Subject
from rl_crop.core.pruning.allocation import Budget, allocate
from rl_crop.core.pruning.paths import Widths, floors, isomorphic_classes
from rl_crop.core.pruning.schedules import MET
from rl_crop.core.pruning.settings import Settings

Kept = dict[str, np.ndarray]


@dataclass(frozen=True)
class _Part:
    """Networks that have one budget."""

    networks: Sequence[Network]
    groups: Sequence[Group]
    budget: Budget
    target: float

    @property
    def what(self) -> str:
        return " and ".join(network.name for network in self.networks)


def kept_units(
    graph: DependencyGraph,
    subject: Subject,
    groups: Mapping[str, Sequence[Group]],
    scores: Mapping[str, np.ndarray],
    targets: Mapping[str, float],
    settings: Settings,
) -> Kept:
    """
    :param graph: the units.
    :param subject: the model.
    :param groups: by network.
    :param scores: of their units, by group.
    :param targets: share of the budget that is to go, by network; networks not named stay whole.
    :param settings: scope, budget and floor.
    :return: kept unit indices by group, ascending int64.
    :raises PruningError: a share cannot be reached.
    """
    chosen = [network for network in subject.networks if targets.get(network.name)]
    together = [chosen] if settings.scope == "global" and chosen else [[network] for network in chosen]
    parts = [
        _Part(
            networks,
            [group for network in networks for group in groups[network.name]],
            Budget(graph, frozenset().union(*(network.parameters for network in networks)), settings.budget),
            targets[networks[0].name],
        )
        for networks in together
    ]
    kept, fixed = _by_part(graph, parts, scores, settings, {}), dict[str, int]()
    for why, names in graph.one_width.items():
        widths = {name: len(kept[name]) if name in kept else graph.groups[name].n_units for name in names}
        if len(set(widths.values())) > 1:
            others = {name: len(units) for name, units in kept.items() if name not in widths}
            fixed |= dict.fromkeys(widths, _common_width(why, parts, widths, others, graph, settings))
            kept = _by_part(graph, parts, scores, settings, fixed)
    return kept


def _by_part(
    graph: DependencyGraph, parts: Sequence[_Part], scores: Mapping[str, np.ndarray], settings: Settings, fixed: Widths
) -> Kept:
    """:param fixed: widths that are settled already."""
    kept: Kept = {}
    for part in parts:
        settled = {name: len(units) for name, units in kept.items()} | dict(fixed)
        free = [group for group in part.groups if group.name not in fixed]
        for group in part.groups:
            if group.name in fixed:
                order = np.argsort(scores[group.name], kind="stable")
                kept[group.name] = np.sort(order[group.n_units - fixed[group.name] :]).astype(np.int64)
        kept |= allocate(
            free,
            scores,
            part.target,
            lambda widths, part=part, settled=settled: part.budget.sparsity({**settled, **widths}),  # type: ignore[misc]
            settings.scope,
            settings.min_units,
            part.what,
            round_to=settings.round_to,
            freed=(
                (lambda name, widths, n, part=part, settled=settled: part.budget.freed(name, {**settled, **widths}, n))  # type: ignore[misc]
                if settings.criterion in ERRORS
                else None
            ),
            classes=isomorphic_classes(free, graph),
        )
    return kept


def _common_width(
    why: str, parts: Sequence[_Part], widths: Widths, others: Widths, graph: DependencyGraph, settings: Settings
) -> int:
    """
    The width, nearest the mean of those that the layers would have, with which every network can meet its share.

    :param widths: that the layers would have, each by itself.
    :param others: of all other layers.
    """
    one = graph.one_width[why]
    dense = graph.groups[one[0]].n_units
    lowest, highest = 1, dense
    owned = {group.name for part in parts for group in part.groups}
    if not set(one) <= owned:
        lowest = dense  # a network of which nothing is to go
    for part in parts:
        names = {group.name for group in part.groups}
        if not names & set(one):
            continue
        least = floors(part.groups, dict.fromkeys(names, settings.min_units), settings.round_to)
        whole = {group.name: group.n_units for group in part.groups}
        settled = {name: width for name, width in others.items() if name not in names}

        def share(rest: Widths, width: int, part: _Part = part, settled: Widths = settled) -> float:
            return part.budget.sparsity({**settled, **rest, **dict.fromkeys(one, width)})

        floor = max(least.get(name, 1) for name in one)
        reaching = [width for width in range(floor, dense + 1) if share(least, width) >= part.target - 1e-12]
        # With all else whole, one unit more would be too many.
        needed = [width for width in range(floor, dense + 1) if width == dense or share(whole, width + 1) < part.target]
        if part.target > MET:
            lowest = max(lowest, needed[0])
        highest = min(highest, max(reaching, default=0))
    if lowest > highest:
        asked = ", ".join(f"{part.target:.3g} of {part.what}" for part in parts)
        remedy = "give alike shares by sparsity="
        if not set(one) <= owned:
            remedy = f"where nothing is to go from one network they all stay whole; {remedy} for both, or a smaller one"
        raise PruningError(f"{' and '.join(one)} must end with one width ({why}), and none meets {asked}: {remedy}.")
    mean = round(math.exp(sum(map(math.log, widths.values())) / len(widths)))
    mean = max(mean // settings.round_to * settings.round_to, 1)
    return min(max(mean, lowest), highest)
