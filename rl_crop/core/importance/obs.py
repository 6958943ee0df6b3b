"""
Structured Optimal Brain Surgeon on what layers receive: which unit the others best stand in for, and what is lost.

A layer computes y = W x. Without some features of x it is refitted by ridge regression towards its plain weights, with
H = E[x xᵀ] + ridge. To lose the features of unit j costs tr(W_j ((H⁻¹)_jj)⁻¹ W_jᵀ); W and H⁻¹ then follow in closed form, so
that units can go one after the other, the cheapest first (OBC, NeurIPS 2022; ZipLM, NeurIPS 2023). Neighbours, which also
select units by what the others reproduce: Principal Component Networks (2020), Model Preserving Compression (Chee et al.,
NeurIPS 2022), OSSCAR (2024).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch as th
from scipy.linalg import cholesky, solve_triangular
from scipy.linalg.lapack import dpotri

from rl_crop.core.graph.groups import Group
from rl_crop.core.importance.received import Received

BLOCK = 64
"""Features whose removal is carried through to the whole matrices at once."""
TINY = np.finfo(float).tiny


@dataclass(frozen=True)
class Reader:
    """
    A layer, or layers that receive the same, as a linear function of what it receives.

    :param weight: W, shape (outputs, features), float64; an output counts by the square of what its row is multiplied by.
    :param gram: E[x xᵀ], shape (features, features), float64.
    :param ridge: pull towards the plain weights.
    :param units: the features that belong to each unit, int64 of shape (n_units, k); the others stay.
    """

    weight: np.ndarray = field(repr=False)
    gram: np.ndarray = field(repr=False)
    ridge: float
    units: np.ndarray = field(repr=False)

    @cached_property
    def variance(self) -> float:
        """What the layer computes, squared and summed over outputs: Σ‖W x‖²."""
        return float(np.einsum("of,fg,og->", self.weight, self.gram, self.weight, optimize=True))

    def moments(self, *features: np.ndarray) -> np.ndarray:
        """:return: a copy of H over some features, in this order"""
        chosen = np.concatenate(features)
        h = self.gram[np.ix_(chosen, chosen)]
        h.flat[:: len(h) + 1] += self.ridge
        return h


def removal_order(readers: Sequence[Reader]) -> np.ndarray:
    """
    Which unit goes first, second, ...: always the one that costs least, given what is gone and how the rest was refitted.

    :param readers: all that read the units; their costs, relative to what each computes, add up.
    :return: every unit once, int64. Those that nobody reads come first; of equals the one with the lower number.
    """
    read = np.logical_or.reduce([reader.weight[:, reader.units].any((0, 2)) for reader in readers])
    order, left = list(np.flatnonzero(~read)), np.flatnonzero(read)
    if not len(left):
        return np.array(order, dtype=np.int64)
    states = [_Removal(reader, left) for reader in readers]
    wait = max(1, BLOCK // max(reader.units.shape[1] for reader in readers))
    gone = np.zeros(len(left))  # infinite for a unit that is gone
    for step in range(len(left)):
        if step and step % wait == 0:
            for state in states:
                state.settle(gone == 0)
            left = left[gone == 0]
            gone = np.zeros(len(left))
        place = int(sum((state.costs() for state in states), gone).argmin())
        for state in states:
            state.remove(place)
        gone[place] = np.inf
        order.append(left[place])
    return np.array(order, dtype=np.int64)


class _Removal:
    """
    C = H⁻¹ and M = WᵀW over the features of the units that are left, as units go.

    Both change by terms of low rank: C by −cᵀ u, M by −uᵀ v − vᵀ u, with a row of c, u and v a feature that went. They are
    collected and carried out together by :meth:`settle`; what a step needs is known before: blocks on the diagonal, and the
    rows of one unit.
    """

    def __init__(self, reader: Reader, units: np.ndarray) -> None:
        self.k = reader.units.shape[1]
        self.eye = np.eye(self.k)
        features = reader.units[units].ravel()
        others = np.setdiff1d(np.arange(len(reader.gram)), reader.units)
        self.inverse = _inverse(reader.moments(features, others))[: len(features), : len(features)]
        weight = reader.weight[:, features]
        self.moments = weight.T @ weight / max(reader.variance, TINY)
        self._begin()

    def _begin(self) -> None:
        self.of_inverse, self.of_moments = self._blocks(self.inverse), self._blocks(self.moments)
        self.c = np.empty((BLOCK + self.k, len(self.inverse)))
        self.u, self.v = np.empty_like(self.c), np.empty_like(self.c)
        self.width = 0

    def _blocks(self, matrix: np.ndarray) -> np.ndarray:
        """:return: the blocks on the diagonal, shape (k, k, units)"""
        by_unit = matrix.reshape(-1, self.k, len(matrix) // self.k, self.k)
        return np.einsum("iaib->abi", by_unit).copy()

    def _products(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """:return: the blocks on the diagonal of firstᵀ second"""
        if self.k == 1:
            return first * second
        first, second = (part.reshape(self.k, -1, self.k) for part in (first, second))
        return np.einsum("pia,pib->abi", first, second)

    def costs(self) -> np.ndarray:
        """:return: what each unit's removal costs now; nothing for those that are gone."""
        if self.k == 1:
            return self.of_moments[0, 0] / self.of_inverse[0, 0]
        return np.linalg.solve(self.of_inverse.T, self.of_moments.T).trace(axis1=1, axis2=2)

    def remove(self, place: int) -> None:
        """Let a unit go: everything after is as if it had never been there."""
        own, width = slice(place * self.k, (place + 1) * self.k), self.width
        c, u, v = self.c[:width], self.u[:width], self.v[:width]
        u_own = u[:, own].T
        rows = self.inverse[own] - u_own @ c
        moments = self.moments[own] - u_own @ v - v[:, own].T @ u
        shares = rows / rows[:, own] if self.k == 1 else np.linalg.solve(rows[:, own], rows)
        halves = moments - (0.5 * moments[:, own]) @ shares
        self.width += self.k
        new = slice(width, self.width)
        self.c[new], self.u[new], self.v[new] = rows, shares, halves
        self.of_inverse -= self._products(shares, rows)
        change = self._products(shares, halves)
        self.of_moments -= change + change.swapaxes(0, 1) if self.k > 1 else 2 * change
        self.of_inverse[..., place], self.of_moments[..., place] = self.eye, 0.0  # of no further interest

    def settle(self, alive: np.ndarray) -> None:
        """Carry out what was collected, and forget the units that are gone."""
        features = np.repeat(alive, self.k)
        c, u, v = (panel[: self.width, features] for panel in (self.c, self.u, self.v))
        both = np.ix_(features, features)
        self.inverse = self.inverse[both] - c.T @ u
        change = u.T @ v
        self.moments = self.moments[both] - change - change.T
        self._begin()


def errors_along(readers: Sequence[Reader], order: np.ndarray) -> np.ndarray:
    """
    What layers no longer compute as units go one after the other and the layers are refitted each time.

    :param readers: all that read the units.
    :param order: every unit once, the first to go first.
    :return: Σ‖(W' − W) x‖² / Σ‖W x‖², the ridge left out, summed over readers, with 0, 1, ... units gone: float64 of shape
        (n_units + 1,), never decreasing.
    """
    lost = [_lost_along(reader, order) / max(reader.variance, TINY) for reader in readers]
    return np.maximum.accumulate(np.sum(lost, axis=0))


def _lost_along(reader: Reader, order: np.ndarray) -> np.ndarray:
    # With the units in reverse order, what is left is a leading part of what there was. So leading parts of the Cholesky
    # factor L of H, and of L⁻¹, serve every width: the refitted weights are the sum of t zᵀ over the rows of L⁻¹ and Z = LᵀWᵀ.
    k, units = reader.units.shape[1], reader.units[order[::-1]].ravel()
    features = np.concatenate([np.setdiff1d(np.arange(len(reader.gram)), units), units])
    factor = cholesky(reader.moments(features), lower=True, overwrite_a=True, check_finite=False)
    weight = reader.weight[:, features]
    if len(weight) > len(features):  # outputs turned into each other lose the same in all
        weight = np.asarray(np.linalg.qr(weight, mode="r"))
    z = factor.T @ weight.T
    inverse = solve_triangular(factor, np.eye(len(factor)), lower=True, overwrite_b=True, check_finite=False)
    left = np.zeros((len(features), len(weight)))
    growth = np.zeros(len(features))  # of ‖W'‖² − 2⟨W', W⟩, with each further feature
    for start in range(0, len(features), BLOCK):
        stop = start + BLOCK  # L⁻¹ is zero beyond
        part, change = inverse[start:stop, :stop], z[start:stop]
        crossed = np.tril(part @ part.T * (change @ change.T))
        before = part @ (left[:stop] - weight.T[:stop])
        growth[start:stop] = 2 * crossed.sum(1) - crossed.diagonal() + 2 * (before * change).sum(1)
        left[:stop] += part.T @ change
    moved = (weight**2).sum() + np.concatenate([[0.0], np.cumsum(growth)])  # ‖W' − W‖² with 0, 1, ... features left
    lost = np.concatenate([np.cumsum((z**2).sum(1)[::-1])[::-1], [0.0]])  # with the ridge's part in it
    errors = np.maximum(lost - reader.ridge * moved, 0.0)[len(features) - len(units) :: k][::-1]
    return np.concatenate([[0.0], errors[1:]])


def readers_of(
    group: Group, received: Sequence[Received], weights: Mapping[str, th.Tensor], importance: Mapping[str, np.ndarray]
) -> list[Reader]:
    """
    :param group: the units.
    :param received: what their consumers receive.
    :param weights: the consumers' weights by name.
    :param importance: what an output's squared error counts, by weight, shape (outputs,); 1 where a weight is not named.
    :return: one reader for each input and convolution group.
    """
    slots = {slot.tensor: slot for slot in group.slots if slot.role == "in"}
    readers = []
    for item in received:
        n_groups, n_features = item.gram.shape[:2]
        rows = []
        for name in item.layers:
            weight = weights[name].detach().double().cpu().numpy().swapaxes(1, slots[name].axis)
            weight = weight.reshape(n_groups, -1, n_features)
            rows.append(weight * np.sqrt(importance[name]).reshape(n_groups, -1, 1) if name in importance else weight)
        first = slots[item.layers[0]]
        kernel = n_features // weights[first.tensor].shape[first.axis]  # positions that one channel has in a patch
        channels = first.index
        units = (channels[:, :, None] * kernel + np.arange(kernel)).reshape(len(channels), -1)
        for place in range(n_groups):
            changes = item.gram[place].diagonal() > item.noise(place)
            weight = np.concatenate([part[place] for part in rows]) * changes  # what never changes is not read
            readers.append(Reader(weight, item.gram[place], item.ridge(place), units))
    return readers


def _inverse(h: np.ndarray) -> np.ndarray:
    lower, _ = dpotri(cholesky(h, lower=True, overwrite_a=True, check_finite=False), lower=1, overwrite_c=1)
    lower = np.tril(lower)
    return lower + np.tril(lower, -1).T
