"""Gates say what units are worth, trained alone and with the weights in turn (Gate Decorators, NeurIPS 2019)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch as th
from torch.optim import Optimizer

from rl_crop.core.errors import PruningError
from rl_crop.core.pruning.planning import trace
from rl_crop.core.pruning.report import PruningReport
from rl_crop.core.pruning.schedules import ScheduleOptions
from rl_crop.core.recipes.drivers import Task, begun
from rl_crop.core.recipes.perturbation import gate_l1
from rl_crop.core.recipes.recipe import DriverOptions, Recipe
from rl_crop.core.recipes.systems.hydra import frozen


@contextmanager
def gate_scores(optimizers: Sequence[Optimizer], gates: Mapping[str, th.Tensor]) -> Iterator[dict[str, np.ndarray]]:
    """
    Sum |c ∂L/∂c| of every gate over the steps of a block.

    :param optimizers: those that train the gates.
    :param gates: by group name.
    :return: the sums so far by group name, a number a unit.
    """
    scores = {name: np.zeros(len(gate)) for name, gate in gates.items()}

    def add(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for name, gate in gates.items():
            if id(gate) in own and gate.grad is not None:
                scores[name] += (gate.detach() * gate.grad).abs().double().cpu().numpy()

    handles = [optimizer.register_step_pre_hook(add) for optimizer in optimizers]
    try:
        yield scores
    finally:
        for handle in handles:
            handle.remove()


def tick_tock(task: Task, recipe: Recipe, sparsity: float, seed: int) -> PruningReport:
    """
    Train; then, ``n_events`` times, a tick, a cut and a tock.

    Tick: gates alone are trained, and scored by the sum of |c ∂L/∂c|. Cut: units with the lowest scores go. Tock: weights
    and gates are trained, with an L1 penalty on gates. Gates are folded into the weights before each cut and at the end.
    ``recipe.when`` is the share of the run before; the option ``choosing`` that of all ticks, the rest that of all tocks.
    """

    def gates(strength: float) -> AbstractContextManager[dict[str, th.Tensor]]:
        subject = task.subject(batches())
        return gate_l1(subject, list(trace(subject).groups.values()), strength)

    n_events = recipe.of(ScheduleOptions).n_events
    task.train(before := float(recipe.when))
    ticks = min(recipe.of(DriverOptions).choosing, 1.0 - before)
    cuts = replace(
        recipe, driver="single", criterion=lambda context: scores, when=0.0, until=1.0, schedule="gradual", perturbation="none"
    )
    engine, batches = begun(task, cuts, sparsity, seed)
    for event in range(n_events):
        with frozen(task.model.parameters()), gates(0.0) as ticking, gate_scores(task.optimizers, ticking) as scores:
            task.train(ticks / n_events)
        if not any(score.any() for score in scores.values()):
            raise PruningError(
                "No gate was trained: give ticks a larger share of the run (choosing), or ask for fewer n_events."
            )
        engine.update(event / (n_events - 1) if n_events > 1 else 1.0, batches)
        with gates(recipe.of(DriverOptions).l1):
            task.train((1.0 - before - ticks) / n_events)
    return engine.finish(batches)
