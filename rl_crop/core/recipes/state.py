"""What a strategy may look at when something is due (a view of the run, which changes nothing), and what came of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch as th

from rl_crop.core.masking.masks import Keep, Masks
from rl_crop.core.masking.weights import Weights
from rl_crop.core.model import Subject
from rl_crop.core.pruning.plan import PruningPlan
from rl_crop.core.pruning.planning import make_plan
from rl_crop.core.pruning.report import PruningReport
from rl_crop.core.pruning.schedules import MET, relative_sparsity
from rl_crop.core.pruning.settings import Settings, Target
from rl_crop.core.pruning.surgery import Transaction


@dataclass(frozen=True)
class State:
    """
    One moment of a run.

    :param subject: what is pruned, with scoring batches.
    :param settings: criterion, scope, seed and the rest, for this change.
    :param weights: the single weights that can be masked.
    :param masks: those that are held; ``None`` where units are removed.
    :param targets: sparsity to end with, by network, or in ``"total"``.
    :param due: share of the original that is to be gone, or masked, now.
    :param gone: share of the original units' parameters that is gone.
    :param x: how much of the schedule has passed, in [0, 1].
    :param first: whether this is the run's first change.
    :param shuffle: whether the choice within each layer is random.
    :param initial: the weights as they were at the beginning, where anything compares with them.
    :param dense: the weights without masks, where they may come back.
    :param last: whether nothing trains after this change, so that what grows now would stay at zero.
    :param found: the plan with which a size was found, where it is the whole of what is to be done.
    """

    subject: Subject
    settings: Settings
    weights: Weights
    masks: Masks | None
    targets: Mapping[str, float]
    due: Mapping[str, float]
    gone: Mapping[str, float]
    x: float
    first: bool
    shuffle: bool = False
    initial: Mapping[str, th.Tensor] = field(default_factory=dict)
    dense: Mapping[str, th.Tensor] | None = None
    last: bool = False
    found: PruningPlan | None = None

    @property
    def keep(self) -> dict[str, th.Tensor]:
        """The masks at this moment, by name."""
        return {} if self.masks is None else self.masks.keep

    @property
    def names(self) -> list[str]:
        """Names of the weights of the networks that are pruned."""
        return [name for network in self.targets for name in self.weights.within(network)]

    @property
    def rest(self) -> dict[str, float]:
        """What has to go of the networks as they are, so that what is due of the original is gone."""
        left = {name: (share, self.gone.get(name, 0.0)) for name, share in self.due.items()}
        met = {name: MET if share else 0.0 for name, share in self.due.items()}
        return {name: relative_sparsity(max(share, gone), gone) or met[name] for name, (share, gone) in left.items()}

    def plan(self, sparsity: Mapping[str, float], **changed: Any) -> PruningPlan:
        """:return: a cut of units, of the networks as they are."""
        return make_plan(self.subject, as_target(sparsity), replace(self.settings, **changed))

    def scores(self) -> dict[str, th.Tensor]:
        """:return: scores of single weights under the masks of this moment."""
        return self.weights.saliency(
            self.subject, self.settings.criterion, self.settings.seed or 0, self.keep, self.initial or None, self.dense,
            self.targets,
        )  # fmt: skip

    def choose(self, scores: Mapping[str, th.Tensor], sparsity: Mapping[str, float], among: Keep | None = None) -> Keep:
        """:return: masks that keep the weights with the highest scores, of those in ``among`` where it is given."""
        keep = self.weights.select(scores, sparsity, self.settings.scope, among)
        return self.weights.shuffled(keep, self.settings.scope, self.settings.seed or 0, among) if self.shuffle else keep


@dataclass(frozen=True)
class Change:
    """
    One change of the network.

    :param number: of the event; 0 where masks move all the time.
    :param n_events: how many there are in all.
    :param decided_by: what said that pruning begins, or ``"end"``.
    :param gone: share of the original that is gone, or masked, by network (or in ``"total"``).
    :param share: of all events, which share this one is: those that the end of the run passes over fall to the last.
    :param report: of this event; of all so far, where masks move; ``None`` where nothing has gone yet (a penalty grows).
    :param finished: whether this is the last one.
    """

    number: int
    n_events: int
    decided_by: str
    share: float
    gone: dict[str, float]
    report: PruningReport | None
    finished: bool


Record = Callable[[Transaction, Change], None]
"""Keeps a change somewhere, while it can still be undone."""


def as_target(targets: Mapping[str, float]) -> Target:
    """:return: what planning takes: one number for all networks together, or one by network."""
    return targets["total"] if "total" in targets else targets
