"""
Criteria: how much each parameter, or each unit, matters.

A criterion is a function of a :class:`~rl_crop.core.importance.context.ImportanceContext`. It returns saliencies by
parameter name (tensors of its shape, which are then summed over all slices of a unit) or scores by group name (one a unit).
The lowest are cut first. ``CRITERIA[name] = function`` adds one.
"""

from collections.abc import Callable, Container, Mapping

import numpy as np
import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import Group
from rl_crop.core.importance.context import GRADIENT_FREE, Criterion, ImportanceContext, Saliency, sum_over_slices, unit_scores
from rl_crop.core.importance.curvature import gradient, hessian_gradient_product
from rl_crop.core.importance.obs import errors_along, readers_of, removal_order
from rl_crop.core.importance.redundancy import pivoted_energies
from rl_crop.core.importance.synflow import synflow


def crop(context: ImportanceContext) -> Saliency:
    """|θ ⊙ Hg|: the change of the gradient flow gᵀg when the parameter is removed, to first order (CroP, ICML 2022)."""
    return {name: (tensor.detach() * context.hessian_gradient[name]).abs_() for name, tensor in context.parameters.items()}


def crop_gate(context: ImportanceContext) -> Saliency:
    """
    |∂/∂c gᵀg(c)| for a gate c = 1 on each unit's pre-activation, g over weights (the released code's structured form).

    By the product rule this is |Σ_j W_ij (Hg)_ij + b_i (H_b g)_i + Σ_j g_ij²|, so no gates are built.
    """
    weights = context.weights()
    loss, seed = context.required_loss(), context.seed
    flow = dict(zip(weights, gradient(loss, list(weights.values()), context.batches, seed), strict=True))
    product = hessian_gradient_product(
        loss, list(weights.values()), context.batches, list(flow.values()), context.values, seed
    )
    curvature = dict(zip(context.parameters, product, strict=True))
    elements = {
        name: tensor.detach() * curvature[name] + (flow[name] ** 2 if name in flow else 0.0)
        for name, tensor in context.parameters.items()
    }
    return {group.name: np.abs(_pre_activation(group, elements)) for group in context.groups}


def snap(context: ImportanceContext) -> Saliency:
    """
    |∂L/∂c| for a gate c = 1 on each unit's pre-activation: SNIP's saliency of a whole unit (SNAP, 2020).

    This is |Σ_j W_ij g_ij + b_i g_i|, so no gates are built.
    """
    elements = {name: tensor.detach() * context.gradient[name] for name, tensor in context.parameters.items()}
    return {group.name: np.abs(_pre_activation(group, elements)) for group in context.groups}


def taylor(context: ImportanceContext) -> Saliency:
    """
    (Σ θ g)² over what produces the unit, by batch, summed over batches (PaT, "When to Prune?", CVPR 2022).

    The first-order change of a batch's loss when weights, bias and norm of the unit are zero; squared before batches
    are summed, so that their signs do not cancel.
    """
    loss = context.required_loss()
    scores = {group.name: np.zeros(group.n_units) for group in context.groups}
    for number, batch in enumerate(context.batches):
        flow = gradient(loss, context.values, [batch], context.seed + number)
        elements = {name: t.detach() * g for (name, t), g in zip(context.parameters.items(), flow, strict=True)}
        for group in context.groups:
            scores[group.name] += _over_slots(group, elements, ("out", "along")) ** 2
    return scores


def snip(context: ImportanceContext) -> Saliency:
    """|θ ⊙ g|: the change of the loss when the parameter is removed, to first order (SNIP, ICLR 2019)."""
    return {name: (tensor.detach() * context.gradient[name]).abs_() for name, tensor in context.parameters.items()}


def grasp(context: ImportanceContext) -> Saliency:
    """θ ⊙ Hg with its sign: what goes first is what lowers the gradient norm least or raises it (GraSP, ICLR 2020)."""
    return {name: tensor.detach() * context.hessian_gradient[name] for name, tensor in context.parameters.items()}


def magnitude(context: ImportanceContext) -> Saliency:
    """|θ|."""
    return {name: tensor.detach().abs() for name, tensor in context.parameters.items()}


def unit_norm(context: ImportanceContext) -> Saliency:
    """‖w‖₂ / √n over the n incoming weights of the unit (PaT, "When to Prune?", CVPR 2022)."""
    return {
        group.name: np.sqrt(_incoming(context, group, th.square) / _incoming(context, group, th.ones_like))
        for group in context.groups
    }


def filter_l1(context: ImportanceContext) -> Saliency:
    """‖w‖₁ of the unit's incoming weights ("Pruning Filters for Efficient ConvNets", ICLR 2017)."""
    return {group.name: _incoming(context, group, th.abs) for group in context.groups}


def filter_l2(context: ImportanceContext) -> Saliency:
    """‖w‖₂ of the unit's incoming weights."""
    return {group.name: np.sqrt(_incoming(context, group, th.square)) for group in context.groups}


def force(context: ImportanceContext) -> Saliency:
    """|θ ⊙ g|, θ without masks and g of the masked network, so that masked weights may return (FORCE, ICLR 2021)."""
    dense = context.parameters if context.dense is None else context.dense
    return {name: (dense[name].detach() * g).abs_() for name, g in context.gradient.items()}


def relative_change(context: ImportanceContext) -> Saliency:
    """
    |w − w₀| / |w₀| of weights ("What to prune and what not to prune at initialization").

    :raises PruningError: the initial weights are not known.
    """
    if context.initial is None:
        raise PruningError("relative_change compares with the initial weights, which only a recipe keeps: use run_recipe.")
    start = {name: context.initial[name].to(tensor) for name, tensor in context.weights().items()}
    tiny = th.finfo(th.float32).tiny
    return {name: (context.parameters[name].detach() - w0).abs() / w0.abs().clamp_min(tiny) for name, w0 in start.items()}


def random(context: ImportanceContext) -> Saliency:
    """Uniform scores: the control that every criterion has to beat."""
    generator = np.random.default_rng(context.seed)
    if context.keep is not None:
        return {name: th.from_numpy(generator.random(tuple(tensor.shape))) for name, tensor in context.parameters.items()}
    return {group.name: generator.random(group.n_units) for group in context.groups}


def span(context: ImportanceContext) -> Saliency:
    """
    The share of its layer's signal that only this unit adds to the units already picked.

    Units are picked by column-pivoted QR on their centred activations times the norm of their consumers' weights.
    Needs no gradient. (rl_crop's own.)
    """
    scores = {}
    for group in context.groups:
        activations = context.activations()[group.name]
        energies = pivoted_energies((activations - activations.mean(0)) * np.sqrt(_consumer_energy(context, group)))
        scores[group.name] = energies / max(energies.sum(), np.finfo(float).tiny)
    return scores


def span_crop(context: ImportanceContext) -> Saliency:
    """
    The unit's ``crop`` score times the share of its variance that the units already picked do not reproduce.

    Column-pivoted QR on activations standardised to unit variance, scaled by the square root of the ``crop`` score:
    gradient flow says what matters, the QR what is redundant. (rl_crop's own.)
    """
    importance = unit_scores(crop(context), context.groups)
    scores = {}
    for group in context.groups:
        activations = context.activations()[group.name]
        centred = activations - activations.mean(0)
        deviation = np.sqrt((centred**2).mean(0))
        # A constant unit carries nothing that a bias cannot: it stays a column of zeros.
        centred /= np.where(deviation > 1e-8 * max(deviation.max(), 1e-30), deviation, np.inf)
        centred *= np.sqrt(importance[group.name] / len(activations))
        scores[group.name] = pivoted_energies(centred)
    return scores


def obs(context: ImportanceContext) -> Saliency:
    """
    What consumers no longer compute once the unit goes too, after those that cost less, and what is left is refitted.

    A share of the variance of what they compute: structured Optimal Brain Surgeon on what a layer receives (OBC, NeurIPS 2022;
    ZipLM, NeurIPS 2023).
    """
    return _losses(context, {})


def obs_crop(context: ImportanceContext) -> Saliency:
    """
    ``obs``, an output's error counting by the ``crop`` score of the weights that make it: errors count where gradient flow is.
    (rl_crop's own.)
    """
    saliency = crop(context)
    consumers = {name for group in context.groups for name in group.tensors("in")}
    flow = {name: th.as_tensor(saliency[name]).flatten(1).sum(1).double().cpu().numpy() for name in consumers}
    return _losses(context, {name: score for name, score in flow.items() if score.any()})  # none where weights are frozen


CRITERIA: dict[str, Criterion] = {
    function.__name__: function
    for function in (
        crop, crop_gate, snip, snap, grasp, force, taylor, synflow, magnitude, unit_norm, filter_l1, filter_l2,
        relative_change, random, span, span_crop, obs, obs_crop,
    )
}  # fmt: skip
"""Criteria by name."""

SPANNING = frozenset({"span", "span_crop", "obs", "obs_crop"})
"""Criteria that look at activations, so that they only rank whole units."""
ERRORS = frozenset({"obs", "obs_crop"})
"""Criteria whose scores are errors that add up, so that they count by what a unit's removal saves."""
BY_UNIT = SPANNING | {"crop_gate", "snap", "taylor", "unit_norm", "filter_l1", "filter_l2"}
"""Criteria that have no score for a single weight."""


REPAIRED, WITHOUT_GRADIENT, PLAIN = "obs_crop", "obs", "crop"
"""Criteria where none is given: of a cut that is refitted; the same without a loss; of a plain cut, and of masks."""


def default_criterion(structured: bool, compensation: str) -> str:
    """:return: the criterion where none is given: one that knows the repair, where there is one."""
    return REPAIRED if structured and compensation in ("least_squares", "distill") else PLAIN


def needs_data(criterion: str | Criterion) -> bool:
    """:return: whether a criterion looks at batches, as far as is known."""
    return not isinstance(criterion, str) or criterion not in GRADIENT_FREE or criterion in SPANNING


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


def _over_slots(group: Group, elements: Mapping[str, th.Tensor], roles: Container[str]) -> np.ndarray:
    total = np.zeros(group.n_units)
    for slot in group.slots:
        if slot.role in roles and slot.tensor in elements:
            total += sum_over_slices(elements[slot.tensor], slot.axis, slot.index)
    return total


def _pre_activation(group: Group, elements: Mapping[str, th.Tensor]) -> np.ndarray:
    """The sum over the weights and the bias that make each unit's pre-activation."""
    return _over_slots(group, {name: element for name, element in elements.items() if name in group.makers}, ("out", "along"))


def _incoming(context: ImportanceContext, group: Group, of: Callable[[th.Tensor], th.Tensor]) -> np.ndarray:
    """The sum of a function of the weights that make each unit."""
    return _over_slots(group, {name: of(context.parameters[name].detach()) for name in group.tensors("out")}, ("out",))


def _losses(context: ImportanceContext, importance: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By group, what is lost with each unit, in the order of removal; made to increase along it, so that ranks follow it."""
    received, scores = context.received(context.groups), {}
    for group in context.groups:
        readers = readers_of(group, received[group.name], context.parameters, importance)
        if not readers:
            scores[group.name] = np.zeros(group.n_units)  # what reads them cannot be looked at
            continue
        order = removal_order(readers)
        scores[group.name] = np.empty(group.n_units)
        score = 0.0
        for unit, increment in zip(order, np.diff(errors_along(readers, order)), strict=True):
            scores[group.name][unit] = score = max(increment, np.nextafter(score, np.inf))
    return scores


def _consumer_energy(context: ImportanceContext, group: Group) -> np.ndarray:
    """Squared norm of the weights through which the consumers receive each unit."""
    return _over_slots(group, {name: context.parameters[name] ** 2 for name in group.tensors("in")}, ("in",))
