"""The outer loop of a recipe: a single run, rounds with rewinding, a population; others have modules of their own."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch as th
from torch import nn

from rl_crop.core.recipe import Recipe
from rl_crop.core.report import PruningReport
from rl_crop.core.subject import Subject


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
        Train for a share of the whole run.

        :param share: of the run's steps.
        :param after_step: called between optimizer steps with what is done of this call, from above 0 to 1.
        """

    def evaluate(self) -> float:
        """:return: how good the model is on validation data; higher is better."""

    def snapshot(self) -> Any:
        """:return: a copy of weights, buffers, optimizer state and the place in the data."""

    def restore(self, state: Any) -> None:
        """Put a snapshot back; the shapes must be those of then."""


Driver = Callable[[Task, Recipe, float, int], PruningReport]
"""Prunes and trains a task: ``driver(task, recipe, sparsity, seed)``."""

DRIVERS: dict[str, Driver] = {}
"""Drivers by name."""
