"""What becomes of the losers where they are not gone at once: shrunk at every step, or driven to zero by a growing penalty."""

from collections.abc import Mapping

import torch as th

from rl_crop.core.masks import Keep
from rl_crop.core.plan import PruningPlan


def shrink(optimizer: th.optim.Optimizer, weights: Mapping[str, th.Tensor], keep: Keep, factor: float) -> None:
    """
    Multiply the losers among an optimizer's own weights, after its step: nothing reaches its moments, so that Adam, which
    would divide a penalty's gradient by its own size, shrinks them as SGD does.

    :param optimizer: the one that has stepped.
    :param weights: by name.
    :param keep: by name, ``True`` where a weight is left alone.
    :param factor: of the losers.
    """
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    with th.no_grad():
        for name, mask in keep.items():
            if id(weights[name]) in stepped:
                weights[name].mul_(th.where(mask, 1.0, factor).to(weights[name].dtype))


def growing_penalty(x: float, ceiling: float) -> float:
    """
    λ of growing regularisation (GReg, ICLR 2021): w ← (1 − λ) w after every step.

    The paper adds 1e-4 every few steps until λ is 1, and multiplies by the learning rate; here λ grows by the share of the
    phase that has passed, whatever the number of steps and the learning rate, so that the losers end at zero.

    :param x: how much of the phase has passed.
    :param ceiling: λ at its end.
    """
    return ceiling * min(max(x, 0.0), 1.0)


def unit_keep(plan: PruningPlan) -> dict[str, th.Tensor]:
    """:return: by parameter name, ``False`` where it belongs to what produces a unit that a plan would remove."""
    keep: dict[str, th.Tensor] = {}
    for name, tensor in plan.subject.trained.tensors.items():
        if not isinstance(tensor, th.nn.Parameter):
            continue
        for group, slot in plan.graph.slots_of(name):
            if slot.role != "in" and group.name in plan.kept_units:
                gone = th.ones(group.n_units, dtype=th.bool)
                gone[th.from_numpy(plan.kept_units[group.name])] = False
                mask = keep.setdefault(name, th.ones(tensor.shape, dtype=th.bool, device=tensor.device))
                places = th.from_numpy(slot.index)[gone].flatten()
                mask.index_fill_(slot.axis, places.to(tensor.device), False)
    return keep
