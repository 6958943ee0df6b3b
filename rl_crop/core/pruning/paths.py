"""In which order the units of several layers go: paths along which a budget is looked for."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rl_crop.core.graph.groups import DependencyGraph, Group

Widths = Mapping[str, int]
"""Units by group name."""
Freed = Callable[[str, Widths], float]
"""What one unit less of a group saves, at the widths there are."""


def ranked_path(groups: Sequence[Group], scores: Mapping[str, np.ndarray], floor: Widths) -> list[str]:
    """
    :param groups: that are ranked together.
    :param scores: of their units.
    :param floor: units that stay in each.
    :return: the group that loses its next unit, step by step: the lowest scores first.
    """
    names = [group.name for group in groups]
    lowest = {group.name: np.sort(scores[group.name])[: group.n_units - floor[group.name]] for group in groups}
    owner = np.repeat(np.arange(len(names)), [len(lowest[name]) for name in names])
    values = np.concatenate([lowest[name] for name in names] or [np.zeros(0)])
    return [names[place] for place in owner[np.argsort(values, kind="stable")]]


def costed_path(groups: Sequence[Group], scores: Mapping[str, np.ndarray], floor: Widths, freed: Freed) -> list[str]:
    """
    The same for scores that are errors: the least error for what it saves goes first.

    :param freed: what a unit saves, which changes as the layers beside it narrow.
    """
    lowest = {group.name: np.sort(scores[group.name]) for group in groups}
    widths = {group.name: group.n_units for group in groups}
    path: list[str] = []
    for _ in range(sum(widths.values()) - sum(floor[name] for name in widths)):
        open_ = [name for name, width in widths.items() if width > floor[name]]
        values = [lowest[name][len(lowest[name]) - widths[name]] / max(freed(name, widths), 1e-300) for name in open_]
        path.append(open_[int(np.argmin(values))])
        widths[path[-1]] -= 1
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
