"""Sizes that Stable-Baselines3 keeps beside the parameters: rewritten so that a pruned agent loads as any other."""

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch.nn.utils import parameters_to_vector

from rl_crop.core.pruning.surgery import Transaction
from rl_crop.sb3.extractors import rewrite_extractors
from rl_crop.sb3.networks import PolicyNetworks


def rewrite_sizes(transaction: Transaction, policy: BasePolicy, parts: PolicyNetworks, model: BaseAlgorithm | None) -> None:
    """
    Bring every stored size in line with the parameters.

    :param transaction: remembers every change.
    :param policy: the cut policy.
    :param parts: its networks.
    :param model: the algorithm that holds it, if any.
    """
    rewrite_widths(transaction, parts)
    rewrite_extractors(transaction, policy, model, list(parts.extractors))
    if model is None:
        return
    changed = dict(parts.kwargs())
    if hasattr(policy, "net_arch") and policy.net_arch != model.policy_kwargs.get("net_arch"):
        changed["net_arch"] = parts.net_arch()
    if changed:  # a new dictionary: the old one is the user's own, who may build other agents with it
        transaction.set_attribute(model, "policy_kwargs", {**model.policy_kwargs, **changed})
    if hasattr(model, "n_params"):  # random search keeps all parameters in one vector
        for parameter in policy.parameters():  # those not cut are views of the old vector, which would be kept and saved
            transaction.set_data(parameter, parameter.data.clone())
        transaction.set_attribute(model, "weights", parameters_to_vector(policy.parameters()).detach())
        transaction.set_attribute(model, "n_params", sum(parameter.numel() for parameter in policy.parameters()))


def rewrite_widths(transaction: Transaction, parts: PolicyNetworks) -> None:
    """
    Bring the sizes in line that a policy and its networks keep of their hidden layers.

    :param transaction: remembers every change.
    :param parts: the policy's networks.
    """
    for owner, name, value in parts.sizes():
        if isinstance(owner, dict):
            transaction.set_item(owner, name, value)
        else:
            transaction.set_attribute(owner, name, value)
    if parts.noise is not None:
        parts.noise.resize(transaction)
