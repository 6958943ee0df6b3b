"""From scores to kept units: a budget in parameters, FLOPs or units, met exactly and never below a floor."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import DependencyGraph, Group

BUDGETS = ("params", "flops", "units")
SCOPES = ("network", "layer", "global")

Widths = Mapping[str, int]
"""Units by group name."""


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
        self._fixed = sum(term.never_cut() for term in self._terms)

    def cost(self, widths: Widths) -> float:
        """:return: what is left of the prunable part at these widths (groups not named keep theirs)."""
        if self._kind == "units":
            return float(sum(widths.get(name, self._now[name]) for name in self._units))
        return sum(term.cost(widths) for term in self._terms) - self._fixed

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
) -> dict[str, np.ndarray]:
    """
    Choose the units to keep: the fewest removals, lowest scores first, that meet the sparsity.

    :param groups: the groups that share the budget.
    :param scores: a score a unit by group; the lowest go first.
    :param sparsity: the share of the budget that must be gone, in [0, 1).
    :param sparsity_at: the sparsity reached at given widths.
    :param scope: ``"layer"`` removes the same share of units in every group; otherwise one ranking over all groups.
    :param min_units: units that stay in every group: a number of at least 1, or, below 1, a share (rounded down) of
        those that ``"layer"`` would leave there.
    :param what: names the network in errors.
    :return: kept unit indices by group name, ascending int64.
    :raises PruningError: the sparsity cannot be reached with ``min_units`` left in every layer.
    """
    floor = {group.name: min(group.n_units, max(int(min_units), 1)) for group in groups}
    largest = sparsity_at(floor)
    if sparsity > largest + 1e-12:
        raise PruningError(
            f"sparsity {sparsity:g} of {what} cannot be reached with min_units={min_units}: "
            f"the largest reachable is {math.floor(largest * 1e4) / 1e4:g}. Ask for less, or lower min_units."
        )
    order = {group.name: np.argsort(scores[group.name], kind="stable") for group in groups}
    if scope == "layer" or min_units < 1:
        removed = _fewest_removals(_removals_by_share(groups, floor), groups, sparsity, sparsity_at)
    if scope != "layer":
        if min_units < 1:
            floor = {group.name: max(int(min_units * (group.n_units - removed[group.name])), 1) for group in groups}
        removed = _fewest_removals(_removals_by_rank(groups, scores, order, floor), groups, sparsity, sparsity_at)
    return {group.name: np.sort(order[group.name][removed[group.name] :]).astype(np.int64) for group in groups}


def _fewest_removals(
    steps: "_removals_by_rank | _removals_by_share",
    groups: Sequence[Group],
    sparsity: float,
    sparsity_at: Callable[[Widths], float],
) -> dict[str, int]:
    """:return: by group name, how many go at the first step that meets the target"""
    # Sparsity grows with every removal, so it is found by bisection.
    low, high = 0, len(steps) - 1
    while low < high:
        middle = (low + high) // 2
        widths = {group.name: group.n_units - steps(middle)[group.name] for group in groups}
        low, high = (low, middle) if sparsity_at(widths) >= sparsity - 1e-12 else (middle + 1, high)
    return steps(low)


class _removals_by_rank:  # noqa: N801  (used as a function with a length)
    """Step n removes the n lowest-ranked units that the floor does not protect."""

    def __init__(self, groups: Sequence[Group], scores: Mapping, order: Mapping, floor: Widths) -> None:
        removable = {group.name: group.n_units - floor[group.name] for group in groups}
        self.names = [group.name for group in groups]
        owner = np.concatenate(
            [np.full(removable[name], place) for place, name in enumerate(self.names)] or [np.zeros(0)]
        ).astype(int)
        values = np.concatenate([scores[name][order[name][: removable[name]]] for name in self.names] or [np.zeros(0)])
        self.sequence = owner[np.argsort(values, kind="stable")]

    def __len__(self) -> int:
        return len(self.sequence) + 1

    def __call__(self, step: int) -> dict[str, int]:
        counts = np.bincount(self.sequence[:step], minlength=len(self.names))
        return {name: int(count) for name, count in zip(self.names, counts, strict=True)}


class _removals_by_share:  # noqa: N801
    """Step n removes the share n / N of the units of every group, rounded up, N being the widest group."""

    def __init__(self, groups: Sequence[Group], floor: Widths) -> None:
        self.groups, self.removable = groups, {group.name: group.n_units - floor[group.name] for group in groups}
        self.widest = max((group.n_units for group in groups), default=0)

    def __len__(self) -> int:
        return self.widest + 1

    def __call__(self, step: int) -> dict[str, int]:
        shares = {group.name: -(-step * group.n_units // self.widest) if self.widest else 0 for group in self.groups}
        return {name: min(share, self.removable[name]) for name, share in shares.items()}
