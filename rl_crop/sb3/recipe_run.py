"""Recipes in ``PruningCallback``: as its own arguments where they say the same, else by the engine at rollout boundaries."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from rl_crop.core.errors import PruningError
from rl_crop.core.importance.context import GRADIENT_FREE
from rl_crop.core.model import Subject
from rl_crop.core.pruning.schedules import SCHEDULES
from rl_crop.core.pruning.settings import check_choices
from rl_crop.core.recipes.engine import SparseTraining
from rl_crop.core.recipes.recipe import Recipe
from rl_crop.core.recipes.registry import resolve_recipe
from rl_crop.core.recipes.strategies import as_target
from rl_crop.sb3.agent import remember, target_by_network
from rl_crop.sb3.best_models import keep_dense_best
from rl_crop.sb3.history import SOURCE, History
from rl_crop.sb3.scoring import training_batches
from rl_crop.sb3.task import agent_subject
from rl_crop.sb3.watch_state import WatchState

INTERVALS = {True: 250, False: 1000}
"""Optimizer steps between two changes of masks, at least: of on-policy algorithms, and of others."""
PARTS = ("criterion", "structured", "scope", "compensation")
"""Arguments of the callback that are parts of a recipe. (Times can be in timesteps: they wait for the start of training.)"""
OPTIONS = ("kappa", "earliest", "latest", "min_units", "n_batches")
"""Options of a recipe that are arguments of the callback."""
P = ParamSpec("P")


def with_recipe(init: Callable[P, None]) -> Callable[P, None]:
    """
    Fill in the arguments that a recipe decides; those that are given win.

    A recipe that the callback's own arguments cannot express is handed on as a ``Recipe``, for the
    engine; the name of any other stays a name.
    """

    @wraps(init)
    def filled(*args: P.args, **keywords: P.kwargs) -> None:
        own: dict[str, Any] = dict(signature(init).bind(*args, **keywords).arguments)
        given = own
        if own.get("recipe") is not None:
            given = arguments_of(own["recipe"]) | own
            if needs_engine(recipe := resolve_recipe(own["recipe"])):
                given["recipe"] = replace(scheduled(recipe, own), **{name: given[name] for name in PARTS})
            elif isinstance(own["recipe"], Recipe):
                given["recipe"] = None  # the arguments say it all
        init(**given)  # type: ignore[call-arg]

    return filled


def arguments_of(recipe: Recipe | str) -> dict[str, Any]:
    """
    :param recipe: a recipe, or a name.
    :return: the arguments of the callback that it decides.
    :raises PruningError: there is none of this name, or it needs several runs.
    """
    chosen = resolve_recipe(recipe)
    if chosen.driver != "single":
        raise PruningError(
            f"recipe={recipe!r} needs several runs or phases (driver {chosen.driver!r}), which a callback cannot have: use "
            f"rl_crop.run_recipe(rl_crop.sb3.task.AgentTask(model, total_timesteps), {recipe!r}, sparsity)."
        )
    # In reinforcement learning every step of an actor is below 1 - sparsity.
    when = "lazy" if chosen.when in ("distance", "distance_released") else chosen.when
    schedule = {"once": "iterative" if chosen.inner == "halving" else "one_shot"}.get(chosen.schedule, "gradual")
    return {
        "criterion": chosen.criterion, "structured": chosen.structured, "scope": chosen.scope, "when": when,
        "until": chosen.until, "compensation": chosen.compensation, "schedule": schedule,
        "n_events": chosen.option("n_events"),
        **{name: chosen.options[name] for name in OPTIONS if name in chosen.options},
    }  # fmt: skip


def scheduled(recipe: Recipe, own: Mapping[str, Any]) -> Recipe:
    """
    :param recipe: a recipe for the engine.
    :param own: the callback's arguments as they were given.
    :return: the recipe with the schedule among them, if there is one.
    :raises PruningError: the recipe has a course of its own.
    """
    asked = {name: own[name] for name in ("schedule", "n_events") if name in own}
    if not asked:
        return recipe
    if recipe.schedule not in ("once", "gradual") or recipe.fate not in ("removed", "zero"):
        raise PruningError(f"{asked}: this recipe has a course of its own; `when` and `until` say where it begins and ends.")
    schedule, inner = recipe.schedule, recipe.inner
    if "schedule" in own:
        check_choices({"schedule": (own["schedule"], SCHEDULES)})
        schedule = "gradual" if own["schedule"] == "gradual" else "once"
        inner = "halving" if own["schedule"] == "iterative" else "none"
    options = dict(recipe.options) | {"n_events": own.get("n_events", recipe.option("n_events"))}
    return replace(recipe, schedule=schedule, inner=inner, options=options)


def needs_engine(recipe: Recipe) -> bool:
    """:return: whether a recipe does more than to cut or mask in one event, or in several."""
    once = (
        recipe.schedule in ("once", "gradual") and recipe.inner in ("none", "halving") and recipe.fate in ("removed", "zero")
    )
    plain = recipe.regrow == recipe.perturbation == "none" and recipe.criterion != "relative_change"
    return not (once and plain) or recipe.when == "epi" or recipe.option("shuffle")


class RecipeRun:
    """
    The engine in one ``learn``: it acts before rollouts, and its state travels in the agent's zip.

    :param callback: the ``PruningCallback`` whose agent it prunes, and whose arguments it uses.
    :param recipe: the recipe.
    :raises PruningError: it is not possible with these arguments.
    """

    def __init__(self, callback: Any, recipe: Recipe) -> None:
        self.callback, self.seed = callback, callback._seed
        self.model, self.memory = callback.model, callback.memory
        times = {name: self._share(getattr(callback, name)) for name in ("when", "until", "earliest", "latest")}
        bounds = {"earliest": times.pop("earliest"), "latest": times.pop("latest"), "kappa": callback.kappa}
        options = {**recipe.options, **bounds}
        self.recipe = recipe = replace(recipe, **times, options=options)
        sparsity = target_by_network(callback.sparsity, callback.networks)
        settings = {name: callback.settings[name] for name in ("budget", "min_units")}
        interval = INTERVALS[isinstance(self.model, OnPolicyAlgorithm)]
        self.engine = SparseTraining(recipe, sparsity, self._subject, self.seed, interval, **settings)
        subject = self._subject([])
        if not subject.optimizers:
            raise PruningError(
                f"This recipe acts between the steps of an optimizer, and {type(self.model).__name__} has none."
            )
        self.engine.start(subject)
        networks = frozenset(self.engine.weights.names if "total" in self.engine.targets else self.engine.targets)
        self.history = History(self.model, networks, recipe.structured)
        self.state = callback._state = WatchState(
            self.model, networks, {"recipe": str(recipe.described), "sparsity": sparsity, **settings}
        )
        past = self.history.events
        if past and past[-1].get("finished", True):
            self.engine.finished = True
            self.engine.detach()
            self.state.clear()
            callback.logger.info("The agent has been pruned already (model.pruning_history): it is not pruned again.")
            return
        if recipe.structured:  # a plan that needs no data shows whether the sparsity is possible
            self.engine.plan(as_target(self.engine.targets), [], criterion="magnitude", compensation="none")
        self.state.restore(self, self.memory)  # type: ignore[arg-type]
        self.look()

    def _share(self, time: Any) -> Any:
        """:return: a number of timesteps as a share of the run."""
        return min(time / self.model._total_timesteps, 1.0) if isinstance(time, int) else time

    def look(self) -> None:
        """Do what is due before a rollout."""
        changes = self.engine.draw
        grows = self.recipe.regrow == "gradient" and self.engine.begun is not None
        free = self.recipe.criterion in GRADIENT_FREE and self.recipe.compensation == "none" and not grows
        if self.engine.finished or not (free or self._has_data):
            return
        try:
            self.engine.update(min(self.model.num_timesteps / self.model._total_timesteps, 1.0), self._data)
        except PruningError as error:
            warnings.warn(f"No pruning at {self.model.num_timesteps} steps: {error}", stacklevel=2)
        if self.engine.draw > changes:
            self._record()
        elif self.engine.begun is None:
            self._write()

    @property
    def _has_data(self) -> bool:
        if isinstance(self.model, OnPolicyAlgorithm):
            return bool(self.memory.parts)
        replay = getattr(self.model, "replay_buffer", None)  # empty where an agent was loaded without it
        learns = self.model.num_timesteps >= max(getattr(self.model, "learning_starts", 0), 1)
        return learns and (replay is None or replay.size() > 0)

    def rollout_end(self) -> None:
        """Keep an on-policy rollout for scoring."""
        if isinstance(self.model, OnPolicyAlgorithm) and not self.engine.finished:
            self.memory.add(self.model.rollout_buffer, self.seed + self.model.num_timesteps)

    def end(self) -> None:
        """Training is over: what is left happens now."""
        try:
            if not self.engine.finished:
                self.engine.update(1.0, lambda: self._data(at_end=True))
                self._record()
        except PruningError as error:
            if self.callback.on_error == "raise":
                raise
            warnings.warn(f"No pruning at {self.model.num_timesteps} steps: {error}", stacklevel=2)
        finally:
            self.engine.detach()
            self.state.clear()

    def state_dict(self) -> dict[str, Any]:
        """:return: the engine's."""
        return self.engine.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The engine goes on from there."""
        self.engine.load_state_dict(state, self._subject([]))

    def _subject(self, batches: Sequence[Any]) -> Subject:
        return agent_subject(self.model, batches)

    def _data(self, at_end: bool = False) -> list[Any]:
        """:return: scoring batches; none before there is data, which some recipes do not need."""
        if not at_end and not self._has_data:
            return []
        sizes = self.callback.n_batches, self.callback.batch_size
        return training_batches(self.model, self.memory, *sizes, self.seed, at_end)

    def _record(self) -> None:
        """What has been done so far is one event, the last one of the history."""
        engine = self.engine
        if not engine.fate.has_removed:
            return self._write()  # a penalty grows, for example
        report = engine.fate.report(self._subject([]))
        self.model.pruning_history = [
            entry for entry in getattr(self.model, "pruning_history", []) if entry.get("finished", True)
        ]
        facts = {"event": 0, "n_events": 1, "decided_by": engine.decided_by, "finished": engine.finished}
        reached = {name: report.sparsity[name] for name in engine.targets}
        remember(self.model, report, source=SOURCE, networks=sorted(self.history.networks), reached=reached, **facts)
        self.history.announce(engine.finished, self.callback.verbose)
        if engine.finished:
            self.memory.clear()
            self.state.clear()
            keep_dense_best(self.callback.locals.get("callback"), len(self.history.events) - 1)
        else:
            self._write()

    def _write(self) -> None:
        self.state.write(self, self.memory, None, {})  # type: ignore[arg-type]
