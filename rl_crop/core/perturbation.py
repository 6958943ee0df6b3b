"""
What else acts on weights while they are trained: Bridgeout's noise, gates with an L1 penalty.

Layers compute with a function of their parameters. The parameters themselves, their names and ``state_dict`` stay what
they are, so that optimizers and files know nothing of it; when a block ends, no trace is left.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import nn
from torch.optim import Optimizer

from rl_crop.core.units import Slot, UnitGroup, module_of

Function = Callable[[th.Tensor, bool], th.Tensor]
"""What a layer computes with, of its parameter and of whether the layer is in training mode."""

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@contextmanager
def computed(model: nn.Module, functions: Iterable[tuple[str, Function]]) -> Iterator[None]:
    """
    Let layers compute with functions of their parameters for a block.

    :param model: the root module.
    :param functions: pairs of a parameter's name and its function; several for one parameter are applied in turn.
        A layer whose ``forward`` is not called (the output projection of ``nn.MultiheadAttention``) takes no notice.
    """
    modules, handles = dict(model.named_modules()), []
    for name, function in functions:
        module, attribute = modules[module_of(name)], name.rpartition(".")[2]

        def put(layer: nn.Module, inputs: Any, attribute: str = attribute, function: Function = function) -> None:
            # An entry of an instance's own dictionary is found before a registered parameter, which stays where it is.
            layer.__dict__[attribute] = function(getattr(layer, attribute), layer.training)

        def take(layer: nn.Module, inputs: Any, outputs: Any, attribute: str = attribute) -> None:
            layer.__dict__.pop(attribute, None)

        handles += [module.register_forward_pre_hook(put), module.register_forward_hook(take, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def bridgeout(model: nn.Module, names: Iterable[str], q: float = 1.5, p: float = 0.3) -> Iterator[None]:
    """
    Train with weights w + |w|^(q/2) · (b / (1 − p) − 1), b = 0 with probability p, else 1 (Batch Bridgeout).

    One draw for each call of a layer, so one a batch; in evaluation mode the weights are as they are.

    :param model: the root module.
    :param names: of the weights.
    :param q: the noise acts as a penalty on ‖w‖_q to the power q.
    :param p: probability of dropping.
    """

    def noisy(weight: th.Tensor, training: bool) -> th.Tensor:
        if not training:
            return weight
        there = weight != 0  # the root has no finite slope at zero
        power = th.where(there, weight, 1.0).abs() ** (q / 2) * there
        return weight + power * ((th.rand_like(weight) >= p) / (1.0 - p) - 1.0)

    with computed(model, [(name, noisy) for name in names]):
        yield


@contextmanager
def trained_along(optimizers: Sequence[Optimizer], pairs: Iterable[tuple[th.Tensor, th.Tensor]]) -> Iterator[None]:
    """
    Let optimizers train further tensors for a block, as they train parameters that they know.

    :param optimizers: the optimizers.
    :param pairs: of a parameter that one of them trains, and the tensor that joins its group.
    """
    joined = []
    for parameter, tensor in pairs:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                if any(parameter is own for own in group["params"]):
                    group["params"].append(tensor)
                    joined.append((optimizer, group, tensor))
    try:
        yield
    finally:
        for optimizer, group, tensor in joined:
            group["params"][:] = [own for own in group["params"] if own is not tensor]
            optimizer.state.pop(tensor, None)


def gated_slots(model: nn.Module, group: UnitGroup) -> list[Slot]:
    """:return: what a gate on each unit of a group multiplies: its norms if it has any, else what makes it."""
    modules = dict(model.named_modules())
    norms = [slot for slot in group.slots if slot.tensor.endswith(("weight", "bias"))
             and isinstance(modules.get(module_of(slot.tensor)), NORMS)]  # fmt: skip
    return norms or [slot for slot in group.slots if slot.role != "in" and slot.tensor in group.makers]


@contextmanager
def gated(model: nn.Module, groups: Iterable[UnitGroup], gates: Mapping[str, th.Tensor]) -> Iterator[None]:
    """
    Multiply every unit by a gate for a block.

    :param model: the root module.
    :param groups: its units.
    :param gates: by group name, a gate for each unit; looked up at every call of a layer.
    """

    def gate_of(slot: Slot, name: str) -> Function:
        return lambda tensor, training: tensor * _scale(slot, gates[name], tensor)

    slots = [(slot, group.name) for group in groups for slot in gated_slots(model, group)]
    with computed(model, [(slot.tensor, gate_of(slot, name)) for slot, name in slots]):
        yield


@contextmanager
def gate_l1(
    model: nn.Module, groups: Sequence[UnitGroup], optimizers: Sequence[Optimizer], strength: float
) -> Iterator[dict[str, th.Tensor]]:
    """
    Train with a gate, at first 1, on every unit, and an L1 penalty on gates; at the end they are folded into the weights.

    The penalty is a soft threshold of learning rate times strength after each step: gates become exactly zero, under Adam too.

    :param model: the root module.
    :param groups: its units.
    :param optimizers: gates are trained by the one that trains what they multiply.
    :param strength: of the penalty.
    :return: the gates by group name.
    """
    parameters = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    slots = {group.name: gated_slots(model, group) for group in groups}
    firsts = {name: parameters[own[0].tensor] for name, own in slots.items()}
    gates = {g.name: firsts[g.name].new_ones(g.n_units).requires_grad_() for g in groups}

    def shrink(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            for gate in group["params"]:
                if any(gate is own for own in gates.values()):
                    gate.data = nn.functional.softshrink(gate.data, float(group["lr"]) * strength)

    handles = [optimizer.register_step_post_hook(shrink) for optimizer in optimizers]
    try:
        with trained_along(optimizers, [(firsts[name], gate) for name, gate in gates.items()]), gated(model, groups, gates):
            yield gates
    finally:
        for handle in handles:
            handle.remove()
        with th.no_grad():
            for name, own in slots.items():
                for slot in own:
                    parameters[slot.tensor].mul_(_scale(slot, gates[name], parameters[slot.tensor]))


def _scale(slot: Slot, gate: th.Tensor, tensor: th.Tensor) -> th.Tensor:
    """One factor for each position along the slot's axis, ready to multiply the tensor: one where no unit lies."""
    ones = tensor.new_ones(tensor.shape[slot.axis])
    index = th.as_tensor(slot.index.ravel(), device=tensor.device)
    full = ones.index_put((index,), gate.to(tensor).repeat_interleave(slot.index.shape[1]))
    return full.reshape([-1 if axis == slot.axis else 1 for axis in range(tensor.dim())])
