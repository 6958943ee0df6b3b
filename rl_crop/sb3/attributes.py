"""Sizes that Stable-Baselines3 keeps beside the parameters: rewritten so that a pruned agent loads as any other."""

from collections.abc import Sequence
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

from rl_crop.core.surgery import Transaction


def hidden_widths(network: nn.Module, heads: int = 0) -> list[int]:
    """:return: outputs of every linear layer but the last ``heads``, as ``net_arch`` lists them."""
    widths = [module.out_features for module in network.modules() if isinstance(module, nn.Linear)]
    return widths[: len(widths) - heads]


def architecture(policy: BasePolicy) -> dict[str, list[int]]:
    """:return: ``net_arch`` of the policy as it is now."""
    if isinstance(policy, ActorCriticPolicy):
        extractor = policy.mlp_extractor
        return {"pi": hidden_widths(extractor.policy_net), "vf": hidden_widths(extractor.value_net)}
    assert isinstance(policy, SACPolicy)
    return {"pi": hidden_widths(policy.actor.latent_pi), "qf": hidden_widths(policy.critic.q_networks[0], heads=1)}


def rewrite_sizes(transaction: Transaction, policy: BasePolicy, model: BaseAlgorithm | None) -> None:
    """
    Bring every stored size in line with the parameters.

    :param transaction: remembers every change.
    :param policy: the cut policy.
    :param model: the algorithm that holds it, if any.
    """
    arch = architecture(policy)
    transaction.set_attribute(policy, "net_arch", arch)
    if model is not None:
        # A new dictionary: the old one is the user's own, who may build other agents with it.
        transaction.set_attribute(model, "policy_kwargs", {**model.policy_kwargs, "net_arch": arch})
    if isinstance(policy, ActorCriticPolicy):
        for name, key in (("latent_dim_pi", "pi"), ("latent_dim_vf", "vf")):
            if arch[key]:
                transaction.set_attribute(policy.mlp_extractor, name, arch[key][-1])
        _resize_noise(transaction, policy.action_dist, arch["pi"], getattr(policy, "log_std", None), policy.use_sde)
    elif isinstance(policy, SACPolicy):
        transaction.set_attribute(policy.actor, "net_arch", arch["pi"])
        transaction.set_item(policy.net_args, "net_arch", arch["pi"])
        transaction.set_item(policy.actor_kwargs, "net_arch", arch["pi"])
        transaction.set_item(policy.critic_kwargs, "net_arch", arch["qf"])
        _resize_noise(transaction, policy.actor.action_dist, arch["pi"], policy.actor.log_std, policy.actor.use_sde)


def _resize_noise(transaction: Transaction, distribution: Any, widths: Sequence[int], log_std: Any, use_sde: bool) -> None:
    """State-dependent exploration noise has a row for every latent feature, and is drawn before the cut."""
    if not use_sde or not widths or not isinstance(distribution, StateDependentNoiseDistribution):
        return
    for name in ("latent_sde_dim", "exploration_mat", "exploration_matrices", "weights_dist"):
        transaction.set_attribute(distribution, name, getattr(distribution, name))
    distribution.latent_sde_dim = widths[-1]
    distribution.sample_weights(log_std, batch_size=len(distribution.exploration_matrices))
