"""Which parameters pruning can reach, by network."""

import torch as th

from rl_crop.core.graph.groups import DependencyGraph
from rl_crop.core.masking.weights import Weights
from rl_crop.core.model import Subject


def prunable_parameters(
    subject: Subject, graph: DependencyGraph, weights: Weights | None = None
) -> dict[str, list[th.Tensor]]:
    """
    :param subject: what is pruned.
    :param graph: its units.
    :param weights: the single weights that can be masked, where weights are pruned.
    :return: by network, the parameters in which its units lie, or the weights that can be masked (targets not counted).
    """
    if weights is not None:
        return {network: list(weights.within(network).values()) for network in weights.names}
    sliced = {slot.tensor for group in graph.groups.values() for slot in group.slots}
    owned = {network.name: sorted(network.parameters & sliced) for network in subject.networks}
    return {name: [subject.trained.tensors[key] for key in keys] for name, keys in owned.items() if keys}
