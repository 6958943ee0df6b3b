"""What becomes of the losers: removed, masked, shrunk at every step, or driven to zero by a growing penalty."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch as th

from rl_crop.core.importance.context import Saliency
from rl_crop.core.masking.masks import Keep, Masks, pack, release_masks, unpack
from rl_crop.core.masking.regrowth import drop_and_grow, regrown_share
from rl_crop.core.model import Subject
from rl_crop.core.pruning.plan import PruningPlan
from rl_crop.core.pruning.report import PruningReport
from rl_crop.core.pruning.schedules import relative_sparsity
from rl_crop.core.pruning.settings import Target
from rl_crop.core.pruning.steps import apply_steps, merge_reports
from rl_crop.core.pruning.surgery import Transaction

if TYPE_CHECKING:
    from rl_crop.core.recipes.engine import Batches, SparseTraining

EQUAL, STEEPNESS = 0.3, 50
"""Of a growing penalty: the share of its phase in which it is equal for all (GReg-2), and how early losers shrink."""


class Fate:
    """
    One of four answers to the same calls.

    :param run: the run it belongs to.
    """

    by_factor = False
    """Whether it acts at every step, by a factor that follows the share of the schedule that has passed."""

    def __init__(self, run: "SparseTraining") -> None:
        self.run = run

    def act(self, x: float, batches: "Batches") -> None:
        """Do what is due when the share ``x`` of the schedule has passed; a failure leaves all as it was."""
        raise NotImplementedError

    def after_step(self, optimizer: th.optim.Optimizer) -> None:
        """An optimizer has stepped."""

    @property
    def has_removed(self) -> bool:
        """Whether something is gone, or masked, and there is something to report."""
        return self.run.finished or self.run.masks is not None

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

    @property
    def has_removed(self) -> bool:
        return bool(self.reports)

    def act(self, x: float, batches: "Batches", scores: Saliency | None = None) -> None:
        reached = {name: self.reached.get(name, 0.0) for name in self.run.targets}
        rest = {name: relative_sparsity(max(share, reached[name]), reached[name]) for name, share in self.run.due(x).items()}
        if self.reports and not any(rest.values()):
            return
        data, applied = batches(), []
        changed: dict[str, Any] = {} if scores is None else {"criterion": lambda context: scores}

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
            names = run.targeted
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
                masks.set({**masks.keep, **run.choose(scores, wanted, among)}, transaction)
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

    by_factor = True
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

    The paper adds 1e-4 to λ every few steps until it is 1, and multiplies by the learning rate: how far losers get depends on
    the number of steps. Here a loser that nothing holds in place has (1 − x²)^50 of its size left when the share x of the
    phase has passed, in a run of any length: λ grows from 0, at first linearly, to 1 in the last interval. (With the paper's
    numbers and SGD a loser is at e⁻⁵ after 45 % of the phase, with momentum 0.9 after 14 %; here after 31 %.) With the option
    ``equal`` (c), a phase in which all weights would shrink to 1 − c x² comes first, so that those stay largest which the loss
    curves most (GReg-2); the paper's numbers take 2 to 25 % there.
    """

    by_factor = True

    def __init__(self, run: "SparseTraining") -> None:
        super().__init__(run)
        self.removed = Removed(run)
        self.keep: Keep = {}
        self.scores: dict[str, th.Tensor] = {}
        self.x = 0.0
        self.left = 1.0  # of a loser's size, at the next change of the penalty
        self.pace: dict[int, int] = {}  # optimizer steps in the last interval, by id

    def act(self, x: float, batches: "Batches") -> None:
        run, equal = self.run, self.run.recipe.option("equal")
        split = EQUAL if equal else 0.0
        step, steps = x - self.x, dict(run.steps)
        if x < split:
            self.keep = {name: th.zeros_like(run.tensors[name], dtype=th.bool) for name in run.targeted}
            self._grow(x / split, step / split, lambda share: 1.0 - equal * share**2)
        else:
            first = not self.scores
            if first:
                self._choose(batches())
            if x >= 1.0 and run.recipe.structured:
                self.removed.act(x, batches, self.scores)
            elif x >= 1.0:
                self.freeze(self.keep, run.subject_of(batches()))
            length = 0.0 if first else step / (1.0 - split)
            self._grow((x - split) / (1.0 - split), length, lambda share: (1.0 - share**2) ** STEEPNESS)
        self.x, self.pace = x, steps

    def _choose(self, data: Any) -> None:
        run = self.run
        if run.recipe.structured:
            plan = run.plan(as_target(run.targets), data)
            self.scores, self.keep = {name: th.from_numpy(score) for name, score in plan.scores.items()}, unit_keep(plan)
        else:
            self.scores = dict(run.saliency(run.subject_of(data), {}))
            self.keep = run.choose(self.scores, run.targets)

    def _grow(self, x: float, step: float, left: Callable[[float], float]) -> None:
        """Let losers shrink from what is to be left at ``x`` to what is to be left an interval, as long as the last, later."""
        now, then = left(x), left(min(x + step, 1.0))
        self.left = then / now if now > 0.0 else 0.0

    def after_step(self, optimizer: th.optim.Optimizer) -> None:
        pace = self.pace.get(id(optimizer), 0)
        if pace and self.left < 1.0 and not self.run.finished:
            multiply(optimizer, self.run.tensors, self.keep, self.left ** (1.0 / pace))

    def report(self, subject: Subject) -> PruningReport:
        return self.removed.report(subject) if self.run.recipe.structured else super().report(subject)

    def state_dict(self) -> dict[str, Any]:
        scores = {name: score.cpu() for name, score in self.scores.items()}
        own = {"losers": pack(self.keep), "scores": scores, "removed": self.removed.state_dict()}
        return {**super().state_dict(), **own, "x": self.x, "left": self.left, "pace": self.run.in_order(self.pace)}

    def load_state_dict(self, state: Mapping[str, Any], subject: Subject) -> None:
        super().load_state_dict(state, subject)
        self.removed.load_state_dict(state["removed"], subject)
        self.keep, self.scores, self.x, self.left = unpack(state["losers"]), dict(state["scores"]), state["x"], state["left"]
        self.pace = self.run.by_optimizer(state["pace"])


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
