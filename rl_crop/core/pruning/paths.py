"""In which order the units of several layers go: paths along which a budget is looked for."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rl_crop.core.graph.groups import DependencyGraph, Group

Widths = Mapping[str, int]
"""Units by group name."""
Freed = Callable[[str, Widths, int], float]
"""What some units less of a group save, at the widths there are."""


def next_width(width: Any, multiple: int) -> Any:
    """:return: the next multiple below a width."""
    return (width - 1) // multiple * multiple


def floors(groups: Sequence[Group], least: Mapping[str, float], multiple: int = 1) -> dict[str, int]:
    """
    :param groups: any.
    :param least: units that stay in each, by name.
    :param multiple: of what widths are to be; a narrower group stays whole.
    :return: the width, by name, below which no group may fall.
    """
    wanted = {group.name: -(-max(int(least[group.name]), group.least) // multiple) * multiple for group in groups}
    return {group.name: min(group.n_units, wanted[group.name]) for group in groups}


def ranked_path(groups: Sequence[Group], scores: Mapping[str, np.ndarray], floor: Widths, multiple: int = 1) -> list[str]:
    """
    :param groups: that are ranked together.
    :param scores: of their units.
    :param floor: units that stay in each.
    :param multiple: of what widths are: units go together down to the next one, by the highest of their scores.
    :return: the group that loses its next unit, step by step: the lowest scores first.
    """
    names = [group.name for group in groups]
    lowest = {group.name: np.sort(scores[group.name])[: group.n_units - floor[group.name]] for group in groups}
    owner = np.repeat(np.arange(len(names)), [len(lowest[name]) for name in names])
    if multiple > 1:
        for group in groups:
            left = group.n_units - np.arange(len(lowest[group.name]))  # before each goes
            lowest[group.name] = lowest[group.name][group.n_units - 1 - next_width(left, multiple)]
    values = np.concatenate([lowest[name] for name in names] or [np.zeros(0)])
    # Equal scores go from all groups in proportion: the order of the groups must not decide.
    share = np.concatenate([np.arange(1, len(lowest[name]) + 1) / len(lowest[name]) for name in names] or [np.zeros(0)])
    return [names[place] for place in owner[np.lexsort((share, values))]]


def costed_path(
    groups: Sequence[Group], scores: Mapping[str, np.ndarray], floor: Widths, freed: Freed, multiple: int = 1
) -> list[str]:
    """
    The same for scores that are errors: the least error for what it saves goes first.

    :param freed: what units save, which changes as the layers beside them narrow.
    """
    lowest = {group.name: np.sort(scores[group.name]) for group in groups}
    widths = {group.name: group.n_units for group in groups}
    path: list[str] = []

    def rate(name: str) -> float:
        n, start = widths[name] - next_width(widths[name], multiple), len(lowest[name]) - widths[name]
        return float(lowest[name][start : start + n].sum()) / max(freed(name, widths, n), 1e-300)

    while narrower := [name for name, width in widths.items() if width > floor[name]]:
        name = min(narrower, key=lambda name: (rate(name), -widths[name] / len(lowest[name])))
        after = next_width(widths[name], multiple)
        path += [name] * (widths[name] - after)
        widths[name] = after
    return path


def counts_along(paths: Sequence[Sequence[str]], sizes: Sequence[int], step: int) -> Counter[str]:
    """
    How many units of each group are gone after a step; each of several paths advances by the same share.

    :param paths: of classes of groups.
    :param sizes: units of each class.
    :param step: between 0 and the size of the largest class.
    :return: by group name.
    """
    largest = max(sizes, default=0)
    gone: Counter[str] = Counter()
    for path, size in zip(paths, sizes, strict=True):
        gone.update(path[: math.ceil(step * size / largest)] if largest else ())
    return gone


def isomorphic_classes(groups: Sequence[Group], graph: DependencyGraph) -> list[list[Group]]:
    """
    Groups of one kind and place, such as the inner layers of all blocks of a residual network (Isomorphic Pruning, ECCV 2024).

    :return: the classes, in order of their first group.
    """
    classes: dict[object, list[Group]] = {}
    for group in groups:
        classes.setdefault(_kind(group, graph), []).append(group)
    return list(classes.values())


def _kind(group: Group, graph: DependencyGraph) -> tuple[tuple[object, ...], ...]:
    """What a unit of the group lies in: how often, and as what, in which axis and of what kernel."""
    kinds = Counter(
        (slot.role, slot.axis, graph.shapes[slot.tensor][2:], slot.tensor.rpartition(".")[2], slot.index.shape[1] > 1)
        for slot in group.slots
    )
    return tuple(sorted(((*kind, count) for kind, count in kinds.items()), key=repr))
