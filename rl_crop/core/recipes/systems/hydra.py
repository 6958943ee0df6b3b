"""Which weights stay is learned: scores trained through a straight-through choice of the highest (HYDRA, NeurIPS 2020)."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch as th

from rl_crop.core.masking.masks import Keep
from rl_crop.core.pruning.report import PruningReport
from rl_crop.core.recipes.drivers import Task, begun
from rl_crop.core.recipes.perturbation import Function, computed, trained_along
from rl_crop.core.recipes.recipe import DriverOptions, Recipe


@contextmanager
def frozen(parameters: Iterable[th.Tensor]) -> Iterator[None]:
    """Let no optimizer move these parameters for a block: they have no gradient."""
    free = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in free:
        parameter.requires_grad_(False).grad = None
    try:
        yield
    finally:
        for parameter in free:
            parameter.requires_grad_(True)


@contextmanager
def scored(
    task: Task, weights: Mapping[str, th.Tensor], choose: Callable[[Mapping[str, th.Tensor]], Keep]
) -> Iterator[dict[str, th.Tensor]]:
    """
    Train scores instead of weights for a block: the network computes with chosen weights only, the rest at zero.

    A score starts as its weight, at the scale of a new layer. Its gradient is that of the weight it switches times the
    weight, as if the choice were the identity.

    :param task: its optimizers train the scores, each as they train the weight.
    :param weights: by name.
    :param choose: the masks for the scores' magnitudes.
    :return: the scores by name.
    """
    scores: dict[str, th.Tensor] = {}
    now: dict[str, Any] = {"versions": None, "keep": {}}
    for name, weight in weights.items():
        scale = (6.0 / weight[0].numel()) ** 0.5 / weight.detach().abs().max().clamp_min(1e-30)
        scores[name] = (weight.detach() * scale).requires_grad_()

    def masked_by(name: str) -> Function:
        def masked(weight: th.Tensor, training: bool) -> th.Tensor:
            versions = tuple(score._version for score in scores.values())
            if versions != now["versions"]:  # a step has changed the scores
                now.update(versions=versions, keep=choose({each: score.detach().abs() for each, score in scores.items()}))
            size = scores[name].abs()
            return weight * (now["keep"][name] + size - size.detach())

        return masked

    with frozen(task.model.parameters()), computed([task.model], [(w, masked_by(name)) for name, w in weights.items()]):
        with trained_along(task.optimizers, [(weight, scores[name]) for name, weight in weights.items()]):
            yield scores


def learned_scores(task: Task, recipe: Recipe, sparsity: float, seed: int) -> PruningReport:
    """
    Train, learn scores with the weights frozen, keep the weights of the highest, and train those.

    ``recipe.when`` is the share of the run before; the option ``choosing`` that of the scores, the rest comes after.
    """
    task.train(before := float(recipe.when))
    choosing = min(recipe.of(DriverOptions).choosing, 1.0 - before)
    by_score = replace(
        recipe, driver="single", when=0.0,
        criterion=lambda context: {name: scores[name].abs() for name in context.parameters},
    )  # fmt: skip
    engine, batches = begun(task, by_score, sparsity, seed)
    engine.start(task.subject(batches()))
    weights, targets = engine.weights, engine.targets
    with scored(task, weights.tensors, lambda sizes: weights.select(sizes, targets, recipe.scope)) as scores:
        task.train(choosing)
    engine.update(0.0, batches)
    task.train(1.0 - before - choosing)
    return engine.finish(batches)
