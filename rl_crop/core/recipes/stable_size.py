"""The trigger of a size that is found: cut when the size no longer changes."""

from collections.abc import Mapping
from typing import Any

from rl_crop.core.recipes.indicator import Propose, structure_similarity

AGREE = 0.9
"""Ψ of two sizes that agree (:func:`~rl_crop.core.recipes.indicator.structure_similarity`)."""
CHECKS_BETWEEN = 10
"""Checks from one search for a size to the next: a search costs as much as a cut, so that a run has twenty at most."""


class StableSize:
    """
    Fires when the widths that are found twice running agree, and have not grown.

    A network that computes little yet needs few units: a size that is found before anything has been learnt grows afterwards.
    (rl_crop's own.)

    :param agree: the similarity Ψ at which two sizes agree.
    """

    def __init__(self, agree: float = AGREE) -> None:
        self.agree = agree
        self.widths: dict[str, int] = {}
        self.n_checks, self.similarity, self.settled = 0, 0.0, False

    def look(self, propose: Propose) -> bool:
        """
        Find a size at every tenth check.

        :param propose: finds it: kept units by layer.
        :return: whether to prune now.
        """
        self.n_checks += 1
        if self.n_checks % CHECKS_BETWEEN == 0:
            widths, before = dict(propose()), self.widths
            if before.keys() == widths.keys():
                self.similarity = structure_similarity(widths, before)
                grown = sum(widths.values()) > sum(before.values()) * (2.0 - self.agree)
                self.settled = self.similarity >= self.agree and not grown
            self.widths = widths
        return self.settled

    def readings(self) -> dict[str, float]:
        """:return: units that would be left, and how far the latest two sizes agree."""
        return {"units": float(sum(self.widths.values())), "agreement": self.similarity} if self.widths else {}

    def state_dict(self) -> dict[str, Any]:
        """:return: what has been seen so far."""
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in vars(self).items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Go on from what another has seen.

        :param state: its :meth:`state_dict`.
        """
        vars(self).update(state)
