"""What becomes of the losers: removed, masked, shrunk at every step, or driven to zero by a growing penalty."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch as th

from rl_crop.core.masks import Keep, Masks, pack, release_masks, unpack
from rl_crop.core.plan import PruningPlan
from rl_crop.core.regrowth import drop_and_grow, regrown_share
from rl_crop.core.report import PruningReport
from rl_crop.core.schedules import relative_sparsity
from rl_crop.core.scoring import Saliency
from rl_crop.core.settings import Target
from rl_crop.core.steps import apply_steps, merge_reports
from rl_crop.core.subject import Subject
from rl_crop.core.surgery import Transaction

if TYPE_CHECKING:
    from rl_crop.core.sparse_training import Batches, SparseTraining

EQUAL = 0.3
"""Share of a growing penalty's phase in which it is equal for all (GReg-2)."""


class Fate:
    """
    One of four answers to the same calls.

    :param run: the run it belongs to.
    """

    def __init__(self, run: "SparseTraining") -> None:
        self.run = run

    def act(self, x: float, batches: "Batches") -> None:
        """Do what is due when the share ``x`` of the schedule has passed; a failure leaves all as it was."""
        raise NotImplementedError

    def after_step(self, optimizer: th.optim.Optimizer) -> None:
        """An optimizer has stepped."""

    def report(self, subject: Subject) -> PruningReport:
        """:return: what has been done so far."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """:return: what a resumed run has to know: plain values, and tensors on the CPU."""
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, Any], subject: Subject) -> None:
        """Go on from there, with the weights of then."""
        raise NotImplementedError


class Removed(Fate):
    """Units are cut out, in one event or in several."""

    def __init__(self, run: "SparseTraining") -> None:
        super().__init__(run)
        self.reports: list[PruningReport] = []
        self.reached: dict[str, float] = {}

    def act(self, x: float, batches: "Batches", scores: Saliency | None = None) -> None:
        reached = {name: self.reached.get(name, 0.0) for name in self.run.targets}
        rest = {name: relative_sparsity(max(share, reached[name]), reached[name]) for name, share in self.run.due(x).items()}
        if self.reports and not any(rest.values()):
            return
        data, applied = batches(), []
        changed: dict[str, Any] = {} if scores is None else {"criterion": lambda scoring: scores}

        def plan_for(target: Target) -> PruningPlan:
            applied.append(self.run.plan(target, data, **changed))
            return applied[-1]

        self.reports.append(apply_steps(plan_for, [as_target(step) for step in self.run.steps_to(rest)]))
        for plan in applied:
            for name, share in plan.budget_sparsity.items():
                self.reached[name] = 1.0 - (1.0 - self.reached.get(name, 0.0)) * (1.0 - share)

    def report(self, subject: Subject) -> PruningReport:
        return merge_reports(self.reports)

    def state_dict(self) -> dict[str, Any]:
        return {"reached": dict(self.reached), "reports": [report.to_dict() for report in self.reports]}

    def load_state_dict(self, state: Mapping[str, Any], subject: Subject) -> None:
        self.reached = dict(state["reached"])
        self.reports = [PruningReport(**report) for report in state["reports"]]


class Masked(Fate):
    """Weights are held at zero: for good, or until the recipe revives them."""

    def act(self, x: float, batches: "Batches") -> None:
        run, recipe, option = self.run, self.run.recipe, self.run.recipe.option
        subject, first = run.subject_of(batches()), run.masks is None
        with Transaction() as transaction:
            masks = self._held(subject, transaction)
            names = [name for network in run.targets for name in run.weights.within(network)]
            restores = recipe.fate == "revive" and recipe.inner != "none"  # a step may bring back what an earlier one masked
            dense = [{name: copy[name].data for name in names if name in copy} for copy in masks.copies if restores]
            if first and recipe.regrow != "none":  # what regrows begins with a random mask
                cubic = recipe.schedule == "cubic"
                start = dict.fromkeys(run.targets, option("start")) if cubic else run.targets
                begin = run.weights.select(
                    run.weights.random(run.draw), start, option("start_scope") if cubic else recipe.scope
                )
                masks.set({**masks.keep, **begin}, transaction)
            for step in run.steps_to(run.due(x)):
                wanted = {name: share for name, share in step.items() if self._moves(masks.keep, name, share)}
                if not wanted:
                    continue
                scores = run.saliency(subject, masks.keep, dense[0] if restores else None)
                for copy, values in zip(masks.copies, dense, strict=False):
                    for name, value in values.items():
                        transaction.set_data(copy[name], value.clone())
                among = None if recipe.fate == "revive" else masks.keep
                masks.set({**masks.keep, **run.weights.select(scores, wanted, recipe.scope, among)}, transaction)
            if not first and recipe.regrow != "none":
                growth = run.weights.growth(recipe.regrow, subject, run.draw, masks.keep, run.targets)
                share = regrown_share(option("share"), option("share_end"), x)
                own = {name: masks.keep[name] for name in names}
                magnitude = run.weights.magnitude()
                worth = run.weights.protected({name: magnitude[name] for name in names}, own)
                masks.set({**masks.keep, **drop_and_grow(own, worth, growth, share)}, transaction)
        run.masks = masks

    def _held(self, subject: Subject, transaction: Transaction) -> Masks:
        """:return: masks that are attached, and the only ones that hold these weights."""
        if self.run.masks is not None and self.run.masks.attached:
            return self.run.masks
        masks = self.run.weights.masks(subject, self.run.targets)
        release_masks([tensor for copy in masks.copies for tensor in copy.values()], transaction)
        masks.attach()
        transaction.call(masks.detach)
        return masks

    def _moves(self, keep: Keep, network: str, sparsity: float) -> bool:
        """:return: whether a network becomes sparser, or dense again."""
        now = self.run.weights.sparsity(keep, network)
        return now < sparsity or now > sparsity == 0.0

    def freeze(self, keep: Keep, subject: Subject) -> None:
        """From now on these masks hold."""
        with Transaction() as transaction:
            masks = self._held(subject, transaction)
            masks.set({**masks.keep, **keep}, transaction)
        self.run.masks = masks

    def report(self, subject: Subject) -> PruningReport:
        keep = {} if self.run.masks is None else self.run.masks.keep
        return self.run.weights.report(keep, self.run.settings.criterion_name, self.run.seconds)

    def state_dict(self) -> dict[str, Any]:
        return {"keep": None if self.run.masks is None else pack(self.run.masks.keep)}

    def load_state_dict(self, state: Mapping[str, Any], subject: Subject) -> None:
        if state["keep"] is not None:
            self.freeze(unpack(state["keep"]), subject)


class Shrunk(Masked):
    """The least weights are multiplied by α after every step, chosen anew each time; in the end they are masked (ISS-P)."""

    factor = 1.0

    def act(self, x: float, batches: "Batches") -> None:
        self.factor = self.run.recipe.option("alpha")
        if x >= 1.0:
            self.freeze(self._kept(), self.run.subject_of(batches()))

    def after_step(self, optimizer: th.optim.Optimizer) -> None:
        if self.factor < 1.0 and self.run.masks is None:
            multiply(optimizer, self.run.weights.tensors, self._kept(), self.factor)

    def _kept(self) -> Keep:
        return self.run.weights.select(self.run.weights.magnitude(), self.run.targets, self.run.recipe.scope)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "factor": self.factor}

    def load_state_dict(self, state: Mapping[str, Any], subject: Subject) -> None:
        super().load_state_dict(state, subject)
        self.factor = state["factor"]


class Penalised(Masked):
    """
    Losers are chosen once, and a penalty that grows drives them to zero: w ← (1 − λ) w after every step (GReg, ICLR 2021).

    The paper adds 1e-4 to λ every few steps until it is 1, and multiplies by the learning rate; here λ grows by the share
    of the phase that has passed, whatever the number of steps and the learning rate, so that the losers end at zero. With
    ``first_ceiling`` an equal penalty on all weights comes first, which shrinks most what the loss curves least (GReg-2).
    """

    def __init__(self, run: "SparseTraining") -> None:
        super().__init__(run)
        self.removed = Removed(run)
        self.keep: Keep = {}
        self.scores: dict[str, th.Tensor] = {}
        self.penalty = 0.0

    def act(self, x: float, batches: "Batches") -> None:
        run, option = self.run, self.run.recipe.option
        split = EQUAL if option("first_ceiling") else 0.0
        if x < split:
            self.keep = {name: th.zeros_like(tensor, dtype=th.bool) for name, tensor in run.weights.tensors.items()}
            self.penalty = option("first_ceiling") * x / split
            return
        if not self.scores:
            data = batches()
            if run.recipe.structured:
                plan = run.plan(as_target(run.targets), data)
                self.scores, self.keep = {name: th.from_numpy(score) for name, score in plan.scores.items()}, unit_keep(plan)
            else:
                self.scores = dict(run.saliency(run.subject_of(data), {}))
                self.keep = run.weights.select(self.scores, run.targets, run.recipe.scope)
        self.penalty = option("ceiling") * (x - split) / (1.0 - split)
        if x >= 1.0 and run.recipe.structured:
            self.removed.act(x, batches, self.scores)
        elif x >= 1.0:
            self.freeze(self.keep, run.subject_of(batches()))

    def after_step(self, optimizer: th.optim.Optimizer) -> None:
        if self.penalty and not self.run.finished:
            multiply(optimizer, self.run.tensors, self.keep, 1.0 - self.penalty)

    def report(self, subject: Subject) -> PruningReport:
        return self.removed.report(subject) if self.run.recipe.structured else super().report(subject)

    def state_dict(self) -> dict[str, Any]:
        scores = {name: score.cpu() for name, score in self.scores.items()}
        own = {"losers": pack(self.keep), "scores": scores, "penalty": self.penalty, "removed": self.removed.state_dict()}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any], subject: Subject) -> None:
        super().load_state_dict(state, subject)
        self.removed.load_state_dict(state["removed"], subject)
        self.keep, self.scores, self.penalty = unpack(state["losers"]), dict(state["scores"]), state["penalty"]


FATES: dict[str, type[Fate]] = {
    "removed": Removed, "zero": Masked, "revive": Masked, "shrink": Shrunk, "growing_l2": Penalised,
}  # fmt: skip
"""Fates by name."""


def multiply(optimizer: th.optim.Optimizer, tensors: Mapping[str, th.Tensor], keep: Keep, factor: float) -> None:
    """
    Multiply the losers among an optimizer's own parameters, after its step: nothing reaches its moments, so that Adam, which
    would divide a penalty's gradient by its own size, shrinks them as SGD does.

    :param optimizer: the one that has stepped.
    :param tensors: parameters by name.
    :param keep: by name, ``True`` where a weight is left alone.
    :param factor: of the others.
    """
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    with th.no_grad():
        for name, mask in keep.items():
            if id(tensors[name]) in stepped:
                tensors[name].mul_(th.where(mask, 1.0, factor).to(tensors[name]))


def unit_keep(plan: PruningPlan) -> dict[str, th.Tensor]:
    """:return: by parameter name, ``False`` where it belongs to what produces a unit that a plan would remove."""
    keep: dict[str, th.Tensor] = {}
    for name, tensor in plan.subject.trained.tensors.items():
        for group, slot in plan.graph.slots_of(name):
            if isinstance(tensor, th.nn.Parameter) and slot.role != "in" and group.name in plan.kept_units:
                gone = th.ones(group.n_units, dtype=th.bool)
                gone[th.from_numpy(plan.kept_units[group.name])] = False
                mask = keep.setdefault(name, th.ones(tensor.shape, dtype=th.bool, device=tensor.device))
                mask.index_fill_(slot.axis, th.from_numpy(slot.index)[gone].flatten().to(tensor.device), False)
    return keep


def as_target(targets: Mapping[str, float]) -> Target:
    """:return: what planning takes: one number for all networks together, or one by network."""
    return targets["total"] if "total" in targets else targets
