"""
The loss by which each network of an agent is scored.

On-policy: the policy loss at ratio 1 with normalised advantages and entropy bonus for the actor, the value loss for the
critic. Soft actor-critic: the actor loss, and the temporal-difference loss of all critics with fixed targets.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
import torch.nn.functional as F  # noqa: N812
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BaseModel
from stable_baselines3.sac.policies import SACPolicy

from rl_crop.core.errors import PruningError


def needs(batch: Any, *fields: str) -> None:
    """:raises PruningError: a batch lacks one of the fields that an objective reads."""
    missing = [name for name in fields if getattr(batch, name, None) is None]
    if missing:
        raise PruningError(
            f"The batches hold no {', '.join(missing)}, which this objective needs. With observations alone use "
            f"criterion 'magnitude', 'random', 'span' or 'synflow', or give loss=."
        )


def actor_latent(policy: ActorCriticPolicy, observations: Any) -> th.Tensor:
    """:return: what the action head of an actor-critic policy receives."""
    features = BaseModel.extract_features(policy, observations, policy.pi_features_extractor)
    return policy.mlp_extractor.forward_actor(features)


def state_values(policy: ActorCriticPolicy, observations: Any) -> th.Tensor:
    """:return: the values of an actor-critic policy, shape (n, 1)."""
    features = BaseModel.extract_features(policy, observations, policy.vf_features_extractor)
    return policy.value_net(policy.mlp_extractor.forward_critic(features))


def policy_gradient_loss(policy: ActorCriticPolicy, batch: Any, ent_coef: float) -> th.Tensor:
    """
    PPO's policy loss where old and new policy are the same, minus the entropy bonus.

    :param policy: the policy.
    :param batch: with ``observations``, ``actions`` and ``advantages``.
    :param ent_coef: weight of the entropy.
    """
    needs(batch, "actions", "advantages")
    actions = batch.actions.reshape(len(batch.actions), *policy.action_space.shape)  # type: ignore[misc]
    if isinstance(policy.action_space, spaces.Discrete):
        actions = actions.long()
    distribution = policy._get_action_dist_from_latent(actor_latent(policy, batch.observations))
    log_prob = distribution.log_prob(actions)
    advantages = batch.advantages.flatten()
    if len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    # Ratio 1 in value, the policy gradient in its derivative: data need not be of the policy of this very moment.
    loss = -(advantages * th.exp(log_prob - log_prob.detach())).mean()
    entropy = distribution.entropy()
    return loss - ent_coef * (-log_prob if entropy is None else entropy).mean()


def value_loss(policy: ActorCriticPolicy, batch: Any) -> th.Tensor:
    """:return: mean squared error of the values against ``batch.returns``."""
    needs(batch, "returns")
    return F.mse_loss(batch.returns.flatten(), state_values(policy, batch.observations).flatten())


@contextmanager
def kept_noise(distribution: Any) -> Iterator[None]:
    """State-dependent exploration noise that a block draws is put back afterwards."""
    names = ("exploration_mat", "exploration_matrices", "weights_dist")
    kept = {name: getattr(distribution, name) for name in names if hasattr(distribution, name)}
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(distribution, name, value)


@contextmanager
def fresh_noise(actor: Any) -> Iterator[None]:
    """State-dependent exploration noise is drawn anew for a loss, as in training."""
    with kept_noise(actor.action_dist):
        if actor.use_sde:
            actor.reset_noise()
        yield


def soft_actor_loss(policy: SACPolicy, batch: Any, ent_coef: float) -> th.Tensor:
    """:return: entropy-regularised value of the actor's own actions, to be minimised (SAC)."""
    with fresh_noise(policy.actor):
        actions, log_prob = policy.actor.action_log_prob(batch.observations)
    values = th.cat(policy.critic(batch.observations, actions), dim=1)
    return (ent_coef * log_prob.reshape(-1, 1) - values.min(dim=1, keepdim=True).values).mean()


def soft_critic_loss(policy: SACPolicy, batch: Any, gamma: float, ent_coef: float) -> th.Tensor:
    """:return: temporal-difference loss summed over the critics, the target fixed (SAC)."""
    needs(batch, "actions", "next_observations", "rewards", "dones")
    with th.no_grad(), fresh_noise(policy.actor):
        next_actions, next_log_prob = policy.actor.action_log_prob(batch.next_observations)
        next_values = th.cat(policy.critic_target(batch.next_observations, next_actions), dim=1)
        next_values = next_values.min(dim=1, keepdim=True).values - ent_coef * next_log_prob.reshape(-1, 1)
        discounts = getattr(batch, "discounts", None)
        factor = gamma if discounts is None else discounts.reshape(-1, 1)
        targets = batch.rewards.reshape(-1, 1) + (1 - batch.dones.reshape(-1, 1).to(next_values.dtype)) * factor * next_values
    actions = batch.actions.reshape(len(batch.actions), -1)
    losses = [F.mse_loss(values, targets) for values in policy.critic(batch.observations, actions)]
    return 0.5 * th.stack(losses).sum()
