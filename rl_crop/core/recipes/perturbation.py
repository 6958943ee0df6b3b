"""
What else acts on weights while they are trained: Bridgeout's noise, gates with an L1 penalty.

Layers compute with a function of their parameters. The parameters themselves, their names and ``state_dict`` stay what
they are, so that optimizers and files know nothing of it; when a block ends, no trace is left.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from rl_crop.core.graph.groups import Group, Slot, module_of, named_tensors
from rl_crop.core.model import Subject

PERTURBATIONS = ("none", "bridgeout", "gate_l1")
"""Names: :func:`bridgeout` acts while an engine runs, :func:`gate_l1` in the driver ``"tick_tock"``."""

Function = Callable[[th.Tensor, bool], th.Tensor]
"""What a layer computes with, of its parameter and of whether the layer is in training mode."""


@contextmanager
def computed(modules: Iterable[nn.Module], functions: Iterable[tuple[th.Tensor, Function]]) -> Iterator[None]:
    """
    Let layers compute with functions of their parameters for a block.

    :param modules: where the layers are.
    :param functions: pairs of a parameter (or buffer) and its function; several for one parameter are applied in turn.
        A layer whose ``forward`` is not called (the output projection of ``nn.MultiheadAttention``) takes no notice.
    """
    owners: dict[int, dict[tuple[int, str], nn.Module]] = defaultdict(dict)  # tied weights have several
    for module in modules:
        for layer in module.modules():
            for name, tensor in [*layer._parameters.items(), *layer._buffers.items()]:
                owners[id(tensor)][id(layer), name] = layer
    handles: list[RemovableHandle] = []
    for (_, name), layer, function in [(*owner, function) for t, function in functions for owner in owners[id(t)].items()]:

        def put(layer: nn.Module, inputs: Any, name: str = name, function: Function = function) -> None:
            # An entry of an instance's own dictionary is found before a registered parameter, which stays where it is.
            layer.__dict__[name] = function(getattr(layer, name), layer.training)

        def take(layer: nn.Module, inputs: Any, outputs: Any, name: str = name) -> None:
            layer.__dict__.pop(name, None)

        # The layer holds its handles: those of a dead run, collected with it, would no longer know where they are registered.
        put.handles = handles  # type: ignore[attr-defined]
        handles += [layer.register_forward_pre_hook(put), layer.register_forward_hook(take, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def bridgeout(
    model: nn.Module, names: Iterable[str], q: float = 1.5, p: float = 0.3, running: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """
    Train with weights w + |w|^(q/2) · (b / (1 − p) − 1), b = 0 with probability p, else 1 (Batch Bridgeout).

    One draw for each call of a layer, so one a batch; in evaluation mode the weights are as they are.

    :param model: the root module.
    :param names: of the weights.
    :param q: the noise acts as a penalty on ‖w‖_q to the power q.
    :param p: probability of dropping.
    :param running: whether there is noise; without, the weights are as they are.
    """

    def noisy(weight: th.Tensor, training: bool) -> th.Tensor:
        if not training or not running():
            return weight
        there = weight != 0  # the root has no finite slope at zero
        power = th.where(there, weight, 1.0).abs() ** (q / 2) * there
        return weight + power * ((th.rand_like(weight) >= p) / (1.0 - p) - 1.0)

    tensors = named_tensors(model)
    with computed([model], [(tensors[name], noisy) for name in names]):
        yield


@contextmanager
def trained_along(optimizers: Sequence[Optimizer], pairs: Iterable[tuple[th.Tensor, th.Tensor]]) -> Iterator[None]:
    """
    Let optimizers train further tensors for a block, as they train parameters that they know.

    :param optimizers: the optimizers.
    :param pairs: of a parameter that one of them trains, and the tensor that joins its group.
    """
    joined = [
        (optimizer, group, tensor)
        for parameter, tensor in pairs
        for optimizer in optimizers
        for group in optimizer.param_groups
        if any(parameter is own for own in group["params"])
    ]
    for _, group, tensor in joined:
        group["params"].append(tensor)
    try:
        yield
    finally:
        for optimizer, group, tensor in joined:
            group["params"][:] = [own for own in group["params"] if own is not tensor]
            optimizer.state.pop(tensor, None)


def gated_slots(model: nn.Module, group: Group) -> list[Slot]:
    """:return: what a gate on each unit of a group multiplies: its norms if it has any, else what makes it."""
    modules, norms = dict(model.named_modules()), (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    along = [slot for slot in group.slots if slot.tensor.endswith(("weight", "bias"))]
    in_norms = [slot for slot in along if isinstance(modules.get(module_of(slot.tensor)), norms)]
    return in_norms or [slot for slot in along if slot.role != "in" and slot.tensor in group.makers]


@contextmanager
def gated(subject: Subject, groups: Iterable[Group], gates: Mapping[str, th.Tensor]) -> Iterator[None]:
    """
    Multiply every unit by a gate for a block, in targets and mirrors too.

    :param subject: the networks.
    :param groups: their units.
    :param gates: by group name, a gate for each unit; looked up at every call of a layer.
    """

    def by_gate(slot: Slot, name: str) -> Function:
        return lambda tensor, training: tensor * _scale(slot, gates[name], tensor)

    slots = [(slot, by_gate(slot, group.name)) for group in groups for slot in gated_slots(subject.root, group)]
    modules = [module for copy in subject.copies for module in copy.modules]
    with computed(modules, [(tensor, gate) for slot, gate in slots for tensor in _in_copies(subject, slot)]):
        yield


@contextmanager
def gate_l1(subject: Subject, groups: Sequence[Group], strength: float) -> Iterator[dict[str, th.Tensor]]:
    """
    Train with a gate, at first 1, on every unit, and an L1 penalty on gates; at the end they are folded into the weights.

    The penalty is a soft threshold of learning rate times strength after each step: gates become exactly zero, under Adam too.

    :param subject: the networks; a gate is trained by the optimizer that trains what it multiplies.
    :param groups: their units.
    :param strength: of the penalty.
    :return: the gates by group name.
    """
    tensors, slots = subject.trained.tensors, {group.name: gated_slots(subject.root, group) for group in groups}
    gates = {g.name: tensors[slots[g.name][0].tensor].new_ones(g.n_units).requires_grad_() for g in groups}

    def shrink(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            for gate in group["params"]:
                if any(gate is own for own in gates.values()):
                    gate.data = nn.functional.softshrink(gate.data, float(group["lr"]) * strength)

    handles = [optimizer.register_step_post_hook(shrink) for optimizer in subject.optimizers]
    pairs = [(tensors[slots[name][0].tensor], gate) for name, gate in gates.items()]
    try:
        with trained_along(subject.optimizers, pairs), gated(subject, groups, gates):
            yield gates
    finally:
        for handle in handles:
            handle.remove()
        with th.no_grad():
            for name, own in slots.items():
                for slot in own:
                    for tensor in _in_copies(subject, slot):
                        tensor.mul_(_scale(slot, gates[name], tensor))


def _in_copies(subject: Subject, slot: Slot) -> list[th.Tensor]:
    """The slot's tensor in each copy, each object once."""
    tensors = [copy.tensors[slot.tensor] for copy in subject.copies if slot.tensor in copy.tensors]
    return list({id(tensor): tensor for tensor in tensors}.values())


def _scale(slot: Slot, gate: th.Tensor, tensor: th.Tensor) -> th.Tensor:
    """One factor for each position along the slot's axis, ready to multiply the tensor: one where no unit lies."""
    index = th.as_tensor(slot.index.ravel(), device=tensor.device)
    ones = tensor.new_ones(tensor.shape[slot.axis])
    full = ones.index_put((index,), gate.to(tensor).repeat_interleave(slot.index.shape[1]))
    return full.reshape([-1 if axis == slot.axis else 1 for axis in range(tensor.dim())])
