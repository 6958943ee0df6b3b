"""What a criterion may look at, and how its saliencies of parameters become scores of units."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import Group
from rl_crop.core.importance.curvature import BatchLoss, gradient, hessian_gradient_product
from rl_crop.core.importance.received import Received

GRADIENT_FREE = ("magnitude", "random", "span", "obs", "synflow", "unit_norm", "filter_l1", "filter_l2", "relative_change")
"""Criteria that need no loss."""


_PART = 2**15  # elements; see sum_over_slices


@dataclass(frozen=True)
class ImportanceContext:
    """
    Everything that a criterion may look at; what is costly is computed when it is first asked for.

    :param groups: the units of one network; none where single weights are scored.
    :param parameters: the parameters (and the weights that are buffers) they lie in, by name.
    :param loss: scalar loss of a batch, or ``None``.
    :param batches: the scoring batches.
    :param forward_on_ones: runs every network of the model on one observation of ones; returns all outputs.
    :param activations: returns, by group, what consumers receive from each unit: rows by units.
    :param seed: of everything random.
    :param tensors: all parameters and buffers that the networks compute with, by name.
    :param initial: the parameters' initial values by name, ``None`` where nobody kept them.
    :param dense: the parameters' values without masks by name, ``None`` where nothing is masked.
    :param keep: where single weights are scored, a boolean mask of each by name (``True`` is kept); ``None`` for units.
    :param received: returns, by group, the second moments of what its consumers receive.
    """

    groups: Sequence[Group]
    parameters: Mapping[str, th.Tensor]
    loss: BatchLoss | None
    batches: Sequence[Any]
    forward_on_ones: Callable[[], Any]
    activations: Callable[[], dict[str, np.ndarray]]
    seed: int
    tensors: Mapping[str, th.Tensor] = field(default_factory=dict)
    initial: Mapping[str, th.Tensor] | None = None
    dense: Mapping[str, th.Tensor] | None = None
    keep: Mapping[str, th.Tensor] | None = None
    received: Callable[[Sequence[Group]], Mapping[str, Sequence[Received]]] = field(default=lambda groups: {})

    @property
    def values(self) -> list[th.Tensor]:
        """The parameters, in order."""
        return list(self.parameters.values())

    def required_loss(self) -> BatchLoss:
        """
        :return: the loss.
        :raises PruningError: there is none, or no batch.
        """
        if self.loss is None or not self.batches:
            raise PruningError(
                f"This criterion needs a gradient: give a loss and batches, or use one without ({', '.join(GRADIENT_FREE)})."
            )
        return self.loss

    @cached_property
    def gradient(self) -> dict[str, th.Tensor]:
        """The gradient g of the loss summed over the batches, by parameter name."""
        return dict(zip(self.parameters, gradient(self.required_loss(), self.values, self.batches, self.seed), strict=True))

    @cached_property
    def hessian_gradient(self) -> dict[str, th.Tensor]:
        """The Hessian-gradient product Hg over the same batches, by parameter name; g is zero where weights are masked."""
        keep = self.keep or {}
        vector = [g.masked_fill(~keep[name], 0) if name in keep else g for name, g in self.gradient.items()]
        product = hessian_gradient_product(self.required_loss(), self.values, self.batches, vector, seed=self.seed)
        return dict(zip(self.parameters, product, strict=True))

    def weights(self) -> dict[str, th.Tensor]:
        """:return: the linear and convolution weights among the parameters."""
        if self.keep is not None:
            return dict(self.parameters)
        names = {slot.tensor for group in self.groups for slot in group.slots if slot.role != "along"}
        return {name: tensor for name, tensor in self.parameters.items() if name in names}


Saliency = Mapping[str, th.Tensor] | Mapping[str, np.ndarray]
Criterion = Callable[[ImportanceContext], Saliency]


def unit_scores(saliency: Saliency, groups: Sequence[Group]) -> dict[str, np.ndarray]:
    """
    Sum saliencies over all slices of each unit, incoming and outgoing (scores by group pass through).

    :param saliency: what a criterion returned.
    :param groups: the groups to score.
    :return: by group name, float64 of shape (n_units,).
    :raises PruningError: a score is missing, not finite, or of the wrong shape.
    """
    if not isinstance(saliency, Mapping):
        raise PruningError(f"A criterion must return a mapping from names to scores, not {type(saliency).__name__}.")
    scores = {}
    for group in groups:
        if group.name in saliency:
            given: Any = saliency[group.name]
            score = np.asarray(given.detach().cpu() if isinstance(given, th.Tensor) else given, dtype=np.float64)
        else:
            score = np.zeros(group.n_units)
            for slot in group.slots:
                if slot.tensor in saliency:
                    try:
                        score += sum_over_slices(th.as_tensor(saliency[slot.tensor]), slot.axis, slot.index)
                    except (IndexError, TypeError) as error:
                        raise PruningError(f"The criterion's score of {slot.tensor!r} has another shape than it.") from error
                elif slot.role != "along":
                    raise PruningError(f"The criterion returned no score for {slot.tensor!r}.")
        if score.shape != (group.n_units,) or not np.isfinite(score).all():
            raise PruningError(f"The criterion's scores of {group.name!r} must be {group.n_units} finite numbers.")
        scores[group.name] = score
    return scores


def sum_over_slices(element: th.Tensor, axis: int, index: np.ndarray) -> np.ndarray:
    """:return: the sum over everything that lies at a unit's positions along an axis (a slot's), a number a unit."""
    others = [place for place in range(element.dim()) if place != axis]
    element = element.detach()
    if not others:
        return element.double().cpu().numpy()[index].sum(1)
    # In parts, as in double precision the whole of a large layer takes as much memory again as it and its gradient.
    parts = element.split(max(1, _PART * element.shape[axis] // max(1, element.numel())), axis)
    return th.cat([part.double().sum(others) for part in parts]).cpu().numpy()[index].sum(1)
