"""What the package computes or promises, done the slow and obvious way."""

import copy

import numpy as np
import torch as th
from torch.func import functional_call

from rl_crop.core.rng import isolated_rng


def dense_hessian(model, loss, batches, names=None, seed=0):
    """
    Gradient and Hessian of the loss summed over batches, by the parameters named (all by default), flattened.

    :return: (gradient, Hessian, split), where ``split`` turns a flat vector into tensors by name.
    """
    parameters = dict(model.named_parameters())
    names = list(parameters) if names is None else list(names)
    shapes = [parameters[name].shape for name in names]
    sizes = [parameters[name].numel() for name in names]
    flat = th.cat([parameters[name].detach().reshape(-1) for name in names])

    def split(vector):
        return {n: part.reshape(s) for n, part, s in zip(names, vector.split(sizes), shapes, strict=True)}

    def total(vector):
        called = _Functional(model, split(vector))
        value = 0.0
        for number, batch in enumerate(batches):
            with isolated_rng(seed + number):
                value = value + loss(called, batch)
        return value

    gradient = th.autograd.functional.jacobian(total, flat)
    return gradient, th.autograd.functional.hessian(total, flat), split


class _Functional:
    """A model with other parameters."""

    def __init__(self, model, parameters):
        self.model, self.parameters = model, parameters

    def __call__(self, *args):
        return functional_call(self.model, self.parameters, args)


def unit_sums(elements, group):
    """The sum over all slices of each unit of a group, element by element."""
    totals = np.zeros(group.n_units)
    for slot in group.slots:
        if slot.tensor in elements:
            moved = elements[slot.tensor].detach().movedim(slot.axis, 0).numpy()
            for unit in range(group.n_units):
                totals[unit] += sum(moved[position].sum() for position in slot.index[unit])
    return totals


class MaskedTwin:
    """
    The dense network with everything that produces a removed unit held at zero: weights, biases and norms.

    :param plan: of the model that is going to be cut; the twin is a copy made before.
    """

    def __init__(self, model, plan):
        self.model = copy.deepcopy(model)
        self.masks = {}
        parameters = dict(self.model.named_parameters())
        for name, group in plan.graph.groups.items():
            removed = np.setdiff1d(np.arange(group.n_units), plan.kept_units.get(name, np.arange(group.n_units)))
            for slot in group.slots:
                if slot.tensor in parameters and slot.role != "in":
                    mask = self.masks.setdefault(slot.tensor, th.ones_like(parameters[slot.tensor]))
                    mask.index_fill_(slot.axis, th.as_tensor(slot.index[removed].ravel()), 0.0)
        self.hold()

    def hold(self):
        with th.no_grad():
            for name, parameter in self.model.named_parameters():
                if name in self.masks:
                    parameter.mul_(self.masks[name])


def count_removed(model, plan):
    """Parameters that lie in no surviving unit, counted element by element, and those that lie in some unit."""
    prunable = removed = 0
    for name, parameter in model.named_parameters():
        touched, gone = th.zeros(parameter.shape, dtype=th.bool), th.zeros(parameter.shape, dtype=th.bool)
        for group, slot in plan.graph.slots_of(name):
            cut = np.setdiff1d(np.arange(group.n_units), plan.kept_units.get(group.name, np.arange(group.n_units)))
            touched.index_fill_(slot.axis, th.as_tensor(slot.index.ravel()), True)
            gone.index_fill_(slot.axis, th.as_tensor(slot.index[cut].ravel()), True)
        prunable, removed = prunable + int(touched.sum()), removed + int(gone.sum())
    return removed, prunable


def n_params(model):
    return sum(parameter.numel() for parameter in model.parameters())
