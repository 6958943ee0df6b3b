"""Networks with several exits, and pruning them group by group ("Pruning Early-Exit Networks", 2022)."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch as th
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.masking.distributions import n_kept
from rl_crop.core.model import Subject
from rl_crop.core.pruning.report import PruningReport
from rl_crop.core.pruning.schedules import gradual_sparsities
from rl_crop.core.recipes.drivers import Task, begun
from rl_crop.core.recipes.recipe import DriverOptions, Recipe


class MultiExit(nn.Module):
    """
    A classifier that can answer after each of its stages.

    :param stages: applied one after the other.
    :param exits: one a stage, each from what the stage returns to logits.
    """

    def __init__(self, stages: Iterable[nn.Module], exits: Iterable[nn.Module]) -> None:
        super().__init__()
        self.stages, self.exits = nn.ModuleList(stages), nn.ModuleList(exits)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """:return: the logits of every exit, shape (observations, exits, classes)."""
        outputs = []
        for stage, leave in zip(self.stages, self.exits, strict=True):
            x = stage(x)
            outputs.append(leave(x))
        return th.stack(outputs, 1)

    @th.no_grad()
    def predict(self, x: th.Tensor, confidence: float) -> tuple[th.Tensor, th.Tensor]:
        """
        Answer at the first exit that is sure enough; later stages only see the observations that are left.

        :param x: observations.
        :param confidence: the probability of the likeliest class that an exit needs; the last one always answers.
        :return: logits, and the number of the exit taken, by observation.
        """
        rows, left, pieces = th.arange(len(x), device=x.device), len(self.exits), []
        for number, (stage, leave) in enumerate(zip(self.stages, self.exits, strict=True)):
            x = stage(x)
            logits, left = leave(x), left - 1
            sure = logits.softmax(-1).amax(-1) >= (confidence if left else 0.0)
            pieces.append((rows[sure], logits[sure], th.full_like(rows[sure], number)))
            x, rows = x[~sure], rows[~sure]
        rows, answers, exits = (th.cat(parts) for parts in zip(*pieces, strict=True))
        order = rows.argsort()
        return answers[order], exits[order]


def in_groups(subject: Subject, prefixes: Sequence[str]) -> Subject:
    """
    Divide networks, so that each part has a budget of its own.

    :param subject: with the networks as its task names them.
    :param prefixes: modules by name; their parameters make a part of that name, what is left keeps its network's name.
    :raises PruningError: a prefix fits no parameter of a network, or those of two.
    """
    networks = []
    for network in subject.networks:
        left = network.parameters
        for prefix in prefixes:
            own = frozenset(name for name in left if name.startswith(f"{prefix}."))
            networks += [replace(network, name=prefix, parameters=own)] if own else []
            left -= own
        networks += [replace(network, parameters=left)] if left else []
    names = [network.name for network in networks]
    wrong = [prefix for prefix in prefixes if names.count(prefix) != 1]
    if wrong:
        raise PruningError(f"groups names {wrong}, which must each be a module with parameters of one network.")
    return replace(subject, networks=tuple(networks))


def phases(task: Task, recipe: Recipe, sparsity: float, seed: int) -> PruningReport:
    """
    Train, then prune one group of parameters after the other, in rounds with training after each.

    Groups are the recipe's option ``groups``, else the task's networks. Every group reaches the sparsity, the last one what
    the total still needs. ``recipe.when`` is the share of the run that comes before; the rounds share the rest evenly.
    """

    def subject_of(batches: Sequence[Any]) -> Subject:
        return in_groups(task.subject(batches), recipe.of(DriverOptions).groups)

    task.train(before := float(recipe.when))
    n_rounds = recipe.of(DriverOptions).n_rounds
    recipe = replace(recipe, when=0.0)
    engine, batches = begun(task, recipe, sparsity, seed, subject_of)
    engine.start(subject_of(batches()))
    engine.detach()
    sizes = {name: sum(tensor.numel() for tensor in engine.weights.within(name).values()) for name in engine.weights.names}
    *others, last = sizes
    rest = n_kept(sum(sizes.values()), sparsity) - sum(n_kept(sizes[name], sparsity) for name in others)
    done = dict.fromkeys(sizes, 0.0)
    for name in sizes:
        for due in gradual_sparsities(1.0 - rest / sizes[last] if name == last else sparsity, n_rounds):
            done[name] = due
            engine, batches = begun(task, recipe, done, seed, subject_of)
            engine.update(0.0, batches)
            engine.detach()
            task.train((1.0 - before) / (len(sizes) * n_rounds))
    return engine.finish(batches)
