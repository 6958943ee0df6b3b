"""How a sparsity is shared among tensors (uniform, ER, ERK), and which elements stay: exactly as many as asked."""

import math
from collections.abc import Mapping

import numpy as np
import torch as th

from rl_crop.core.errors import PruningError

ELEMENT_SCOPES = ("network", "layer", "er", "erk", "global")
"""``network`` and ``global`` rank everything given together; ``layer`` takes the same share of every tensor."""

Shapes = Mapping[str, tuple[int, ...]]


def uniform(shapes: Shapes, density: float, most: Mapping[str, float] | None = None) -> dict[str, float]:
    """:return: the same density for every tensor; see :func:`er` for the arguments."""
    return _solved(shapes, dict.fromkeys(shapes, 1.0), density, most)


def er(shapes: Shapes, density: float, most: Mapping[str, float] | None = None) -> dict[str, float]:
    """
    Erdős–Rényi densities: ε (inputs + outputs) / (inputs · outputs), a kernel's places all alike (SET, 2018).

    :param shapes: of the weights, (outputs, inputs, \\*kernel).
    :param density: the share of all elements that is kept, in [0, 1].
    :param most: by name, the highest density a tensor may have (1 by default).
    :return: densities that together keep exactly that share (or all they may); ε is solved again where a tensor saturates.
    """
    raw = {name: sum(shape[:2]) / math.prod(shape[:2]) for name, shape in shapes.items()}
    return _solved(shapes, raw, density, most)


def erk(shapes: Shapes, density: float, most: Mapping[str, float] | None = None) -> dict[str, float]:
    """As :func:`er`, with the kernel's sides in sum and product: ε (inputs + outputs + height + width) / size (RigL, 2020)."""
    return _solved(shapes, {name: sum(shape) / math.prod(shape) for name, shape in shapes.items()}, density, most)


def _solved(
    shapes: Shapes, raw: Mapping[str, float], density: float, most: Mapping[str, float] | None = None
) -> dict[str, float]:
    size = {name: math.prod(shape) for name, shape in shapes.items()}
    full = dict.fromkeys(shapes, 1.0) | dict(most or {})
    saturated: dict[str, float] = {}
    while True:
        free = [name for name in shapes if name not in saturated]
        left = density * sum(size.values()) - sum(size[name] * share for name, share in saturated.items())
        weight = sum(raw[name] * size[name] for name in free)
        epsilon = max(left, 0.0) / weight if weight else 0.0
        found = {name: full[name] for name in free if epsilon * raw[name] > full[name]}
        if not found:
            return {name: saturated.get(name, epsilon * raw[name]) for name in shapes}
        saturated |= found


DENSITIES = {"layer": uniform, "er": er, "erk": erk}
"""Densities by scope."""


def counts(shapes: Shapes, sparsity: float, scope: str, most: Mapping[str, int] | None = None) -> dict[str, int]:
    """
    How many elements of each tensor stay.

    :param shapes: of the weights.
    :param sparsity: of all of them together, in [0, 1).
    :param scope: ``"layer"``, ``"er"`` or ``"erk"``.
    :param most: by name, how many may stay at most (all by default).
    :return: whole numbers that add up to :func:`n_kept`, or to all that may stay; what rounding leaves goes to the largest
        fractions.
    """
    size = {name: math.prod(shape) for name, shape in shapes.items()}
    full = size | dict(most or {})
    shares = DENSITIES[scope](shapes, 1.0 - sparsity, {name: n / max(size[name], 1) for name, n in full.items()})
    exact = {name: share * size[name] for name, share in shares.items()}
    found = {name: min(_whole(value), full[name]) for name, value in exact.items()}
    rest = min(n_kept(sum(size.values()), sparsity), sum(full.values())) - sum(found.values())
    room = [name for name in exact if found[name] < full[name]]
    for name in sorted(room, key=lambda name: found[name] - exact[name])[: max(rest, 0)]:
        found[name] += 1
    return found


def n_kept(n_elements: int, sparsity: float) -> int:
    """:return: the most elements that may stay so that at least the share ``sparsity`` goes."""
    return _whole(n_elements * (1.0 - sparsity))


def _whole(number: float) -> int:
    """:return: the number rounded down, where it is not a whole one but for rounding errors."""
    return math.floor(number * (1 + 1e-12) + 1e-9)


def select(
    scores: Mapping[str, th.Tensor],
    sparsity: float,
    scope: str = "network",
    among: Mapping[str, th.Tensor] | None = None,
) -> dict[str, th.Tensor]:
    """
    Keep the elements with the highest scores: exactly :func:`n_kept` of them; of equal scores the first ones stay.

    :param scores: a score an element, by name (for ``er`` and ``erk`` of weights, (outputs, inputs, \\*kernel)).
    :param sparsity: the share of all elements that goes, in [0, 1).
    :param scope: one of :data:`ELEMENT_SCOPES`.
    :param among: by name, masks of what may stay (everything by default); what else is there counts as gone.
    :return: by name, a boolean tensor of the scores' shape and device, ``True`` where kept.
    :raises PruningError: a score is not a number.
    """
    if scope not in ELEMENT_SCOPES:
        raise PruningError(f"scope={scope!r} is not one of {list(ELEMENT_SCOPES)}.")
    for name, score in scores.items():
        if bool(th.isnan(score).any()):
            raise PruningError(f"A score of {name!r} is not a number.")
    if among is not None:
        ranked = {name: score.masked_fill(~among[name], -th.inf) for name, score in scores.items()}
        most = {name: int(among[name].sum()) for name in scores}
        return {name: mask & among[name] for name, mask in _selected(ranked, sparsity, scope, most).items()}
    return _selected(scores, sparsity, scope)


def _selected(
    scores: Mapping[str, th.Tensor], sparsity: float, scope: str, most: Mapping[str, int] | None = None
) -> dict[str, th.Tensor]:
    if scope in DENSITIES:
        wanted = counts({name: tuple(score.shape) for name, score in scores.items()}, sparsity, scope, most)
        return {name: highest(score.reshape(-1), wanted[name]).reshape(score.shape) for name, score in scores.items()}
    if not scores:
        return {}
    flat = th.cat([score.detach().reshape(-1).double().cpu() for score in scores.values()])
    pieces = highest(flat, n_kept(len(flat), sparsity)).split([score.numel() for score in scores.values()])
    return {
        name: piece.reshape(score.shape).to(score.device) for (name, score), piece in zip(scores.items(), pieces, strict=True)
    }


def highest(scores: th.Tensor, n: int) -> th.Tensor:
    """:return: of one dimension, ``True`` at the ``n`` highest; a stable sort, so of equal ones the first."""
    order = np.argsort(-scores.detach().double().cpu().numpy(), kind="stable")
    mask = np.zeros(len(order), dtype=bool)
    mask[order[:n]] = True
    return th.from_numpy(mask).to(scores.device)
