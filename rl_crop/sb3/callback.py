"""Early pruning while an agent trains: when to look, when to cut, what to log."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from rl_crop.core.errors import PruningError
from rl_crop.core.plan import PruningPlan
from rl_crop.core.report import PruningReport
from rl_crop.core.schedules import SCHEDULES
from rl_crop.core.settings import Settings
from rl_crop.core.steps import apply_steps, merge_reports, step_targets
from rl_crop.sb3.best_models import keep_dense_best
from rl_crop.sb3.data import BATCH_SIZE, N_BATCHES, RolloutMemory, agent_batches, first_data, replay_batches
from rl_crop.sb3.prune import check_criterion, plan_policy_pruning, prunable_parameters, remember, target_by_network
from rl_crop.sb3.random_search import between_updates, refuse_workers
from rl_crop.sb3.timing import Timetable

SOURCE = "PruningCallback"


class PruningCallback(BaseCallback):
    """
    Prunes an agent early in training; every argument is a plain YAML value.

    On-policy agents are scored at the end of a rollout and cut before the next one, so that the pruned policy
    trains on its own data; off-policy agents are scored on replay samples, never before ``learning_starts``. The event
    is recorded in ``model.pruning_history``, and an event of the same networks that is recorded there is not repeated
    after a resume. In a list of callbacks its place does not matter; inside another callback it does not work.

    :param sparsity: share of each network's prunable parameters to remove, in [0, 1): one number, or by network.
    :param criterion: name of the criterion, or a function of a ``Scoring``.
    :param networks: with one number, the networks it applies to (all by default).
    :param scope: ``"network"``, ``"layer"`` or ``"global"``.
    :param budget: ``"params"``, ``"flops"`` or ``"units"``.
    :param compensation: ``"none"``, ``"bias"``, ``"least_squares"`` or ``"distill"``.
    :param min_units: units that stay in every layer.
    :param schedule: ``"one_shot"``; ``"iterative"`` (steps within one event, scored anew at each); ``"gradual"``
        (``n_events`` events from ``when`` until ``until``, with training between them).
    :param n_events: number of events of a gradual schedule.
    :param n_batches: number of scoring batches.
    :param batch_size: transitions in each.
    :param when: ``"lazy"`` (the weights have entered the lazy regime), ``"epi"`` (the proposed widths are stable), a
        float in [0, 1) as a share of the training budget, or an int of at least 1 in timesteps.
    :param until: when the last event of a gradual schedule comes; units as for ``when``.
    :param earliest: ``"lazy"`` and ``"epi"`` cut at this time at the earliest; same units.
    :param latest: ``"lazy"`` and ``"epi"`` cut at this time at the latest; same units.
    :param seed: of everything random; the model's own by default.
    :param on_error: what happens when the event is impossible until ``latest``: ``"raise"`` or ``"warn"``.
    :param verbose: 0 prints nothing, 1 the report of the (last) event.
    """

    def __init__(
        self,
        sparsity: float | Mapping[str, float] = 0.9,
        criterion: Any = "crop",
        networks: str | list[str] | None = None,
        scope: str = "network",
        budget: str = "params",
        compensation: str = "least_squares",
        min_units: int = 1,
        schedule: str = "one_shot",
        n_events: int = 4,
        n_batches: int = N_BATCHES,
        batch_size: int = BATCH_SIZE,
        when: str | float | int = "lazy",
        until: float | int = 0.3,
        earliest: float | int = 0.1,
        latest: float | int = 0.3,
        seed: int | None = None,
        on_error: str = "raise",
        verbose: int = 1,
    ) -> None:
        super().__init__(verbose)
        self.sparsity = sparsity
        self.networks = networks
        self.settings: dict[str, Any] = {
            "criterion": criterion, "scope": scope, "budget": budget, "compensation": compensation, "min_units": min_units,
        }  # fmt: skip
        self.schedule = schedule
        self.n_events = n_events if schedule == "gradual" else 1
        self.n_batches, self.batch_size = n_batches, batch_size
        self.when, self.until, self.earliest, self.latest = when, until, earliest, latest
        self.seed = seed
        self.on_error = on_error
        self.memory = RolloutMemory(0)
        self.timetable: Timetable | None = None
        self._plan: PruningPlan | None = None
        self._batches: list[Any] = []
        self._own: frozenset[str] = frozenset()
        self._next_check = self._retry_at = self._planned_at = 0

    def _init_callback(self) -> None:
        if self.parent is not None:
            raise PruningError("PruningCallback hears of no rollout inside another callback: put it beside it, in a list.")

    def _on_training_start(self) -> None:
        """Whatever is wrong with the arguments raises here, before the first step."""
        self.timetable, self._plan, self._batches = None, None, []  # nothing of an earlier run
        self._next_check = self._retry_at = 0
        self._check_arguments()
        refuse_workers(self.locals)
        self.memory = RolloutMemory(self.n_batches * self.batch_size)
        self._seed = int(self.seed if self.seed is not None else (self.model.seed or 0))
        watched = prunable_parameters(self.model)
        given = target_by_network(self.sparsity, self.networks)
        self._own = frozenset(given if isinstance(given, Mapping) else watched)
        timetable = Timetable(
            self.when, self.until, self.earliest, self.latest, self.n_events, self._budget,
            first_data(self.model, self.batch_size), self._events(),
        )  # fmt: skip
        if timetable.finished:
            self.logger.info("The agent has been pruned already (model.pruning_history): it is not pruned again.")
            return
        self.timetable = timetable
        # A plan that needs no data shows whether networks and sparsity are possible.
        self._proposal()
        check_criterion(self.model, self.settings["criterion"])
        timetable.watch({name: tensors for name, tensors in watched.items() if name in self._own})
        if not hasattr(self.model, "pruning_history"):
            self.model.pruning_history = []  # type: ignore[attr-defined]

    def _check_arguments(self) -> None:
        self._init_callback()  # a list sets the parent later
        Settings(**self.settings)
        target_by_network(self.sparsity, self.networks)
        for name, value, allowed in (("schedule", self.schedule, SCHEDULES), ("on_error", self.on_error, ("raise", "warn"))):
            if value not in allowed:
                raise PruningError(f"{name}={value!r} is not one of {list(allowed)}.")
        for name in ("n_events", "n_batches", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise PruningError(f"{name}={value!r} must be an integer of at least 1.")
        if self.seed is not None and (isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0):
            raise PruningError(f"seed={self.seed!r} must be an integer of at least 0, or None for the model's own.")

    @property
    def _budget(self) -> int:
        return self.model._total_timesteps

    @property
    def _on_policy(self) -> bool:
        return isinstance(self.model, OnPolicyAlgorithm)

    @property
    def _off_policy(self) -> bool:
        return isinstance(self.model, OffPolicyAlgorithm)

    def _on_rollout_start(self) -> None:
        if self._off_policy:
            self._look()
        if self._plan is not None:
            self._attempt(self._cut)

    def _on_rollout_end(self) -> None:
        if self._on_policy and self.timetable is not None and not self.timetable.finished:
            self.memory.add(self.model.rollout_buffer, self._seed + self.num_timesteps)  # type: ignore[attr-defined]
            self._look()
        elif not self._off_policy:
            self._look()
            if self._plan is not None:
                between_updates(self.model, lambda: self._attempt(self._cut))

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        """An event still pending happens now; of a gradual schedule, all that is left at once."""
        if self.timetable is None or self.timetable.finished:
            return
        if self._plan is None or self._event() < self.n_events - 1:
            self.timetable.finish()
            self._attempt(lambda: self._prepare(at_end=True), last_chance=True)
        if self._plan is not None:
            self._attempt(self._cut, last_chance=True)

    def _look(self) -> None:
        """Check the timetable, and score if an event is due."""
        now, timetable = self.num_timesteps, self.timetable
        if timetable is None or timetable.finished or now < self._retry_at:
            return
        regular = now >= self._next_check
        if not regular and not timetable.reached(now):
            return
        if regular:
            self._next_check = now + timetable.interval(self._on_policy)
        watching = timetable.first is None
        due = timetable.check(now, lambda: self._proposal().widths_after, regular)
        if watching and regular:
            for name, value in timetable.readings().items():
                self.logger.record(f"pruning/{name}", value)
        if due:
            self._attempt(self._prepare)

    def _attempt(self, action: Callable[[], None], last_chance: bool = False) -> None:
        """Do one part of an event; what fails for want of data is tried again until the deadline."""
        assert self.timetable is not None
        try:
            action()
        except PruningError as error:
            self._plan = None
            self._retry_at = self.num_timesteps + self.timetable.interval(self._on_policy)
            if last_chance or self.num_timesteps >= self.timetable.deadline():
                if self.on_error == "raise":
                    raise
                self.timetable.give_up()
            warnings.warn(f"No pruning at {self.num_timesteps} steps: {error}", stacklevel=2)

    def _prepare(self, at_end: bool = False) -> None:
        """Score and plan (of an iterative event, the first step)."""
        self._batches = self._data(at_end)
        self._plan = self._plan_for(step_targets(self._targets(self._event()), self._steps())[0])
        self._planned_at = len(getattr(self.model, "pruning_history", []))

    def _data(self, at_end: bool) -> list[Any]:
        if self._on_policy and at_end and not self.memory.parts:  # training stopped before the end of a rollout
            return agent_batches(self.model, self.n_batches, self.batch_size, self._seed)
        if self._on_policy:
            return self.memory.batches(self.batch_size)
        learning_starts = getattr(self.model, "learning_starts", 0)
        if self.num_timesteps < learning_starts:
            raise PruningError(f"learning has not started: it does after {learning_starts:,} steps.")
        if not isinstance(self.model, OffPolicyAlgorithm):  # it keeps no data
            return agent_batches(self.model, self.n_batches, self.batch_size, self._seed)
        return replay_batches(self.model, self.n_batches, self.batch_size, self._seed + self.num_timesteps)

    def _event(self) -> int:
        assert self.timetable is not None
        return self.timetable.n_done

    def _steps(self) -> str:
        return "iterative" if self.schedule == "iterative" else "one_shot"

    def _targets(self, event: int) -> float | dict[str, float]:
        """What an event removes of the network as it is now, given what earlier events removed."""
        assert self.timetable is not None
        given = target_by_network(self.sparsity, self.networks)
        reached = self._events()[-1]["reached"] if self._events() else {}
        if isinstance(given, Mapping):
            return {name: self.timetable.share(event, share, reached.get(name, 0.0)) for name, share in given.items()}
        if self.settings["scope"] == "global" or not reached:
            return self.timetable.share(event, given, reached.get("total", 0.0))
        return {name: self.timetable.share(event, given, share) for name, share in reached.items()}

    def _plan_for(self, target: Any) -> PruningPlan:
        return plan_policy_pruning(self.model, target, batches=self._batches, seed=self._seed + self._event(), **self.settings)

    def _proposal(self) -> PruningPlan:
        """What magnitude would leave in the end: needs no data and is cheap."""
        settings = self.settings | {"criterion": "magnitude", "compensation": "none"}
        return plan_policy_pruning(self.model, self._targets(self.n_events - 1), **settings)

    def _events(self) -> list[dict[str, Any]]:
        """Events of the same networks by this callback, or by one like it before a resume."""
        history = getattr(self.model, "pruning_history", [])
        own = [entry for entry in history if entry.get("source") == SOURCE]
        return [entry for entry in own if self._own & set(entry.get("networks", self._own))]

    def _cut(self) -> None:
        assert self._plan is not None and self.timetable is not None
        plan, event = self._plan, self._event()
        self._plan = None
        targets = step_targets(self._targets(event), self._steps())
        if self._planned_at != len(getattr(self.model, "pruning_history", [])):  # something else has cut the agent since
            plan = self._plan_for(targets[0])
        earlier = self._events()[-1]["reached"] if self._events() else {}
        applied: list[PruningPlan] = []

        def plan_for(target: Any) -> PruningPlan:
            applied.append(self._plan_for(target))
            return applied[-1]

        report = apply_steps(plan_for, targets, first=plan)
        remaining = {name: 1.0 - share for name, share in earlier.items()}
        for step in (plan, *applied):
            for name, share in step.budget_sparsity.items():
                remaining[name] = remaining.get(name, 1.0) * (1.0 - share)
        reached = {name: 1.0 - share for name, share in remaining.items()}
        remember(
            self.model, report, source=SOURCE, networks=sorted(self._own), event=event, n_events=self.n_events,
            decided_by=self.timetable.decided_by, reached=reached,
        )  # fmt: skip
        self.memory.clear()
        self._batches = []
        self.timetable.done()
        self._announce(reached)
        keep_dense_best(self.locals.get("callback"), len(self._events()) - 1)

    def _announce(self, reached: Mapping[str, float]) -> None:
        """Log and print what is gone in all, of the agent as it was before its first event."""
        names = [item.name for item in fields(PruningReport)]
        events = self._events()
        report = merge_reports([PruningReport(**{name: entry[name] for name in names}) for entry in events])
        self.logger.record("pruning/sparsity", report.sparsity["total"])
        self.logger.record("pruning/n_params", report.n_params_after)
        self.logger.record("pruning/flops", report.flops_after)
        self.logger.record("pruning/seconds", events[-1]["seconds"])
        for name, (_, after) in report.widths.items():
            self.logger.record(f"pruning/units/{name}", after)
        assert self.timetable is not None
        if self.verbose and self.timetable.finished:
            gone = ", ".join(f"{name} {share:.1%}" for name, share in reached.items())
            print(f"Pruned at {self.num_timesteps:,} steps ({self.timetable.decided_by}); gone in all: {gone}")
            print(report)
