"""Networks that have a pruned one's widths from the start."""

from collections.abc import Mapping

import numpy as np
import torch as th
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.importance.context import ImportanceContext, Saliency
from rl_crop.core.model import Subject
from rl_crop.core.pruning.allocation import Budget
from rl_crop.core.pruning.planning import make_plan, trace
from rl_crop.core.pruning.settings import Settings


def layer_widths(model: nn.Module) -> dict[str, int]:
    """:return: the outputs of every linear layer and convolution, by ``named_modules()`` name."""
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return {name: len(module.weight) for name, module in model.named_modules() if isinstance(module, layers)}


def give_widths(subject: Subject, widths: Mapping[str, int], seed: int) -> None:
    """
    Make a network as small as a pruned one, with weights of its own: the small dense rival of a pruned network.

    :param subject: a network of the widths before pruning; all that it knows is lost.
    :param widths: outputs of its layers after it, see :func:`layer_widths`.
    :param seed: of the initial weights.
    :raises PruningError: the widths do not fit the network; nothing was changed.
    """
    graph = trace(subject)
    kept = {}
    for group in graph.groups.values():
        positions = next(slot for slot in group.slots if slot.role == "out").index.shape[1]
        kept[group.name] = widths.get(group.name, 0) // positions
        if not 0 < kept[group.name] <= group.n_units:
            raise PruningError(f"widths[{group.name!r}]={widths.get(group.name)} is not in 1..{group.n_units * positions}.")

    def first_units(context: ImportanceContext) -> Saliency:
        return {group.name: (np.arange(group.n_units) < kept[group.name]).astype(float) for group in context.groups}

    budget = Budget(graph, [name for network in subject.networks for name in network.parameters])
    make_plan(subject, budget.sparsity(kept), Settings(first_units, compensation="none")).apply()
    initialise(subject.root, seed)
    with th.no_grad():
        for copy in subject.mirrors:
            for name, tensor in copy.tensors.items():
                tensor.copy_(subject.trained.tensors[name])


def initialise(model: nn.Module, seed: int) -> None:
    """
    Draw all weights anew, for the sizes that layers have now.

    :param model: whose layers have ``reset_parameters``.
    :param seed: of torch's global generator.
    """
    th.manual_seed(seed)
    for module in model.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
