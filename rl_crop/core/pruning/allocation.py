"""From scores to kept units: a budget in parameters, FLOPs or units, met exactly and never below a floor."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import DependencyGraph, Group
from rl_crop.core.pruning.paths import Freed, Widths, costed_path, counts_along, floors, ranked_path

BUDGETS = ("params", "flops", "units")
SCOPES = ("network", "layer", "global", "isomorphic")


@dataclass(frozen=True)
class _Term:
    """One parameter: what an element costs, its axes, and which groups shorten which axis by how much a unit."""

    price: float
    shape: tuple[int, ...]
    cuts: tuple[tuple[int, str, int, int], ...]  # (axis, group, units there now, positions a unit)

    def cost(self, widths: Widths) -> float:
        size = list(self.shape)
        for axis, group, now, positions in self.cuts:
            size[axis] -= (now - widths.get(group, now)) * positions
        return self.price * math.prod(size)

    def never_cut(self) -> float:
        size = list(self.shape)
        for axis, _, now, positions in self.cuts:
            size[axis] -= now * positions
        return self.price * math.prod(size)


class Budget:
    """
    The cost of the prunable part of some parameters as a function of the widths.

    :param graph: the units of the model.
    :param parameters: names of the parameters that count.
    :param kind: ``"params"``, ``"flops"`` (multiply-adds times two of linear and convolution weights for one
        observation) or ``"units"``.
    """

    def __init__(self, graph: DependencyGraph, parameters: Iterable[str], kind: str = "params") -> None:
        names = list(parameters)
        self._units = [group.name for group in graph.groups.values() if group.tensors("out")[0] in names]
        self._now = {name: group.n_units for name, group in graph.groups.items()}
        self._kind = kind
        self._terms = []
        for name in names:
            price = 2.0 * graph.applications.get(name, 0.0) if kind == "flops" else 1.0
            cuts = tuple((slot.axis, group.name, group.n_units, slot.index.shape[1]) for group, slot in graph.slots_of(name))
            if cuts and price:
                self._terms.append(_Term(price, graph.shapes[name], cuts))
        self._by_group = {
            name: [term for term in self._terms if any(name == group for _, group, _, _ in term.cuts)] for name in self._now
        }
        self._fixed = sum(term.never_cut() for term in self._terms)

    def cost(self, widths: Widths) -> float:
        """:return: what is left of the prunable part at these widths (groups not named keep theirs)."""
        if self._kind == "units":
            return float(sum(widths.get(name, self._now[name]) for name in self._units))
        return sum(term.cost(widths) for term in self._terms) - self._fixed

    def freed(self, name: str, widths: Widths, n: int = 1) -> float:
        """:return: what some units less of a group save, at widths that name it."""
        if self._kind == "units":
            return float(n)
        less = {**widths, name: widths[name] - n}
        return sum(term.cost(widths) - term.cost(less) for term in self._by_group[name])

    def sparsity(self, widths: Widths) -> float:
        """:return: the share of the prunable part that is gone at these widths."""
        before = self.cost({})
        return (before - self.cost(widths)) / before if before else 0.0


def allocate(
    groups: Sequence[Group],
    scores: Mapping[str, np.ndarray],
    sparsity: float,
    sparsity_at: Callable[[Widths], float],
    scope: str = "network",
    min_units: float = 1,
    what: str = "the model",
    *,
    round_to: int = 1,
    freed: Freed | None = None,
    classes: Sequence[Sequence[Group]] | None = None,
) -> dict[str, np.ndarray]:
    """
    Choose the units to keep: the fewest removals, lowest scores first, that meet the sparsity.

    :param groups: the groups that share the budget.
    :param scores: a score a unit by group; the lowest go first.
    :param sparsity: the share of the budget that must be gone, in [0, 1).
    :param sparsity_at: the sparsity reached at given widths.
    :param scope: ``"layer"`` removes the same share of units in every group, ``"isomorphic"`` in every class of groups;
        otherwise one ranking over all groups.
    :param min_units: units that stay in every group: a number of at least 1, or, below 1, a share (rounded down) of
        those that ``"layer"`` would leave there.
    :param what: names the network in errors.
    :param round_to: of every group that loses units, a multiple of this stays.
    :param freed: where scores are errors, what a unit of a group saves at given widths: scores count by what they save.
    :param classes: of ``"isomorphic"``: groups that are ranked together.
    :return: kept unit indices by group name, ascending int64.
    :raises PruningError: the sparsity cannot be reached with ``min_units`` left in every layer.
    """
    floor = floors(groups, {group.name: min_units for group in groups}, round_to)
    largest = sparsity_at(floor)
    if sparsity > largest + 1e-12:
        rounding, lower = (f" and round_to={round_to}", " or round_to") if round_to > 1 else ("", "")
        raise PruningError(
            f"sparsity {sparsity:g} of {what} cannot be reached with min_units={min_units}{rounding}: "
            f"the largest reachable is {math.floor(largest * 1e4) / 1e4:g}. Ask for less, or lower min_units{lower}."
        )
    order = {group.name: np.argsort(scores[group.name], kind="stable") for group in groups}
    single = [[group] for group in groups]
    if scope == "layer" or min_units < 1:
        paths = [ranked_path(own, scores, floor, round_to) for own in single]
        removed = _fewest_removals(paths, single, sparsity, sparsity_at, round_to)
    if scope != "layer":
        if min_units < 1:
            least = {group.name: min_units * (group.n_units - removed[group.name]) for group in groups}
            floor = floors(groups, least, round_to)
        together = classes if scope == "isomorphic" and classes is not None else [groups]
        paths = [
            ranked_path(own, scores, floor, round_to) if freed is None else costed_path(own, scores, floor, freed, round_to)
            for own in together
        ]
        removed = _fewest_removals(paths, together, sparsity, sparsity_at, round_to)
    return {group.name: np.sort(order[group.name][removed[group.name] :]).astype(np.int64) for group in groups}


def _fewest_removals(
    paths: Sequence[Sequence[str]],
    classes: Sequence[Sequence[Group]],
    sparsity: float,
    sparsity_at: Callable[[Widths], float],
    round_to: int,
) -> dict[str, int]:
    """:return: by group name, how many go at the first step along the paths that meets the target"""
    # Sparsity grows with every removal, so it is found by bisection.
    sizes = [sum(group.n_units for group in own) for own in classes]
    units = {group.name: group.n_units for own in classes for group in own}

    def widths_at(step: int) -> dict[str, int]:
        gone = counts_along(paths, sizes, step)
        return {name: (n - gone[name]) // round_to * round_to if gone[name] else n for name, n in units.items()}

    low, high = 0, max(sizes, default=0)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if sparsity_at(widths_at(middle)) >= sparsity - 1e-12 else (middle + 1, high)
    return {name: units[name] - width for name, width in widths_at(low).items()}
