"""The engine: a recipe carried through one run of anyone's training loop. It owns time and state."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch as th

from rl_crop.core.errors import explained
from rl_crop.core.importance.criteria import resolve_criterion
from rl_crop.core.masking.masks import Masks
from rl_crop.core.masking.weights import Weights, shuffled_units
from rl_crop.core.model import Subject
from rl_crop.core.prunable import prunable_parameters
from rl_crop.core.pruning.plan import PruningPlan
from rl_crop.core.pruning.planning import make_plan, trace
from rl_crop.core.pruning.report import PruningReport
from rl_crop.core.pruning.schedules import ScheduleOptions
from rl_crop.core.pruning.settings import AUTO, Settings, Target, is_auto, sparsity_by_network
from rl_crop.core.pruning.steps import event_steps
from rl_crop.core.pruning.surgery import Transaction
from rl_crop.core.pruning.trial import try_cut
from rl_crop.core.recipes.hooks import StepHooks
from rl_crop.core.recipes.outcome import Outcome
from rl_crop.core.recipes.perturbation import bridgeout
from rl_crop.core.recipes.recipe import Recipe, ScoringOptions
from rl_crop.core.recipes.state import Change, Record, State, as_target
from rl_crop.core.recipes.strategies import StrategyOptions, multiply
from rl_crop.core.recipes.timetable import Limits, Timetable
from rl_crop.core.recipes.triggers import TRIGGERS, TriggerOptions, Watched
from rl_crop.core.rng import turn

Batches = Callable[[], Sequence[Any]]
"""Makes scoring batches when they are asked for."""
VERSION = 2
"""Of what :meth:`PruningEngine.state_dict` returns."""


class PruningEngine:
    """
    One recipe in one run: call :meth:`update` now and then between optimizer steps, and :meth:`finish` at the end.

    What must happen at every step (holding masks, shrinking, penalties) happens in hooks of the optimizers, so that the
    loop is whatever it is. An exception leaves all as it was, and the next update tries again.

    :param recipe: the recipe; its driver is not looked at.
    :param sparsity: to end with, in [0, 1): one number, or by network; ``"auto"``, or ``None``, finds the size when pruning
        begins (or what a budget says), and anew at every event of a gradual schedule, until nothing more can go.
    :param subject_of: makes what is pruned from scoring batches.
    :param seed: of everything random.
    :param limits: what the loop says of its own time.
    :param settings: further settings of a cut of units (``budget``, ``ignore``, ``max_params``, ``tolerance``, ...).
    """

    targets: dict[str, float]
    """Sparsity to end with, by network, or of ``"total"``."""
    weights: Weights
    timetable: Timetable

    def __init__(
        self,
        recipe: Recipe,
        sparsity: Target | None,
        subject_of: Callable[[Sequence[Any]], Subject],
        seed: int = 0,
        limits: Limits = Limits(),  # noqa: B008
        **settings: Any,
    ) -> None:
        self.recipe, self.sparsity, self.subject_of, self.seed = recipe, sparsity, subject_of, seed
        self.limits, self._data_from = limits, 0 if recipe.begins_without_data else limits.data_from
        self.strategy = recipe.chosen_strategy(recipe.of(StrategyOptions), recipe.regrow)
        self.schedule = recipe.of(ScheduleOptions)
        self.moves = recipe.n_events is None
        self._every = max(self.schedule.every, 0 if self.strategy.continuous else limits.steps_between)
        scoring = recipe.of(ScoringOptions)
        shuffles = recipe.structured and scoring.shuffle
        criterion = shuffled_units(resolve_criterion(recipe.criterion)) if shuffles else recipe.criterion
        self.settings = Settings(
            criterion, recipe.scope, structured=recipe.structured, compensation=recipe.compensation,
            min_units=scoring.min_units, seed=seed, **settings,
        )  # fmt: skip
        self.finds_size = recipe.finds_size(sparsity)
        budgets = self.settings.max_params is not None or self.settings.max_flops is not None
        self.asks_again = is_auto(sparsity, throughout=True) and not budgets and (recipe.n_events or 1) > 1
        self.timetable = Timetable(
            recipe.when, recipe.until, recipe.n_events or 1, recipe.chosen_schedule.in_time, recipe.of(TriggerOptions),
            replace(limits, data_from=self._data_from),
        )  # fmt: skip
        self.started = self.finished = self.given_up = False
        self.outcome = Outcome(recipe.structured)
        self.seconds = 0.0
        self._initial: dict[str, th.Tensor] = {}
        self._n_changes, self._last = 0, False
        noise = recipe.perturbation == "bridgeout"
        perturb = (lambda: bridgeout(self._root, self.outcome.names, running=limits.running)) if noise else None
        self._hooks = StepHooks(self._after_step, perturb, limits.running)

    @property
    def masks(self) -> Masks | None:
        """The masks that are held."""
        return self.outcome.masks

    @explained("Pruning could not begin")
    def start(self, subject: Subject) -> None:
        """
        Look at the run's beginning: what is trained, and the weights that triggers and criteria compare with.

        :raises PruningError: the sparsity cannot be reached, or something fails.
        """
        self.detach()
        graph, recipe = trace(subject, self.settings.ignore), self.recipe
        self.weights = Weights.of(subject, graph, self.settings.ignore, max(int(self.settings.min_units), 1))
        producers = {group.tensors("out")[0] for group in graph.groups.values()}
        with_units = [network.name for network in subject.networks if network.parameters & producers]
        names = with_units if recipe.structured else list(self.weights.names)
        targets = sparsity_by_network(AUTO if self.sparsity is None else self.sparsity, names, recipe.scope)
        joint = recipe.scope == "global" and targets
        self.targets = {"total": next(iter(targets.values()))} if joint else targets
        self.outcome.of(self.weights, self.targets)
        self._check_reachable(subject)
        if isinstance(recipe.when, str) and self.timetable.begun is None:
            prunable = prunable_parameters(subject, graph, None if recipe.structured else self.weights)
            prunable = {name: tensors for name, tensors in prunable.items() if name in targets}
            watched = Watched(prunable, targets, recipe.structured, recipe.of(TriggerOptions))
            self.timetable.trigger = TRIGGERS[recipe.when](watched)
        if not recipe.structured and (recipe.criterion == "relative_change" or callable(recipe.criterion)):
            self._initial = {name: tensor.detach().clone() for name, tensor in self.weights.tensors.items()}
        self._trained, self._root = subject.trained.tensors, subject.root
        self._hooks.attach(subject.optimizers, counting=self.moves)
        self.started = True

    def _check_reachable(self, subject: Subject) -> None:
        """What magnitude would leave in the end needs no data, and is cheap."""
        if self.recipe.structured and not self.outcome.removed:
            try_cut(subject, None if self.finds_size else as_target(self.targets), self.settings)
        elif not self.recipe.structured and not self.finds_size:
            self.weights.select(self.weights.magnitude(), self.targets, self.recipe.scope)

    def update(self, now: float, batches: Batches, record: Record | None = None) -> Change | None:
        """
        Do what is due. Call it between optimizer steps; most calls do nothing and cost nothing.

        :param now: the time, in the unit of ``limits`` (by default, the share of the run that is done); never falls.
        :param batches: makes scoring batches; called only when they are needed.
        :param record: called with a change while it can still be undone; what it raises undoes it.
        :return: the change, if anything was due.
        :raises PruningError: something cannot be done as asked, or not yet (no data); everything is as before.
        """
        with turn(), explained("Pruning failed", "everything is as before"):
            return None if self.finished else self._update(now, batches, record)

    def _update(self, now: float, batches: Batches, record: Record | None) -> Change | None:
        no_data = now < self.limits.data_from and not self.timetable.at_end
        if no_data and self._n_changes and (self.recipe.regrow == "gradient" or not self.recipe.begins_without_data):
            return None  # resumed, and not there again yet
        data: Batches = list if no_data and self.recipe.begins_without_data else batches
        if not self.started:
            self.start(self.subject_of([] if no_data else data()))
        if not self.timetable.begins(now, lambda: self._propose(data)):
            return None
        self._last = self.timetable.at_end or now >= self.limits.length
        x = self._due_share(now)
        return None if x is None else self._change(x, data, record)

    def _due_share(self, now: float) -> float | None:
        """:return: the share of the schedule that has passed where something is due, else ``None``."""
        timetable = self.timetable
        if not self.moves:
            due = timetable.due(now)  # before the event is asked for: it may leave some out
            return timetable.event / max(timetable.n_events - 1, 1) if due else None
        x = timetable.share(now)
        return x if not self._n_changes or x >= 1.0 or self._hooks.n_steps >= self._every else None

    def _propose(self, batches: Batches) -> Mapping[str, int]:
        """:return: by layer, the units (of masks: the weights) that the recipe's own choice would leave now."""
        subject = self.subject_of(batches())
        if self.finds_size:
            return make_plan(subject, self.sparsity, self.settings).widths_after
        state = self._state(subject, self.targets, 1.0)
        if self.recipe.structured:
            return state.plan(state.rest).widths_after
        return {name: int(mask.sum()) for name, mask in state.choose(state.scores(), state.targets).items()}

    def _change(self, x: float, batches: Batches, record: Record | None) -> Change:
        start, data, outcome, recipe = time.perf_counter(), batches(), self.outcome, self.recipe
        subject, n_earlier, first = self.subject_of(data), len(outcome.reports), not self._n_changes
        with Transaction() as transaction, self._hooks.paused():
            for part in (self, outcome, self.strategy, self._hooks, self.timetable):
                transaction.keep_attributes(part, *vars(part))
            found = self._find_size(subject) if self.finds_size else None
            passed = 1.0 if self.asks_again else x
            due = {name: recipe.chosen_schedule.due(share, passed, self.schedule) for name, share in self.targets.items()}
            steps = event_steps(due, outcome.gone if recipe.structured else {}, recipe.inner, self.schedule)
            if not recipe.structured and not self.strategy.continuous:
                outcome.hold(subject, transaction, self.strategy.revives and len(steps) > 1)
            for number, step in enumerate(steps):
                if number and recipe.structured:
                    subject = self.subject_of(data)  # the network is another one now
                state = self._state(subject, step, x, first and not number)
                if found is not None and len(steps) == 1 and (self.asks_again or recipe.n_events == 1):
                    state = replace(state, found=found)
                for decision in self.strategy.decide(state):
                    outcome.carry_out(decision, subject, transaction)
            change = self._described(x, n_earlier)
            if self.asks_again and found is not None and n_earlier and not any(found.budget_sparsity.values()):
                change = replace(change, finished=True)  # all is needed
            if not self.moves:
                self.timetable.n_done = self.timetable.event + 1
            self.seconds += time.perf_counter() - start
            self._hooks.changed()
            self._n_changes += 1
            self.finished = change.finished
            if record is not None and change.report is not None:
                record(transaction, change)
        if self.finished:
            self.detach()
        return change

    def _find_size(self, subject: Subject) -> PruningPlan:
        """Let the sparsities to end with be those that are found now. :return: the plan that has them."""
        asked = self.targets
        plan = make_plan(subject, self.sparsity, replace(self.settings, seed=self.seed + self._n_changes))
        gone = self.outcome.gone
        self.targets = {name: 1.0 - (1.0 - gone.get(name, 0.0)) * (1.0 - plan.budget_sparsity[name]) for name in asked}
        self.outcome.of(self.weights, self.targets)
        self.finds_size = self.asks_again
        return plan

    def _state(self, subject: Subject, due: Mapping[str, float], x: float, first: bool = False) -> State:
        settings, outcome = replace(self.settings.in_shares(), seed=self.seed + self._n_changes), self.outcome
        shuffle = self.recipe.of(ScoringOptions).shuffle and not self.recipe.structured
        return State(
            subject=subject, settings=settings, weights=self.weights, masks=outcome.masks, targets=self.targets, due=due,
            gone=outcome.gone, x=x, first=first, shuffle=shuffle, initial=self._initial, last=self._last,
            dense=outcome.dense[0] if outcome.dense else None,
        )  # fmt: skip

    def _described(self, x: float, n_earlier: int) -> Change:
        timetable, separate = self.timetable, self.recipe.schedule in ("once", "gradual") and not self.moves
        report = self.outcome.report(self.settings.criterion_name, self.seconds, n_earlier if separate else 0)
        report = report or self.outcome.report(self.settings.criterion_name, self.seconds)  # an event with nothing left to do
        number, n_events = (timetable.event, timetable.n_events) if separate else (0, 1)
        decided_by = "end" if timetable.at_end else timetable.decided_by
        finished = x >= 1.0 or self.recipe.n_events == 1
        share = (timetable.event + 1 - timetable.n_done) / timetable.n_events
        return Change(number, n_events, decided_by, share, self.outcome.gone, report, finished)

    def report(self) -> PruningReport:
        """:return: what has been done so far; of a run that has begun."""
        report = self.outcome.report(self.settings.criterion_name, self.seconds)
        return self.weights.report({}, self.settings.criterion_name, self.seconds) if report is None else report

    def finish(self, batches: Batches, record: Record | None = None) -> PruningReport:
        """
        The run is over: what is still to be done is done now. Masks stay attached.

        :return: the report of the whole run.
        """
        self.timetable.end()
        self.update(self.limits.length, batches, record)
        self.detach()
        return self.report()

    def give_up(self) -> None:
        """Do nothing more, and say so in the state that a resumed run reads."""
        self.finished = self.given_up = True
        self.detach()

    def detach(self) -> None:
        """No longer act at optimizer steps, apart from holding masks."""
        self._hooks.detach()

    def _after_step(self, optimizer: th.optim.Optimizer, pace: int) -> None:
        factor = self.strategy.factor(pace)
        if factor < 1.0:
            multiply(optimizer, self._trained, self.strategy.kept(self.weights, self.targets, self.recipe.scope), factor)

    def state_dict(self) -> dict[str, Any]:
        """:return: what a resumed run has to know: plain values, and tensors on the CPU."""
        return {
            "version": VERSION,
            "timetable": self.timetable.state_dict(),
            "strategy": self.strategy.state_dict(),
            "finished": self.finished,
            "given_up": self.given_up,
            "outcome": self.outcome.state_dict(),
            "initial": {name: tensor.cpu() for name, tensor in self._initial.items()},
            "targets": None if self.finds_size else dict(self.targets),
            "hooks": self._hooks.state_dict(),
            "n_changes": self._n_changes,
            "seconds": self.seconds,
        }

    def go_on(self, n_done: int, begun: float, decided_by: str, gone: Mapping[str, float]) -> None:
        """
        Go on after events of which only this is known; to be called before :meth:`start`.

        :param n_done: number of events that have happened.
        :param begun: when the first one did.
        :param decided_by: what said so.
        :param gone: share of the original that is gone, by network (or in ``"total"``).
        """
        timetable = self.timetable
        timetable.n_done, timetable.begun, timetable.decided_by = 0 if self.moves else n_done, begun, decided_by
        self.outcome.removed, self._n_changes = dict(gone), n_done

    def load_state_dict(self, state: Mapping[str, Any], subject: Subject) -> None:
        """
        Go on from the state of an earlier part of the run.

        :param state: its :meth:`state_dict`.
        :param subject: what is pruned, with the weights of then.
        :raises PruningError: it is of another network.
        """
        self.outcome.removed = dict(state["outcome"]["removed"])  # before the start, which asks what is left to do
        self.start(subject)
        if state["targets"] is not None:
            self.targets, self.finds_size = dict(state["targets"]), False
            self.outcome.of(self.weights, self.targets)
        self.timetable.load_state_dict(state["timetable"])
        self.strategy.load_state_dict(state["strategy"])
        self.outcome.load_state_dict(state["outcome"], subject)
        self._initial = dict(state["initial"])
        self._hooks.load_state_dict(state["hooks"])
        self.finished, self.given_up = state["finished"], state["given_up"]
        self._n_changes, self.seconds = state["n_changes"], state["seconds"]
        if self.finished:
            self.detach()
