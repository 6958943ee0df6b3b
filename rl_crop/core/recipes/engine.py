"""The engine: a recipe carried through one run of anyone's training loop."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch as th
from torch.utils.hooks import RemovableHandle

from rl_crop.core.importance.criteria import resolve_criterion
from rl_crop.core.masking.masks import Keep
from rl_crop.core.masking.weights import Weights, shuffled_units
from rl_crop.core.model import Subject
from rl_crop.core.pruning.plan import PruningPlan, make_plan, trace
from rl_crop.core.pruning.report import PruningReport
from rl_crop.core.pruning.schedules import scheduled_sparsity
from rl_crop.core.pruning.settings import Settings, Target, check_sparsity, sparsity_by_network
from rl_crop.core.pruning.steps import inner_steps
from rl_crop.core.recipes.perturbation import bridgeout
from rl_crop.core.recipes.recipe import Recipe
from rl_crop.core.recipes.strategies import FATES, Fate, as_target
from rl_crop.core.recipes.triggers import EarlyPruningIndicator, weight_trigger

Batches = Callable[[], Sequence[Any]]
"""Makes scoring batches when they are asked for."""
CHECKS = 50
"""How often a trigger looks at a run."""


class SparseTraining:
    """
    One recipe in one run: call :meth:`update` now and then between optimizer steps, and :meth:`finish` at the end.

    What must happen at every step (holding masks, shrinking, penalties) happens in hooks of the optimizers, so that the
    loop is whatever it is. A :class:`~rl_crop.core.errors.PruningError` leaves all as it was, and the next update tries again.
    Events of a ``gradual`` or ``alternating`` schedule come at their times; masks that move, and penalties, change once in
    ``every`` (an option) optimizer steps.

    :param recipe: the recipe; its driver is not looked at.
    :param sparsity: to end with, in [0, 1): one number, or by network.
    :param subject_of: makes what is pruned from scoring batches.
    :param seed: of everything random.
    :param min_interval: optimizer steps between two moves of masks, where the recipe asks for fewer.
    :param settings: further settings of a cut of units (``budget``, ``min_units``, ``ignore``).
    """

    targets: dict[str, float]
    """Sparsity by network, or of ``"total"``."""
    weights: Weights
    tensors: Mapping[str, th.Tensor]
    """All that is trained, by name."""
    steps: dict[int, int]
    """Optimizer steps since the last change, by the optimizer's ``id``."""

    def __init__(
        self,
        recipe: Recipe,
        sparsity: Target,
        subject_of: Callable[[Sequence[Any]], Subject],
        seed: int = 0,
        min_interval: int = 1,
        **settings: Any,
    ) -> None:
        check_sparsity(sparsity)
        self.recipe, self.sparsity, self.subject_of, self.seed = recipe, sparsity, subject_of, seed
        self.fate: Fate = (FATES[recipe.fate] if isinstance(recipe.fate, str) else recipe.fate)(self)
        self.every = max(recipe.option("every"), 0 if self.fate.by_factor else min_interval)
        self._has_events = recipe.schedule in ("gradual", "alternating") and not self.fate.by_factor
        shuffles = recipe.structured and recipe.option("shuffle")
        criterion = shuffled_units(resolve_criterion(recipe.criterion)) if shuffles else recipe.criterion
        scope = recipe.scope if recipe.structured else "network"
        settings = {"min_units": recipe.option("min_units"), "compensation": recipe.compensation} | settings
        self.settings = Settings(criterion, scope, seed=seed, **settings)
        self.masks: Any = None  # Masks, as soon as weights are masked
        self.begun: float | None = None
        self.decided_by = "fixed"
        self.finished = False
        self.seconds = 0.0
        self.initial: dict[str, th.Tensor] = {}
        self._n_changes = 0
        self._acted = 0.0
        self._next_check = 0.0
        self._trigger: Any = None
        self.steps = {}
        self._perturbation = ExitStack()
        self._handles: list[RemovableHandle] = []

    def start(self, subject: Subject) -> None:
        """Look at the run's beginning: what is trained, and the weights that triggers and criteria compare with."""
        self.detach()
        graph, recipe = trace(subject, self.settings.ignore), self.recipe
        self.tensors = subject.trained.tensors
        self.weights = Weights.of(subject, graph, self.settings.ignore, max(int(self.settings.min_units), 1))
        producers = {group.tensors("out")[0] for group in graph.groups.values()}
        with_units = [network.name for network in subject.networks if network.parameters & producers]
        names = with_units if recipe.structured else list(self.weights.names)
        targets = sparsity_by_network(self.sparsity, names, recipe.scope)
        self.targets = {"total": next(iter(targets.values()))} if recipe.scope == "global" and targets else targets
        if not recipe.structured:  # whether the sparsity is possible shows now
            self.weights.select(self.weights.magnitude(), self.targets, recipe.scope)
        if recipe.when == "epi":
            self._trigger = EarlyPruningIndicator(recipe.option("threshold"))
        elif isinstance(recipe.when, str):
            watched = {name: list(self.weights.within(name).values()) for name in targets if name in self.weights.names}
            self._trigger = weight_trigger(recipe.when, watched, targets, recipe.structured, recipe.option("kappa"))
        if not recipe.structured and (recipe.criterion == "relative_change" or callable(recipe.criterion)):
            self.initial = {name: tensor.detach().clone() for name, tensor in self.weights.tensors.items()}
        self._optimizers = tuple(subject.optimizers)
        self._handles = [optimizer.register_step_post_hook(self._after_step) for optimizer in self._optimizers]
        self._root = subject.root
        self._perturb()

    def update(self, progress: float, batches: Batches) -> None:
        """
        Do what is due. Call it between optimizer steps; most calls do nothing and cost nothing.

        :param progress: what is done of the run, in [0, 1]; never falls.
        :param batches: makes scoring batches; called only when they are needed.
        :raises PruningError: something cannot be done as asked, or not yet (no data); everything is as before.
        """
        if self.finished:
            return
        if not self._handles:
            self.start(self.subject_of(batches()))
        decided_by = self._fires(progress, batches) if self.begun is None else self.decided_by
        begun = progress if self.begun is None else self.begun
        ended = progress >= max(self.recipe.until, begun)
        x = 1.0 if ended else (progress - begun) / (self.recipe.until - begun)
        if decided_by is None or (self.begun is not None and not ended and self._waits(x)):
            return
        start = time.perf_counter()
        self._perturbation.close()
        try:
            self.fate.act(x, batches)
        except BaseException:
            self._perturb()
            raise
        self.seconds += time.perf_counter() - start
        self.begun, self.decided_by, self._acted = begun, decided_by, x
        self.finished = ended or (self.recipe.schedule == "once" and not self.fate.by_factor)
        self.steps.clear()
        self._n_changes += 1
        if not self.finished:
            self._perturb()

    def finish(self, batches: Batches) -> PruningReport:
        """
        The run is over: what is still to be done is done now. Masks stay attached.

        :return: the report of the whole run.
        """
        self.update(1.0, batches)
        self.detach()
        return self.fate.report(self.subject_of(batches()))

    def detach(self) -> None:
        """No longer act at optimizer steps, apart from holding masks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._perturbation.close()

    @property
    def targeted(self) -> list[str]:
        """Names of the weights of the networks that are to be pruned."""
        return [name for network in self.targets for name in self.weights.within(network)]

    @property
    def draw(self) -> int:
        """The seed of the next change."""
        return self.seed + self._n_changes

    def _fires(self, progress: float, batches: Batches) -> str | None:
        """:return: who says that pruning begins, or ``None``."""
        when, latest = self.recipe.when, self.recipe.option("latest")
        if not isinstance(when, str):
            return "fixed" if progress >= when else None
        if progress < min(self._next_check - 1e-9, latest):
            return None
        self._next_check = progress + 1.0 / CHECKS
        if when == "epi":
            fires = self._trigger.check(self.plan(as_target(self.targets), batches()).widths_after)
        else:
            fires = self._trigger.check()
        return when if fires and progress >= self.recipe.option("earliest") else "latest" if progress >= latest else None

    def _waits(self, x: float) -> bool:
        """:return: whether nothing is due yet: events have their times, what moves goes by optimizer steps"""
        if self._has_events:
            return self.due(x) == self.due(self._acted)
        return max(self.steps.values(), default=0) < self.every

    def _perturb(self) -> None:
        """Switch on what acts on weights while they are trained."""
        if self.recipe.perturbation == "bridgeout":
            self._perturbation.enter_context(bridgeout(self._root, self.targeted))

    def _after_step(self, optimizer: th.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.steps[id(optimizer)] = self.steps.get(id(optimizer), 0) + 1
        self.fate.after_step(optimizer)

    def due(self, x: float) -> dict[str, float]:
        """:return: the share of the original that is to be gone when the share ``x`` of the schedule has passed."""
        numbers = {name: self.recipe.option(name) for name in ("n_events", "n_phases", "start")}
        return {name: scheduled_sparsity(self.recipe.schedule, share, x, **numbers) for name, share in self.targets.items()}

    def steps_to(self, due: Mapping[str, float]) -> list[dict[str, float]]:
        """:return: the sparsities of the steps of one event, by network."""
        return inner_steps(due, self.recipe.inner, self.recipe.option("n_steps"))

    def plan(self, target: Target, data: Sequence[Any], **changed: Any) -> PruningPlan:
        """:return: a cut of units."""
        return make_plan(self.subject_of(data), target, replace(self.settings, seed=self.draw, **changed))

    def saliency(self, subject: Subject, keep: Keep, dense: Mapping[str, th.Tensor] | None = None) -> dict[str, th.Tensor]:
        """:return: scores of single weights, of which some are masked; ``dense`` are those without masks."""
        return self.weights.saliency(
            subject, self.settings.criterion, self.draw, keep, self.initial or None, dense, self.targets
        )

    def choose(
        self, scores: Mapping[str, th.Tensor], sparsity: Mapping[str, float], among: Keep | None = None
    ) -> dict[str, th.Tensor]:
        """:return: masks of single weights by the recipe's scope; of those in ``among``, where it is given."""
        keep = self.weights.select(scores, sparsity, self.recipe.scope, among)
        return self.weights.shuffled(keep, self.recipe.scope, self.draw, among) if self.recipe.option("shuffle") else keep

    _STATE = ("begun", "decided_by", "finished", "seconds", "_n_changes", "_acted", "_next_check")

    def in_order(self, counts: Mapping[int, int]) -> list[int]:
        """:return: counts by the optimizers' ``id``, in the order of the optimizers: ids mean nothing in another process."""
        return [counts.get(id(optimizer), 0) for optimizer in self._optimizers]

    def by_optimizer(self, counts: Sequence[int]) -> dict[int, int]:
        """:return: the reverse of :meth:`in_order`."""
        return {id(optimizer): count for optimizer, count in zip(self._optimizers, counts, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """:return: what a resumed run has to know: plain values, and tensors on the CPU."""
        return {
            **{name: getattr(self, name) for name in self._STATE},
            "steps": self.in_order(self.steps),
            "fate": self.fate.state_dict(),
            "initial": {name: tensor.cpu() for name, tensor in self.initial.items()},
            "trigger": None if self._trigger is None else self._trigger.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], subject: Subject) -> None:
        """
        Go on from the state of an earlier part of the run.

        :param state: its :meth:`state_dict`.
        :param subject: what is pruned, with the weights of then.
        :raises PruningError: it is of another network.
        """
        self.start(subject)
        if self._trigger is not None:
            self._trigger.load_state_dict(state["trigger"])
        for name in self._STATE:
            setattr(self, name, state[name])
        self.steps, self.initial = self.by_optimizer(state["steps"]), dict(state["initial"])
        self.fate.load_state_dict(state["fate"], subject)
        if self.finished:
            self.detach()
