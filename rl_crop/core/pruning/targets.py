"""What of each network is to go: shares, absolute budgets turned into shares, or ``"auto"``."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import DependencyGraph
from rl_crop.core.model import Subject
from rl_crop.core.pruning.allocation import Budget
from rl_crop.core.pruning.settings import AUTO, Settings, Target, check_sparsity, sparsity_by_network

Targets = dict[str, float | str]
"""By network, a share in [0, 1) or ``"auto"``."""


def resolve_targets(
    sparsity: Target | None, settings: Settings, subject: Subject, graph: DependencyGraph, names: Sequence[str]
) -> Targets:
    """
    :param sparsity: what was asked for; ``None`` where a budget was given, or nothing.
    :param settings: with ``max_params`` or ``max_flops``, where these were given.
    :param subject: the model.
    :param graph: its units.
    :param names: networks that have units.
    :return: what is to go, by network.
    :raises PruningError: both a share and a budget were given, or a budget that cannot be.
    """
    budget = settings.max_params if settings.max_params is not None else settings.max_flops
    if budget is None:
        sparsity = AUTO if sparsity is None else sparsity
        check_sparsity(sparsity)
        found: Targets = dict(sparsity_by_network(sparsity, list(names), settings.scope))
        if AUTO in found.values() and settings.scope == "global":
            raise PruningError("scope='global' has one budget for all networks: sparsity='auto' finds a size for each.")
        return found
    kind = "params" if settings.max_params is not None else "flops"
    if sparsity is not None:
        raise PruningError(f"max_{kind}={budget!r} and sparsity={sparsity!r} say the same in two ways: give one of them.")
    if settings.scope == "global":
        raise PruningError(f"max_{kind} does not go with scope='global': give one of them.")
    trained = {name for name, tensor in subject.trained.tensors.items() if isinstance(tensor, th.nn.Parameter)}
    owned = {network.name: network.parameters & trained for network in subject.networks if network.name in names}
    if isinstance(budget, Mapping):
        unknown = sorted(set(budget) - set(owned))
        if unknown:
            raise PruningError(f"max_{kind} names {unknown}, but the networks with units are {list(owned)}.")
        return {name: _share(graph, [owned[name]], owned[name], kind, most, name) for name, most in budget.items()}
    share = _share(graph, list(owned.values()), trained, kind, budget, "the model")
    return dict.fromkeys(owned, share)


def _share(graph: DependencyGraph, prunable: Sequence[Any], counted: Any, kind: str, most: Any, what: str) -> float:
    """:return: the share of what can be pruned that has to go, so that all that is counted is no more than ``most``."""
    if isinstance(most, bool) or not isinstance(most, Real) or not 0 < float(most) < math.inf:
        raise PruningError(f"max_{kind}={most!r} must be a positive number, or one by network.")
    prices = {name: 1.0 if kind == "params" else 2.0 * graph.applications.get(name, 0.0) for name in counted}
    total = sum(price * int(np.prod(graph.shapes[name])) for name, price in prices.items())
    reachable = sum(Budget(graph, names, kind).cost({}) for names in prunable)
    excess = total - float(most)
    if excess > 0 and excess >= reachable:
        raise PruningError(
            f"max_{kind}={most:,} of {what} cannot be reached: {math.ceil(total - reachable):,} of its {round(total):,} "
            f"belong to no unit. Ask for more."
        )
    return max(excess, 0.0) / reachable if reachable else 0.0
