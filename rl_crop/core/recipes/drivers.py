"""The outer loop of a recipe: a single run, rounds with rewinding, a population; others have modules of their own."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any, Protocol

import torch as th
from torch import nn

from rl_crop.core.masking.masks import Masks
from rl_crop.core.model import Subject
from rl_crop.core.pruning.report import PruningReport
from rl_crop.core.pruning.settings import Target, check_sparsity
from rl_crop.core.recipes.engine import PruningEngine
from rl_crop.core.recipes.hooks import released_after_errors
from rl_crop.core.recipes.recipe import DRIVERS, DriverOptions, Recipe, ScoringOptions
from rl_crop.core.recipes.registry import resolve_recipe
from rl_crop.core.recipes.timetable import Limits


class Task(Protocol):
    """
    What is trained, as a driver needs to know it: any loop can offer this.

    ``model`` and ``optimizers`` stay the same objects for the life of the task.
    """

    @property
    def model(self) -> nn.Module:
        """The network."""

    @property
    def optimizers(self) -> Sequence[th.optim.Optimizer]:
        """All that train it."""

    def loss(self, model: nn.Module, batch: Any) -> th.Tensor:
        """:return: the scalar loss of a batch."""

    def batches(self, n: int) -> list[Any]:
        """:return: scoring batches, from training data."""

    def subject(self, batches: Sequence[Any]) -> Subject:
        """:return: what the core plans and cuts, with these scoring batches."""

    def train(self, share: float = 1.0, after_step: Callable[[float], None] | None = None) -> None:
        """
        Train for a share of the whole engine.

        :param share: of the run's steps.
        :param after_step: called between optimizer steps with what is done of this call, from above 0 to 1.
        """

    def evaluate(self) -> float:
        """:return: how good the model is on validation data; higher is better."""

    def snapshot(self) -> Any:
        """:return: a copy of weights, buffers, optimizer state and the place in the data."""

    def restore(self, state: Any) -> None:
        """Put a snapshot back; the shapes must be those of then."""


DriverFunction = Callable[[Task, Recipe, float, int], PruningReport]
"""Prunes and trains a task: ``driver(task, recipe, sparsity, seed)``."""


def run_recipe(task: Task, recipe: Recipe | str, sparsity: float, seed: int = 0) -> PruningReport:
    """
    Train and prune a task by a recipe, outer loop included.

    :param task: what is trained; a whole run (or several, if the recipe asks for them) takes place in it.
    :param recipe: a recipe, or the name of one in :data:`~rl_crop.core.recipes.registry.RECIPES`.
    :param sparsity: to end with, in [0, 1).
    :param seed: of everything random in pruning.
    :return: the report of the whole.
    :raises PruningError: the recipe is unknown, or cannot be carried out on this task.
    """
    chosen = resolve_recipe(recipe)
    check_sparsity(sparsity)
    with released_after_errors(task.optimizers):
        report = _driver(chosen)(task, chosen, sparsity, seed)
    return replace(report, criterion=chosen.criterion) if isinstance(chosen.criterion, str) else report


def _driver(recipe: Recipe) -> DriverFunction:
    if not isinstance(recipe.driver, str):
        return recipe.driver
    return getattr(import_module(f"rl_crop.core.recipes.{DRIVERS[recipe.driver].module}"), recipe.driver)


def single(task: Task, recipe: Recipe, sparsity: float, seed: int) -> PruningReport:
    """One run, with pruning at its beginning, within it or at its end, as the task's ``limits`` allow (where it has any)."""
    engine, batches = begun(task, recipe, sparsity, seed, limits=getattr(task, "limits", None))
    engine.update(0.0, batches)

    def after_step(progress: float) -> None:
        engine.update(progress * engine.limits.length, batches)

    task.train(1.0, after_step)
    return engine.finish(batches)


def rounds(task: Task, recipe: Recipe, sparsity: float, seed: int) -> PruningReport:
    """
    Whole runs; after each, a share of the remaining weights is masked, and the others go back to early values (LTR, IMP).

    Option ``rate`` is the share, ``rewind`` the early time: 0 is initialisation.
    """
    rate, rewind = recipe.of(DriverOptions).rate, recipe.of(DriverOptions).rewind
    n_rounds = max(math.ceil(math.log(1.0 - sparsity) / math.log(1.0 - rate) - 1e-9), 1)
    task.train(rewind)
    early = task.snapshot()
    for target in [*(1.0 - (1.0 - rate) ** done for done in range(1, n_rounds)), sparsity]:
        task.train(1.0 - rewind)
        engine, batches = begun(task, replace(recipe, when=0.0, schedule="once"), target, seed)
        engine.update(0.0, batches)
        engine.detach()
        task.restore(early)
        held(engine).apply()
    task.train(1.0 - rewind)
    return engine.finish(batches)


def population(task: Task, recipe: Recipe, sparsity: float, seed: int) -> PruningReport:
    """Several candidates from the same weights are each trained for a short time; the fittest is trained in full."""
    start, fitness = task.snapshot(), {}
    for candidate in range(seed, seed + recipe.of(DriverOptions).n_candidates):
        engine, batches = begun(task, recipe, sparsity, candidate)
        engine.update(0.0, batches)
        task.train(recipe.of(DriverOptions).trial)
        fitness[candidate] = task.evaluate()
        held(engine).detach()
        engine.detach()
        task.restore(start)
    return single(task, recipe, sparsity, max(fitness, key=lambda candidate: fitness[candidate]))


def held(engine: PruningEngine) -> Masks:
    """:return: the masks of an engine that has masked something."""
    assert engine.masks is not None
    return engine.masks


def begun(
    task: Task,
    recipe: Recipe,
    sparsity: Target,
    seed: int,
    subject_of: Callable[[Sequence[Any]], Subject] | None = None,
    limits: Limits | None = None,
) -> tuple[PruningEngine, Callable[[], list[Any]]]:
    """:return: the engine of one run, which has not begun, and what makes its scoring batches."""
    batches = partial(task.batches, recipe.of(ScoringOptions).n_batches)
    return PruningEngine(recipe, sparsity, subject_of or task.subject, seed, limits or Limits()), batches
