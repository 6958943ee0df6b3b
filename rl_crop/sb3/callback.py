"""Early pruning while an agent trains: when to look, when to cut, what to log."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from rl_crop.core.errors import PruningError
from rl_crop.core.pruning.plan import PruningPlan
from rl_crop.core.pruning.schedules import SCHEDULES
from rl_crop.core.pruning.settings import Settings, Target, check_choices, check_counts
from rl_crop.core.pruning.steps import apply_steps, step_targets
from rl_crop.core.recipes.recipe import Recipe
from rl_crop.core.recipes.triggers import SETTLED
from rl_crop.sb3.agent import check_criterion, plan_policy_pruning, prunable_parameters, target_by_network
from rl_crop.sb3.best_models import keep_dense_best
from rl_crop.sb3.data import BATCH_SIZE, N_BATCHES, RolloutMemory, first_data
from rl_crop.sb3.history import History
from rl_crop.sb3.learning_rate import check_factor, scale_learning_rate
from rl_crop.sb3.masks import restore_masks
from rl_crop.sb3.random_search import between_updates, no_longer, refuse_workers
from rl_crop.sb3.recipe_run import RecipeRun, with_recipe
from rl_crop.sb3.scoring import training_batches
from rl_crop.sb3.timing import Timetable, structure
from rl_crop.sb3.watch_state import WatchState


class PruningCallback(BaseCallback):
    """
    Prunes an agent early in training; every argument is a plain YAML value.

    On-policy agents are scored at the end of a rollout and cut before the next one, so that the pruned policy
    trains on its own data; off-policy agents are scored on replay samples, never before ``learning_starts``. The event
    is recorded in ``model.pruning_history``, and an event of the same networks that is recorded there is not repeated
    after a resume. In a list of callbacks its place does not matter; inside another callback it does not work.

    Until the last event ``model.pruning_state``, and so every zip, holds what has been seen so far (the weights a trigger
    compares with, its counters, the scoring data of on-policy agents up to 16 MiB): ``load`` and ``learn(steps_left,
    reset_num_timesteps=False)`` with a callback of the same arguments go on from there. Where the agent was saved between two
    rollouts (``_on_rollout_start``), and environment, replay buffer and global generators are put back, that equals the run
    that was not stopped, bit for bit. ``CheckpointCallback`` saves within a rollout, which Stable-Baselines3 forgets: the next
    rollout starts at the checkpoint, and an on-policy agent is cut up to one rollout later.

    :param sparsity: share of each network's prunable parameters to remove, in [0, 1): one number, or by network.
    :param criterion: name of the criterion, or a function of a ``ImportanceContext``.
    :param networks: with one number, the networks it applies to (all by default).
    :param scope: ``"network"``, ``"layer"`` or ``"global"``.
    :param budget: ``"params"``, ``"flops"`` or ``"units"``.
    :param compensation: ``"none"``, ``"bias"``, ``"least_squares"`` or ``"distill"``.
    :param min_units: units that stay in every layer: an int, or a float in (0, 1) as a share of what ``scope="layer"`` leaves.
    :param structured: whether units are removed, or single weights masked (which makes nothing faster).
    :param schedule: ``"one_shot"``; ``"iterative"`` (steps within one event, scored anew at each); ``"gradual"``
        (``n_events`` events from ``when`` until ``until``, with training between them).
    :param n_events: number of events of a gradual schedule.
    :param n_batches: number of scoring batches.
    :param batch_size: transitions in each.
    :param when: ``"lazy"`` (the weights have entered the lazy regime), ``"epi"`` (the proposed widths are stable),
        ``"distance"`` (the paper's rule) or ``"distance_released"`` (the released code's), a float in [0, 1) as a share of the
        training budget, or an int of at least 1 in timesteps.
    :param until: when the last event of a gradual schedule comes; units as for ``when``.
    :param earliest: a trigger cuts at this time at the earliest; same units.
    :param latest: a trigger cuts at this time at the latest; same units.
    :param kappa: κ of ``"lazy"``, in (0, 1]: a network has settled when its weights have moved less than this share of their
        fastest step at three checks running.
    :param learning_rate_factor: the learning rate is multiplied by this at the cut (in equal parts by the events of a gradual
        schedule), whatever its schedule: some narrowed agents gain from longer steps, others fall apart (docs/study.md). One
        rate serves all networks and a learned entropy coefficient (TRPO: its critic alone), and the factors of several
        callbacks multiply.
    :param seed: of everything random; the model's own by default.
    :param recipe: one of ``rl_crop.recipes``, by name: it decides what is not given. Masks that move while the agent trains
        change between rollouts, at least 250 (on-policy) or 1000 (off-policy) optimizer steps apart.
    :param on_error: what happens when the event is impossible until ``latest``: ``"raise"`` or ``"warn"``.
    :param verbose: 0 prints nothing, 1 the report of the (last) event.
    """

    @with_recipe
    def __init__(
        self,
        sparsity: float | Mapping[str, float] = 0.9,
        criterion: Any = "crop",
        networks: str | list[str] | None = None,
        scope: str = "network",
        budget: str = "params",
        compensation: str = "least_squares",
        min_units: int | float = 1,
        structured: bool = True,
        schedule: str = "one_shot",
        n_events: int = 4,
        n_batches: int = N_BATCHES,
        batch_size: int = BATCH_SIZE,
        when: str | float | int = "lazy",
        until: float | int = 0.3,
        earliest: float | int = 0.1,
        latest: float | int = 0.3,
        kappa: float = SETTLED,
        learning_rate_factor: float = 1.0,
        seed: int | None = None,
        recipe: str | Recipe | None = None,
        on_error: str = "raise",
        verbose: int = 1,
    ) -> None:
        super().__init__(verbose)
        self.sparsity, self.networks = sparsity, networks
        self.settings: dict[str, Any] = {
            "criterion": criterion, "scope": scope, "budget": budget, "compensation": compensation, "min_units": min_units,
            "structured": structured,
        }  # fmt: skip
        self.schedule = schedule
        self.n_events = n_events if schedule == "gradual" else 1
        self.n_batches, self.batch_size = n_batches, batch_size
        self.when, self.until, self.earliest, self.latest = when, until, earliest, latest
        self.kappa, self.seed, self.recipe, self.on_error = kappa, seed, recipe, on_error
        self.learning_rate_factor = learning_rate_factor
        self._run: RecipeRun | None = None
        self.memory = RolloutMemory(0)
        self.timetable: Timetable | None = None
        self._plan: PruningPlan | None = None
        self._batches: list[Any] = []
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
        self._on_policy, self._off_policy = (isinstance(self.model, kind) for kind in (OnPolicyAlgorithm, OffPolicyAlgorithm))
        self.memory = RolloutMemory(self.n_batches * self.batch_size)
        self._seed = int(self.seed if self.seed is not None else (self.model.seed or 0))
        restore_masks(self.model)
        self._run = None
        if isinstance(self.recipe, Recipe):
            self._run = RecipeRun(self, self.recipe)
            return
        structured = self.settings["structured"]
        watched = prunable_parameters(self.model, structured)
        given = target_by_network(self.sparsity, self.networks)
        own = frozenset(given if isinstance(given, Mapping) else watched)
        about = {"criterion": Settings(**self.settings).criterion_name, "when": self.when, "sparsity": given}
        about |= {"schedule": self.schedule, "n_events": self.n_events}
        self._history, self._state = History(self.model, own, structured), WatchState(self.model, own, self.settings | about)
        timetable = Timetable(
            self.when, self.until, self.earliest, self.latest, self.n_events, self.model._total_timesteps,
            first_data(self.model, self.batch_size), self._history.events, self.kappa,
        )  # fmt: skip
        if timetable.finished:
            self._state.clear()
            self.logger.info("The agent has been pruned already (model.pruning_history): it is not pruned again.")
            return
        self.timetable = timetable
        # A plan that needs no data shows whether networks and sparsity are possible.
        self._proposal()
        check_criterion(self.model, self.settings["criterion"])
        timetable.watch({name: tensors for name, tensors in watched.items() if name in own}, given, structured)
        if not hasattr(self.model, "pruning_history"):
            self.model.pruning_history = []  # type: ignore[attr-defined]
        recorded = self._state.restore(timetable, self.memory)
        if recorded is not None:
            self._next_check, self._retry_at = recorded["next_check"], recorded["retry_at"]
            if recorded["scores"] and self.memory.parts and recorded["planned_at"] == self._history.n_cuts:
                self._prepare(recorded["scores"])
        self._record()

    def _record(self) -> None:
        """Keep in the agent what a resumed run has to know."""
        assert self.timetable is not None
        if self.timetable.n_done >= self.n_events:
            return self._state.clear()
        times = {"next_check": self._next_check, "retry_at": self._retry_at, "planned_at": self._planned_at}
        self._state.write(self.timetable, self.memory, self._plan, times)

    def _check_arguments(self) -> None:
        self._init_callback()  # a list sets the parent later
        Settings(**self.settings, seed=self.seed)
        target_by_network(self.sparsity, self.networks)
        check_choices({"schedule": (self.schedule, SCHEDULES), "on_error": (self.on_error, ("raise", "warn"))})
        check_counts({name: getattr(self, name) for name in ("n_events", "n_batches", "batch_size")})
        if check_factor(self.learning_rate_factor) != 1 and isinstance(self.recipe, Recipe):
            raise PruningError("learning_rate_factor does not go with this recipe, which acts between the optimizer's steps.")

    def _on_rollout_start(self) -> None:
        if self._run is not None:
            return self._run.look()
        if self._off_policy:
            self._look()
        if self._plan is not None:
            self._attempt(self._cut)

    def _on_rollout_end(self) -> None:
        if self._run is not None:
            return self._run.rollout_end()
        if self._off_policy:
            return
        if self._on_policy and self.timetable is not None and not self.timetable.finished:
            self.memory.add(self.model.rollout_buffer, self._seed + self.num_timesteps)  # type: ignore[attr-defined]
        self._look()
        if self._plan is not None and not self._on_policy:
            between_updates(self.model, lambda: self._attempt(self._cut))

    def _on_step(self) -> bool:
        self._state.stamp()
        return True

    def _on_training_end(self) -> None:
        """An event still pending happens now; of a gradual schedule, all that is left at once."""
        no_longer(self.model)
        if self._run is not None:
            return self._run.end()
        if self.timetable is not None and not self.timetable.finished:
            if self._plan is None or self._event() < self.n_events - 1:
                self.timetable.finish()
                self._attempt(lambda: self._prepare(at_end=True), last_chance=True)
            if self._plan is not None:
                self._attempt(self._cut, last_chance=True)
        self._state.clear()

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
        due = timetable.check(now, lambda: structure(self._proposal()), regular)
        if watching and regular:
            for name, value in timetable.readings().items():
                self.logger.record(f"pruning/{name}", value)
        if due:
            self._attempt(self._prepare)
        else:
            self._record()

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
                self.memory.clear()
            warnings.warn(f"No pruning at {self.num_timesteps} steps: {error}", stacklevel=2)
        self._record()

    def _prepare(self, scores: Mapping[str, th.Tensor] | None = None, at_end: bool = False) -> None:
        """Score and plan (of an iterative event, the first step), or plan with the scores of an earlier part of the run."""
        sizes = self.n_batches, self.batch_size
        self._batches = training_batches(self.model, self.memory, *sizes, self._seed, at_end)
        plan = self._plan_for(self._step_targets()[0], **({} if scores is None else {"criterion": lambda context: scores}))
        self._plan = replace(plan, settings=replace(plan.settings, criterion=self.settings["criterion"]))
        self._planned_at = self._history.n_cuts

    def _event(self) -> int:
        assert self.timetable is not None
        return self.timetable.event

    def _step_targets(self) -> list[Target]:
        return step_targets(self._targets(self._event()), "iterative" if self.schedule == "iterative" else "one_shot")

    def _targets(self, event: int) -> Target:
        """What an event removes of the network as it is now, given what earlier events removed."""
        assert self.timetable is not None
        given = target_by_network(self.sparsity, self.networks)
        reached = self._history.reached if self.settings["structured"] else {}  # masks count what is masked already
        return self.timetable.targets(event, given, reached, self.settings["scope"] == "global")

    def _plan_for(self, target: Any, **changed: Any) -> PruningPlan:
        settings = self.settings | {"seed": self._seed + self._event()} | changed
        return plan_policy_pruning(self.model, target, batches=self._batches, **settings)

    def _proposal(self) -> PruningPlan:
        """What magnitude would leave in the end: needs no data and is cheap."""
        settings = self.settings | {"criterion": "magnitude", "compensation": "none"}
        return plan_policy_pruning(self.model, self._targets(self.n_events - 1), **settings)

    def _cut(self) -> None:
        assert self._plan is not None and self.timetable is not None
        plan, event = self._plan, self._event()
        self._plan = None
        targets = self._step_targets()
        if self._planned_at != self._history.n_cuts:  # something else has cut the agent since
            plan = self._plan_for(targets[0])
        applied: list[PruningPlan] = []

        def plan_for(target: Any) -> PruningPlan:
            applied.append(self._plan_for(target))
            return applied[-1]

        report = apply_steps(plan_for, targets, first=plan)
        facts = {"event": event, "n_events": self.n_events, "decided_by": self.timetable.decided_by}
        # Events that the end of training passes over leave their part to the last one.
        factor = float(self.learning_rate_factor) ** ((event + 1 - self.timetable.n_done) / self.n_events)
        self._history.add(report, (plan, *applied), **facts, learning_rate_factor=factor)
        scale_learning_rate(self.model, factor)
        self.memory.clear()
        self._batches = []
        self.timetable.done()
        self._history.announce(self.timetable.finished, self.verbose)
        keep_dense_best(self.locals.get("callback"), len(self._history.events) - 1)
