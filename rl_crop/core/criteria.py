"""
Criteria: how much each parameter, or each unit, matters.

A criterion is a function of a :class:`Scoring`. It returns saliencies by parameter name (tensors of the
parameter's shape, which are then summed over all slices of a unit) or scores by group name (one a unit).
The lowest are cut first. ``CRITERIA[name] = function`` adds one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch as th

from rl_crop.core.curvature import BatchLoss, gradient, hessian_gradient_product
from rl_crop.core.errors import PruningError
from rl_crop.core.redundancy import pivoted_energies
from rl_crop.core.tracing import tensors_in
from rl_crop.core.units import UnitGroup


@dataclass(frozen=True)
class Scoring:
    """
    Everything that a criterion may look at; what is costly is computed when it is first asked for.

    :param groups: the units of one network.
    :param parameters: the parameters (and the weights that are buffers) they lie in, by name.
    :param loss: scalar loss of a batch, or ``None``.
    :param batches: the scoring batches.
    :param forward_on_ones: runs every network of the model on one observation of ones; returns all outputs.
    :param activations: returns, by group, what consumers receive from each unit: rows by units.
    :param seed: of everything random.
    """

    groups: Sequence[UnitGroup]
    parameters: Mapping[str, th.Tensor]
    loss: BatchLoss | None
    batches: Sequence[Any]
    forward_on_ones: Callable[[], Any]
    activations: Callable[[], dict[str, np.ndarray]]
    seed: int

    @property
    def _tensors(self) -> list[th.Tensor]:
        return list(self.parameters.values())

    def _loss(self) -> BatchLoss:
        if self.loss is None or not self.batches:
            raise PruningError(
                f"This criterion needs a gradient: give a loss and batches, or use one without ({', '.join(GRADIENT_FREE)})."
            )
        return self.loss

    @cached_property
    def gradient(self) -> dict[str, th.Tensor]:
        """The gradient g of the loss summed over the batches, by parameter name."""
        return dict(zip(self.parameters, gradient(self._loss(), self._tensors, self.batches, self.seed), strict=True))

    @cached_property
    def hessian_gradient(self) -> dict[str, th.Tensor]:
        """The Hessian-gradient product Hg over the same batches, by parameter name."""
        vector = list(self.gradient.values())
        product = hessian_gradient_product(self._loss(), self._tensors, self.batches, vector, seed=self.seed)
        return dict(zip(self.parameters, product, strict=True))

    def weights(self) -> dict[str, th.Tensor]:
        """:return: the linear and convolution weights among the parameters."""
        names = {slot.tensor for group in self.groups for slot in group.slots if slot.role != "along"}
        return {name: tensor for name, tensor in self.parameters.items() if name in names}


Saliency = Mapping[str, th.Tensor] | Mapping[str, np.ndarray]
Criterion = Callable[[Scoring], Saliency]


def crop(scoring: Scoring) -> Saliency:
    """|θ ⊙ Hg|: the change of the gradient flow gᵀg when the parameter is removed, to first order (CroP, ICML 2022)."""
    return {name: (tensor.detach() * scoring.hessian_gradient[name]).abs() for name, tensor in scoring.parameters.items()}


def crop_gate(scoring: Scoring) -> Saliency:
    """
    |∂/∂c gᵀg(c)| for a gate c = 1 on each unit's pre-activation, g over weights (the released code's structured form).

    By the product rule this is |Σ_j W_ij (Hg)_ij + b_i (H_b g)_i + Σ_j g_ij²|, so no gates are built.
    """
    weights = scoring.weights()
    loss, seed = scoring._loss(), scoring.seed
    flow = dict(zip(weights, gradient(loss, list(weights.values()), scoring.batches, seed), strict=True))
    product = hessian_gradient_product(
        loss, list(weights.values()), scoring.batches, list(flow.values()), scoring._tensors, seed
    )
    curvature = dict(zip(scoring.parameters, product, strict=True))
    scores = {}
    for group in scoring.groups:
        total = np.zeros(group.n_units)
        producers = group.tensors("out")
        biases = {name.rpartition(".")[0] + ".bias" for name in producers}
        for slot in group.slots:
            if slot.role == "out" or slot.tensor in biases:
                element = scoring.parameters[slot.tensor].detach() * curvature[slot.tensor]
                if slot.tensor in flow:
                    element = element + flow[slot.tensor] ** 2
                total += _sum_over_slices(element, slot.axis, slot.index)
        scores[group.name] = np.abs(total)
    return scores


def snip(scoring: Scoring) -> Saliency:
    """|θ ⊙ g|: the change of the loss when the parameter is removed, to first order (SNIP, ICLR 2019)."""
    return {name: (tensor.detach() * scoring.gradient[name]).abs() for name, tensor in scoring.parameters.items()}


def grasp(scoring: Scoring) -> Saliency:
    """θ ⊙ Hg with its sign: what goes first is what lowers the gradient norm least or raises it (GraSP, ICLR 2020)."""
    return {name: tensor.detach() * scoring.hessian_gradient[name] for name, tensor in scoring.parameters.items()}


def magnitude(scoring: Scoring) -> Saliency:
    """|θ|."""
    return {name: tensor.detach().abs() for name, tensor in scoring.parameters.items()}


def random(scoring: Scoring) -> Saliency:
    """Uniform scores: the control that every criterion has to beat."""
    generator = np.random.default_rng(scoring.seed)
    return {group.name: generator.random(group.n_units) for group in scoring.groups}


def synflow(scoring: Scoring) -> Saliency:
    """|θ ∂R/∂θ| for R the summed outputs of the network with |θ| on inputs of ones: data-free (SynFlow, NeurIPS 2020)."""
    tensors = {name: tensor for name, tensor in scoring.parameters.items() if tensor.is_floating_point()}
    kept = {name: (tensor.data, tensor.requires_grad) for name, tensor in tensors.items()}
    try:
        for name, tensor in tensors.items():
            tensor.data = kept[name][0].abs()
            tensor.requires_grad_(True)
        with th.enable_grad():
            outputs = [out for out in tensors_in(scoring.forward_on_ones()) if out.requires_grad]
            if not outputs:
                raise PruningError("synflow: the outputs do not depend on any parameter.")
            flow = th.stack([out.sum() for out in outputs]).sum()
            grads = th.autograd.grad(flow, list(tensors.values()), allow_unused=True)
        saliency = {name: th.zeros_like(tensor) for name, tensor in scoring.parameters.items()}
        flows = {
            name: (t.data * grad).abs() for (name, t), grad in zip(tensors.items(), grads, strict=True) if grad is not None
        }
        return saliency | flows
    finally:
        for name, tensor in tensors.items():
            tensor.data, tensor.requires_grad = kept[name]


def span(scoring: Scoring) -> Saliency:
    """
    The share of its layer's signal that only this unit adds to the units already picked.

    Units are picked by column-pivoted QR on their centred activations times the norm of their consumers' weights.
    Needs no gradient. (rl_crop's own.)
    """
    scores = {}
    for group in scoring.groups:
        activations = scoring.activations()[group.name]
        energies = pivoted_energies((activations - activations.mean(0)) * np.sqrt(_consumer_energy(scoring, group)))
        scores[group.name] = energies / max(energies.sum(), np.finfo(float).tiny)
    return scores


def span_crop(scoring: Scoring) -> Saliency:
    """
    The unit's ``crop`` score times the share of its variance that the units already picked do not reproduce.

    Column-pivoted QR on activations standardised to unit variance, scaled by the square root of the ``crop`` score:
    gradient flow says what matters, the QR what is redundant. (rl_crop's own.)
    """
    importance = unit_scores(crop(scoring), scoring.groups)
    scores = {}
    for group in scoring.groups:
        activations = scoring.activations()[group.name]
        centred = activations - activations.mean(0)
        deviation = np.sqrt((centred**2).mean(0))
        # A constant unit carries nothing that a bias cannot: it stays a column of zeros.
        standardised = centred / np.where(deviation > 1e-8 * max(deviation.max(), 1e-30), deviation, np.inf)
        scores[group.name] = pivoted_energies(standardised * np.sqrt(importance[group.name] / len(activations)))
    return scores


CRITERIA: dict[str, Criterion] = {
    function.__name__: function for function in (crop, crop_gate, snip, grasp, synflow, magnitude, random, span, span_crop)
}
"""Criteria by name."""

GRADIENT_FREE = ("magnitude", "random", "span", "synflow")
"""Criteria that need no loss."""
SPANNING = frozenset({"span", "span_crop"})
"""Criteria that look at activations, so that they only rank whole units."""


def resolve_criterion(criterion: str | Criterion) -> Criterion:
    """
    :param criterion: a name in :data:`CRITERIA`, or a function of one's own.
    :return: the function.
    :raises PruningError: the name is unknown.
    """
    if callable(criterion):
        return criterion
    if not isinstance(criterion, str) or criterion not in CRITERIA:
        raise PruningError(f"Unknown criterion {criterion!r}: use one of {sorted(CRITERIA)}, or a function.")
    return CRITERIA[criterion]


def unit_scores(saliency: Saliency, groups: Sequence[UnitGroup]) -> dict[str, np.ndarray]:
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
                        score += _sum_over_slices(th.as_tensor(saliency[slot.tensor]), slot.axis, slot.index)
                    except (IndexError, TypeError) as error:
                        raise PruningError(f"The criterion's score of {slot.tensor!r} has another shape than it.") from error
                elif slot.role != "along":
                    raise PruningError(f"The criterion returned no score for {slot.tensor!r}.")
        if score.shape != (group.n_units,) or not np.isfinite(score).all():
            raise PruningError(f"The criterion's scores of {group.name!r} must be {group.n_units} finite numbers.")
        scores[group.name] = score
    return scores


def _sum_over_slices(element: th.Tensor, axis: int, index: np.ndarray) -> np.ndarray:
    others = [place for place in range(element.dim()) if place != axis]
    sums = element.detach().double().sum(others) if others else element.detach().double()
    return sums.cpu().numpy()[index].sum(1)


def _consumer_energy(scoring: Scoring, group: UnitGroup) -> np.ndarray:
    """Squared norm of the weights through which the consumers receive each unit."""
    total = np.zeros(group.n_units)
    for slot in group.slots:
        if slot.role == "in":
            total += _sum_over_slices(scoring.parameters[slot.tensor].detach() ** 2, slot.axis, slot.index)
    return total
