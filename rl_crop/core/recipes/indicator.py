"""The early pruning indicator: prune when the widths that pruning would leave no longer change."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

STABLE = 0.983
"""Threshold of :class:`EarlyPruningIndicator` for proposals by magnitude (by gradient 0.944)."""

Propose = Callable[[], Mapping[str, int]]
"""Makes the widths that pruning now would leave, by layer."""


class EarlyPruningIndicator:
    """
    Fires when the widths that pruning would leave no longer change (EPI, "When to Prune?", CVPR 2022).

    Ψ of two proposals is 1 − the mean over layers of |n₁ − n₂| / (n₁ + n₂). The indicator is the mean Ψ of a proposal
    with the five before it; it fires at or above a threshold, and not below any of its own five last values.

    :param threshold: the threshold.
    :param memory: how many earlier proposals are compared.
    """

    def __init__(self, threshold: float = STABLE, memory: int = 5) -> None:
        self.threshold, self.memory = threshold, memory
        self.proposals: deque[dict[str, int]] = deque(maxlen=memory)
        self.values: deque[float] = deque(maxlen=memory)
        self.value = 0.0

    def look(self, propose: Propose) -> bool:
        """
        Look at one proposal.

        :param propose: makes it: kept units by layer.
        :return: whether to prune now.
        """
        widths = propose()
        similar = [structure_similarity(widths, earlier) for earlier in self.proposals]
        self.proposals.append(dict(widths))
        if len(similar) < self.memory:
            return False
        self.value = float(np.mean(similar))
        fires = len(self.values) == self.memory and self.value >= max(self.threshold, *self.values)
        self.values.append(self.value)
        return fires

    def readings(self) -> dict[str, float]:
        """:return: the indicator."""
        return {"epi": self.value}

    def state_dict(self) -> dict[str, Any]:
        """:return: what has been seen so far: proposals, oldest first, and the indicator's values."""
        proposals = [dict(widths) for widths in self.proposals]
        return {"proposals": proposals, "values": list(self.values), "value": self.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Go on from what another indicator has seen.

        :param state: its :meth:`state_dict`.
        """
        self.proposals, self.values = deque(state["proposals"], self.memory), deque(state["values"], self.memory)
        self.value = state["value"]


def structure_similarity(first: Mapping[str, int], second: Mapping[str, int]) -> float:
    """:return: Ψ of two structures: 1 where every layer keeps as many units in both."""
    return 1.0 - float(np.mean([abs(n - second[name]) / max(n + second[name], 1) for name, n in first.items()]))
