"""
An encoder of sets of observations says which units a set needs; it is learned over many sets (STAMP, 2020).

Given observations that it has not seen, it prunes for them in one forward pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch as th
from torch import nn

from rl_crop.core.importance.activations import UnitActivations
from rl_crop.core.importance.context import ImportanceContext, Saliency
from rl_crop.core.pruning.planning import trace
from rl_crop.core.pruning.report import PruningReport
from rl_crop.core.recipes.drivers import Task, begun
from rl_crop.core.recipes.perturbation import gated
from rl_crop.core.recipes.recipe import DriverOptions, Recipe
from rl_crop.core.recipes.systems.hydra import frozen
from rl_crop.core.rng import isolated_rng, undisturbed

STEPS, RATE, PENALTY, TEMPERATURE, ROWS = 300, 0.02, 2.0, 0.5, 256


class SetEncoder(nn.Module):
    """
    How much a set of observations needs each unit, from what the unit does on them; their order does not matter.

    :param widths: number of units by group name.
    :param size: of the inner layers.
    """

    def __init__(self, widths: Mapping[str, int], size: int = 16) -> None:
        super().__init__()
        self.groups = list(widths)
        self.observation = nn.Sequential(nn.Linear(1, size), nn.ReLU())
        self.unit = nn.ParameterList([nn.Parameter(th.zeros(width, 4)) for width in widths.values()])
        self.decision = nn.Sequential(nn.Linear(size + 4, size), nn.ReLU(), nn.Linear(size, 1))

    def forward(self, activations: Mapping[str, np.ndarray]) -> dict[str, th.Tensor]:
        """
        :param activations: by group name, rows (observations) by units.
        :return: logits of the probabilities to keep, by group name, a number a unit.
        """
        logits = {}
        for name, own in zip(self.groups, self.unit, strict=True):
            rows = th.as_tensor(activations[name][:: max(len(activations[name]) // ROWS, 1)]).to(own)
            rows = rows / rows.square().mean().sqrt().clamp_min(1e-12)
            pooled = self.observation(rows.unsqueeze(-1)).mean(0)
            logits[name] = self.decision(th.cat([pooled, own], -1)).squeeze(-1)
        return logits

    def criterion(self, context: ImportanceContext) -> Saliency:
        """The encoder as a criterion: of the scoring batches."""
        with th.no_grad():
            return {name: logits.sigmoid() for name, logits in self(context.activations()).items()}


def learn_encoder(task: Task, subsets: Sequence[Any], sparsity: float, seed: int) -> SetEncoder:
    """
    Learn what sets of observations need, with the weights as they are.

    A set at a time, units are dropped at random with the encoder's probabilities (a concrete relaxation). Minimised are
    the loss on the set (in units of that with all units at the share asked for) and the square by which the share kept
    misses it.

    :param task: whose model is to be pruned.
    :param subsets: batches, each a set.
    :param sparsity: the share of units to drop.
    :param seed: of everything random.
    :return: the encoder.
    """
    subject = task.subject(subsets[:1])
    graph = trace(subject)
    groups = list(graph.groups.values())
    with isolated_rng(seed), undisturbed(task.model), frozen(task.model.parameters()):
        seen = [UnitActivations(task.subject([subset]), graph)() for subset in subsets]
        encoder = SetEncoder({group.name: group.n_units for group in groups})
        optimizer = th.optim.Adam(encoder.parameters(), lr=RATE)
        gates = {group.name: th.full((group.n_units,), 1.0 - sparsity) for group in groups}
        with gated(subject, groups, gates):
            with th.no_grad():
                first = [float(task.loss(task.model, subset)) for subset in subsets]
            scale = max(abs(float(np.mean(first))), 1e-12)
            for step in range(STEPS):
                number = step % len(subsets)
                logits = encoder(seen[number])
                for name, logit in logits.items():
                    noise = th.rand_like(logit).clamp(1e-6, 1 - 1e-6).logit()
                    gates[name] = ((logit + noise) / TEMPERATURE).sigmoid()
                kept = th.cat([logit.sigmoid() for logit in logits.values()]).mean()
                missed = (kept - (1.0 - sparsity)) ** 2
                loss = task.loss(task.model, subsets[number]) / scale + PENALTY * missed
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return encoder


def meta(task: Task, recipe: Recipe, sparsity: float, seed: int) -> PruningReport:
    """
    Train until ``recipe.when``, learn an encoder over batches, prune by what it says of the batches at hand, train on.
    """
    task.train(before := float(recipe.when))
    subsets = task.batches(recipe.of(DriverOptions).n_subsets)
    encoder = learn_encoder(task, subsets, sparsity, seed)
    engine, batches = begun(task, replace(recipe, driver="single", when=0.0, criterion=encoder.criterion), sparsity, seed)
    engine.update(0.0, batches)
    task.train(1.0 - before)
    return engine.finish(batches)
