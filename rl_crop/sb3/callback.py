"""Early pruning while an agent trains: arguments become a recipe, and the engine is fed between two rollouts."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from rl_crop.core.errors import PruningError
from rl_crop.core.model import Subject
from rl_crop.core.pruning.automatic import EARLY_TOLERANCE
from rl_crop.core.pruning.original import FORMS
from rl_crop.core.pruning.settings import Settings, check_choices, check_counts, is_auto
from rl_crop.core.pruning.surgery import Transaction
from rl_crop.core.recipes.arguments import recipe_of
from rl_crop.core.recipes.engine import PruningEngine
from rl_crop.core.recipes.recipe import Recipe, ScoringOptions
from rl_crop.core.recipes.state import Change
from rl_crop.sb3.adapters import unwrap
from rl_crop.sb3.agent import check_criterion, target_by_network
from rl_crop.sb3.along import Along, along
from rl_crop.sb3.best_models import keep_dense_best
from rl_crop.sb3.between_rollouts import (
    agent_limits,
    between_updates,
    has_buffers,
    no_longer,
    refuse_workers,
    training_batches,
)
from rl_crop.sb3.data import BATCH_SIZE, RolloutMemory
from rl_crop.sb3.examples import try_own_criterion
from rl_crop.sb3.guard import ReturnGuard
from rl_crop.sb3.learning import still_learning
from rl_crop.sb3.learning_rate import check_factor, scale_learning_rate
from rl_crop.sb3.masks import restore_masks
from rl_crop.sb3.progress import until_learnt
from rl_crop.sb3.said import say_if_late, say_if_several, say_nothing_trained
from rl_crop.sb3.state import AgentState, told_apart
from rl_crop.sb3.task import agent_subject


class PruningCallback(BaseCallback):
    """
    Prunes an agent early in training; every argument is a plain YAML value.

    Agents are scored and cut before a rollout, so that the pruned policy trains on its own data: on-policy agents on their
    latest rollouts, off-policy agents on replay samples, never before ``learning_starts``. The event is recorded in
    ``model.pruning_history``, and an event of the same networks and arguments that is recorded there is not repeated after a
    resume. In a list of callbacks its place does not matter; inside another callback it does not work.

    What is not given is the recipe's, by default one early cut of units. Where the returns of training episodes fall behind
    what they were before the cut by more than a tenth (and two standard errors), for a tenth of the run, it warns once.

    Until the last event ``model.pruning_state``, and so every zip, holds what has been seen so far (the weights a trigger
    compares with, its counters, the scoring data of on-policy agents up to 16 MiB): ``load`` and ``learn(steps_left,
    reset_num_timesteps=False)`` with a callback of the same arguments go on from there. Where the agent was saved between two
    rollouts (``_on_rollout_start``), and environment, replay buffer and global generators are put back, that equals the run
    that was not stopped, bit for bit. ``CheckpointCallback`` saves within a rollout, which Stable-Baselines3 forgets: the next
    rollout starts at the checkpoint, and an on-policy agent is cut up to one rollout later.

    :param sparsity: share of each network's prunable parameters to remove, in [0, 1): one number, or by network. By default,
        and where it is ``"auto"``, the smallest widths are found at which the repaired networks compute what they did.
    :param criterion: its name (``"obs_crop"``; ``"crop"`` where nothing is refitted), or a function as ``prune_policy`` takes.
    :param networks: with one number, the networks it applies to (all by default).
    :param scope: ``"network"`` (the default), ``"layer"`` or ``"global"``.
    :param budget: ``"params"``, ``"flops"`` or ``"units"``.
    :param compensation: ``"none"``, ``"bias"``, ``"least_squares"`` (the default) or ``"distill"``.
    :param min_units: units that stay in every layer: an int (1), or a float in (0, 1) as a share of what "layer" leaves.
    :param structured: whether units are removed, or single weights masked (which makes nothing faster).
    :param schedule: ``"one_shot"`` (the default); ``"iterative"`` (steps within one event, scored anew at each); ``"gradual"``
        (``n_events`` events from ``when`` until ``until``, with training between them).
    :param n_events: number of events of a gradual schedule (4).
    :param n_batches: number of scoring batches (8).
    :param batch_size: transitions in each.
    :param when: ``"lazy"`` (the default: weights have entered the lazy regime), ``"stable"`` (two sizes running that are found
        agree), ``"epi"`` (the proposed widths are stable), ``"distance"`` (the paper's rule) or ``"distance_released"`` (the
        released code's), a float in [0, 1) as a share of the training budget, or an int of at least 1 in timesteps.
    :param until: when the last event of a gradual schedule comes (0.3); units as for ``when``.
    :param earliest: a trigger cuts at this time at the earliest (0.1); same units.
    :param latest: a trigger cuts at this time at the latest (0.3; a size is found up to 0.6, until returns have moved).
    :param kappa: κ of ``"lazy"``, in (0, 1] (0.03): a network has settled when its weights have moved less than this share of
        their fastest step at three checks running.
    :param learning_rate_factor: the learning rate is multiplied by this at the cut (in equal parts by the events of a gradual
        schedule), whatever its schedule: some narrowed agents gain from longer steps, others fall apart (docs/study.md). One
        rate serves all networks and a learned entropy coefficient (TRPO: its critic alone), and the factors of several
        callbacks multiply.
    :param max_params: instead of a sparsity, how many parameters may be left, of the agent or by network.
    :param max_flops: the same in floating-point operations for one observation.
    :param round_to: widths are multiples of this.
    :param tolerance: of a size that is found: share of the variance of a network's outputs that may stay unexplained (1e-4).
    :param ignore: modules of the policy that are left whole, by name, and attributes of the algorithm that are not looked at.
    :param optimizers: further optimizers whose state is cut along, where they are not found: names of attributes of the
        algorithm (``"vf_optimizer"``, with dots within), or a function of the algorithm that returns them.
    :param mirrors: further copies of the policy, or of a part of it, that are cut along, likewise.
    :param of: whose share a sparsity is: ``"current"``, of the networks as they are when training starts, or ``"original"``,
        as they were before the first event of ``pruning_history``.
    :param seed: of everything random; the model's own by default.
    :param recipe: one of ``rl_crop.recipes``, by name, or a ``Recipe``: it decides what is not given. Masks that move while
        the agent trains change between rollouts, at least 250 (on-policy) or 1000 (off-policy) optimizer steps apart.
    :param on_error: what happens when the event is impossible until ``latest``: ``"raise"`` or ``"warn"``.
    :param verbose: 0 prints nothing, 1 the report of the (last) event.
    """

    def __init__(
        self,
        sparsity: float | str | Mapping[str, float | str] | None = None,
        criterion: Any = None,
        networks: str | list[str] | None = None,
        scope: str | None = None,
        budget: str = "params",
        compensation: str | None = None,
        min_units: int | float | None = None,
        structured: bool | None = None,
        schedule: str | None = None,
        n_events: int | None = None,
        n_batches: int | None = None,
        batch_size: int = BATCH_SIZE,
        when: str | float | int | None = None,
        until: float | int | None = None,
        earliest: float | int | None = None,
        latest: float | int | None = None,
        kappa: float | None = None,
        learning_rate_factor: float = 1.0,
        max_params: float | Mapping[str, float] | None = None,
        max_flops: float | Mapping[str, float] | None = None,
        round_to: int = 1,
        tolerance: float | Mapping[str, float] | None = None,
        ignore: str | list[str] | None = None,
        optimizers: Any = None,
        mirrors: Any = None,
        of: str = "current",
        seed: int | None = None,
        recipe: str | Recipe | None = None,
        on_error: str = "raise",
        verbose: int = 1,
    ) -> None:
        super().__init__(verbose)
        given = {
            "criterion": criterion, "scope": scope, "compensation": compensation, "min_units": min_units,
            "structured": structured, "schedule": schedule, "n_events": n_events, "n_batches": n_batches, "when": when,
            "until": until, "earliest": earliest, "latest": latest, "kappa": kappa,
        }  # fmt: skip
        self.sparsity, self.networks = sparsity, networks
        sizes = {
            "max_params": max_params,
            "max_flops": max_flops,
            "round_to": round_to,
            "tolerance": EARLY_TOLERANCE if tolerance is None else tolerance,
        }
        self.settings: dict[str, Any] = {"budget": budget, **sizes}
        self.ignore, self.optimizers, self.mirrors = ignore or (), optimizers, mirrors
        self.recipe, self._given = recipe, {name: value for name, value in given.items() if value is not None}
        self.batch_size, self.of, self.seed, self.on_error = batch_size, of, seed, on_error
        self.learning_rate_factor = learning_rate_factor
        self.engine: PruningEngine | None = None
        self.memory, self.guard = RolloutMemory(0), ReturnGuard(1)
        self._retry_at, self._unseen = 0.0, True
        if recipe is not None:
            self._check_driver(self.resolved)

    @property
    def resolved(self) -> Recipe:
        """The recipe that the arguments ask for."""
        return recipe_of(self.recipe, self._given, finds_size=self.sparsity is None or is_auto(self.sparsity))

    def _check_driver(self, recipe: Recipe) -> None:
        if recipe.driver != "single":
            name = repr(self.recipe) if isinstance(self.recipe, str) else "recipe"
            raise PruningError(
                f"recipe={name} needs several runs or phases (driver {recipe.driver!r}), which a callback cannot have: use "
                f"rl_crop.run_recipe(rl_crop.sb3.task.AgentTask(model, total_timesteps), {name}, sparsity)."
            )

    def _init_callback(self) -> None:
        if self.parent is not None:
            raise PruningError("PruningCallback hears of no rollout inside another callback: put it beside it, in a list.")

    def _on_training_start(self) -> None:
        """Whatever is wrong with the arguments raises here, before the first step."""
        self.engine, self._retry_at, self._unseen = None, 0.0, True  # nothing of an earlier run
        no_longer(self.model)
        recipe, sparsity = self.check_arguments()
        refuse_workers(self.locals)
        model, self._on_policy = self.model, isinstance(self.model, OnPolicyAlgorithm)
        restore_masks(model)
        check_criterion(model, recipe.criterion)
        self._n_batches = recipe.of(ScoringOptions).n_batches
        self._seed = int(self.seed if self.seed is not None else (model.seed or 0))
        self.memory, self.guard = RolloutMemory(self._n_batches * self.batch_size), ReturnGuard(model._total_timesteps)
        subject = self._subject([])
        own = frozenset(sparsity if isinstance(sparsity, Mapping) else (network.name for network in subject.networks))
        arguments = told_apart(recipe, sparsity, self.settings, self.ignore, self.of)
        self._state = AgentState(model, own, recipe.structured, arguments)
        if self._state.finished:
            self._state.clear()
            self.logger.info("The agent has been pruned already (model.pruning_history): it is not pruned again.")
            return
        sparsity = self._state.share_of_now(sparsity, self.of, recipe, self.settings["budget"])
        say_if_late(recipe.when, model._total_timesteps)
        say_if_several(self, self.locals.get("callback"))
        found = self._state.found(self.memory)
        limits = agent_limits(model, model._total_timesteps, self.batch_size, self.memory)
        if recipe.finds_size(self.sparsity) and "latest" not in self._given and (found or not model.num_timesteps):
            limits = until_learnt(limits, self.guard.progress)
        limits = replace(limits, running=still_learning(model))
        self.engine = PruningEngine(
            recipe, sparsity, self._subject, self._seed, limits, ignore=self._along.ignore, **self.settings
        )
        self._state.start(self.engine, subject, found)
        try_own_criterion(model, self.engine, self._subject, self.on_error)
        vars(model).setdefault("pruning_history", [])
        if found is not None:
            self._retry_at, self._unseen = found["retry_at"], found["unseen"]
            self.guard.progress.go_on(found.get("progress", {}))
        self._write()

    @property
    def _along(self) -> Along:
        return along(self.model, unwrap(self.model.policy), self.optimizers, self.mirrors, self.ignore)

    def _subject(self, batches: Sequence[Any]) -> Subject:
        return agent_subject(self.model, batches, self._along)

    def check_arguments(self) -> tuple[Recipe, Any]:
        """
        Look at the arguments, as the start of training does; no agent is needed.

        :return: the recipe and the sparsity that they ask for.
        :raises PruningError: names what is wrong.
        """
        self._init_callback()  # a list sets the parent later
        check_choices({"on_error": (self.on_error, ("raise", "warn")), "of": (self.of, FORMS)})
        check_counts({name: self._given[name] for name in ("n_events", "n_batches") if name in self._given})
        check_counts({"batch_size": self.batch_size})
        recipe = self.resolved
        if isinstance(recipe.when, float) and recipe.when >= 1:
            raise PruningError(f"when={recipe.when!r} must be below 1: nothing trains after the end. Timesteps are an int.")
        self._check_driver(recipe)
        Settings(
            recipe.criterion, recipe.scope, structured=recipe.structured, compensation=recipe.compensation,
            min_units=recipe.of(ScoringOptions).min_units, seed=self.seed, **self.settings,
        )  # fmt: skip
        if check_factor(self.learning_rate_factor) != 1 and (recipe.n_events is None or recipe.chosen_schedule.in_time):
            raise PruningError("learning_rate_factor does not go with this recipe, which acts between the optimizer's steps.")
        return recipe, target_by_network(self.sparsity, self.networks)

    def _on_rollout_start(self) -> None:
        self._state.log(now=False)
        # Where a checkpoint was saved within a rollout, nothing has been trained since it began.
        if has_buffers(self.model) and (self._unseen or not self._on_policy):
            self._unseen = False
            self._update()

    def _on_rollout_end(self) -> None:
        if self.engine is None or self.engine.finished:
            return
        if self._on_policy:
            self.memory.add(self.model.rollout_buffer, self._seed + self.num_timesteps)  # type: ignore[attr-defined]
            self._unseen = True
            self._write()
        elif not has_buffers(self.model):
            between_updates(self.model, self._update)

    def _on_step(self) -> bool:
        if self.engine is not None:
            self._state.stamp()
        self.guard.look(self.locals.get("infos", ()), self.num_timesteps)
        return True

    def _on_training_end(self) -> None:
        """An event still pending happens now; of a gradual schedule, all that is left at once."""
        no_longer(self.model)
        if self.engine is None:
            return
        try:
            if not self.engine.finished:
                n_before = len(self.model.pruning_history)  # type: ignore[attr-defined]
                self.engine.timetable.end()
                self._update(at_end=True)
                if self.engine.recipe.n_events and len(self.model.pruning_history) > n_before:  # type: ignore[attr-defined]
                    say_nothing_trained(self.num_timesteps)
        finally:
            self.engine.detach()
            self._state.clear()

    def _update(self, at_end: bool = False) -> None:
        """Do what is due; what fails is tried again until the deadline."""
        engine, now = self.engine, self.num_timesteps
        if engine is not None and not engine.limits.running():  # an exception has ended that training
            return no_longer(self.model)
        if engine is None or engine.finished or (now < self._retry_at and not at_end):
            return
        sizes = self._n_batches, self.batch_size, self._seed, at_end
        try:
            change = engine.update(now, lambda: training_batches(self.model, self.memory, *sizes), self._record)
            if change is not None and change.report is not None and change.report.structured:
                self.guard.begin(self.model)
        except PruningError as error:
            self._retry_at = now + engine.timetable.every
            if at_end or now >= engine.timetable.deadline():
                if self.on_error == "raise":
                    raise
                engine.give_up()
                self.memory.clear()
            warnings.warn(f"No pruning at {now} steps: {error}", stacklevel=2)
        if engine.finished:
            self.memory.clear()
        if engine.timetable.begun is None:
            for name, value in engine.timetable.readings().items():
                self.logger.record(f"pruning/{name}", value)
        self._write()

    def _record(self, transaction: Transaction, change: Change) -> None:
        """Keep a change in the agent, as long as it can be undone."""
        assert self.engine is not None
        factor = float(self.learning_rate_factor) ** change.share
        self._state.record(change, transaction, learning_rate_factor=factor)
        scale_learning_rate(self.model, factor, transaction)
        if self.engine.recipe.n_events is not None or change.finished:
            keep_dense_best(self.locals.get("callback"), len(self._state.events) - 1, transaction)
        transaction.keep_attributes(self.model, "pruning_state")
        self._write()
        self._state.announce(self.verbose)

    def _write(self) -> None:
        assert self.engine is not None
        self._state.write(self.engine, self.memory, self.guard.progress.seen, retry_at=self._retry_at, unseen=self._unseen)
