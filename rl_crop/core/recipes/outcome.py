"""What a run has done to a network so far: units that are gone, masks that hold, and the reports of both."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch as th

from rl_crop.core.masking.masks import Masks, pack, unpack
from rl_crop.core.masking.weights import Weights
from rl_crop.core.model import Subject
from rl_crop.core.pruning.plan import PruningPlan
from rl_crop.core.pruning.report import PruningReport
from rl_crop.core.pruning.steps import merge_reports
from rl_crop.core.pruning.surgery import Transaction
from rl_crop.core.recipes.strategies import Decision


class Outcome:
    """
    The one place that knows what is gone. Its attributes are replaced, never changed, so that a transaction can keep them.

    :param structured: whether units are removed, or weights masked.
    """

    weights: Weights
    targets: Mapping[str, float]

    def __init__(self, structured: bool) -> None:
        self.structured = structured
        self.masks: Masks | None = None
        self.reports: list[PruningReport] = []
        self.removed: dict[str, float] = {}
        self.dense: list[dict[str, th.Tensor]] = []  # by copy, weights that a later step of the event may bring back

    def of(self, weights: Weights, targets: Mapping[str, float]) -> None:
        """From now on it is of these weights, with these sparsities to end with."""
        self.weights, self.targets = weights, targets

    @property
    def gone(self) -> dict[str, float]:
        """Share of the original that is gone, or masked, by network, or in ``"total"``."""
        if self.structured:
            return dict.fromkeys(self.targets, 0.0) | self.removed
        return {name: 0.0 if self.masks is None else self.weights.sparsity(self.masks.keep, name) for name in self.targets}

    @property
    def names(self) -> list[str]:
        """Names of the weights of the networks that are pruned."""
        return [name for network in self.targets for name in self.weights.within(network)]

    def hold(self, subject: Subject, transaction: Transaction, revives: bool = False) -> None:
        """
        See to it that masks are attached, and are the only ones that hold these weights.

        :param revives: whether a later step of the event may bring back what an earlier one masks.
        """
        if self.masks is None or not self.masks.attached:
            self.masks = self.weights.hold(subject, self.targets, transaction)
        self.dense = self.masks.data(self.names) if revives else []

    def carry_out(self, decision: Decision, subject: Subject, transaction: Transaction) -> None:
        """Cut what a plan says, or mask what a mapping of masks says."""
        if isinstance(decision, PruningPlan):
            self.reports = [*self.reports, decision.apply(transaction)]
            more = {
                name: 1.0 - (1.0 - self.removed.get(name, 0.0)) * (1.0 - share)
                for name, share in decision.budget_sparsity.items()
            }
            self.removed = self.removed | more
            return
        if self.masks is None or not self.masks.attached:
            self.hold(subject, transaction)
        assert self.masks is not None
        for copy, values in zip(self.masks.copies, self.dense, strict=False):
            for name, value in values.items():
                transaction.set_data(copy[name], value.clone())
        self.masks.set({**self.masks.keep, **decision}, transaction)

    def report(self, criterion: str, seconds: float, since: int = 0) -> PruningReport | None:
        """
        :param criterion: the name of what masks were chosen by.
        :param seconds: that choosing masks has taken.
        :param since: how many cuts are left out, from the first on.
        :return: what has been done; ``None`` where nothing has.
        """
        if self.structured:
            return merge_reports(self.reports[since:]) if self.reports[since:] else None
        return None if self.masks is None else self.weights.report(self.masks.keep, criterion, seconds)

    def state_dict(self) -> dict[str, Any]:
        """:return: plain values."""
        reports: Sequence[dict[str, Any]] = [report.to_dict() for report in self.reports]
        masks = None if self.masks is None else pack(self.masks.keep)
        return {"removed": dict(self.removed), "reports": reports, "masks": masks}

    def load_state_dict(self, state: Mapping[str, Any], subject: Subject) -> None:
        """Go on from there, with the weights of then."""
        self.removed, self.reports = dict(state["removed"]), [PruningReport(**report) for report in state["reports"]]
        if state["masks"] is not None:
            with Transaction() as transaction:
                self.carry_out(unpack(state["masks"]), subject, transaction)
