"""Deterministic actor-critics (TD3, DDPG): the first critic's value of the actor's action, and the TD loss of all critics."""

from typing import Any

import torch as th
import torch.nn.functional as F  # noqa: N812

from rl_crop.sb3.batches import needs, td_target
from rl_crop.sb3.networks import Hyperparameters, Place, PolicyNetworks, hidden_widths
from rl_crop.sb3.policies.critics import places, twins, with_extractors


def deterministic_actor_critic(policy: Any, hyper: Hyperparameters) -> PolicyNetworks:
    """
    :param policy: a ``TD3Policy``.
    :param hyper: of the algorithm.
    :return: its parts.
    """
    actor, actor_target, critic, critic_target = policy.actor, policy.actor_target, policy.critic, policy.critic_target

    def actor_loss(batch: Any) -> th.Tensor:
        return -critic.q1_forward(batch.observations, actor(batch.observations)).mean()

    def critic_loss(batch: Any) -> th.Tensor:
        needs(batch, "actions", "next_observations", "rewards", "dones")
        actions = batch.actions.reshape(len(batch.actions), -1)
        with th.no_grad():
            noise = th.randn_like(actions) * hyper.target_policy_noise
            noise = noise.clamp(-hyper.target_noise_clip, hyper.target_noise_clip)
            next_actions = (actor_target(batch.next_observations) + noise).clamp(-1, 1)
            next_values = th.cat(critic_target(batch.next_observations, next_actions), dim=1)
            targets = td_target(batch, next_values.min(dim=1, keepdim=True).values, hyper.gamma)
        return th.stack([F.mse_loss(values, targets) for values in critic(batch.observations, actions)]).sum()

    def net_arch() -> dict[str, list[int]]:
        return {"pi": hidden_widths(actor.mu, heads=1), "qf": hidden_widths(critic.q_networks[0], heads=1)}

    def sizes() -> list[Place]:
        return places(policy, net_arch(), [actor, actor_target])

    return PolicyNetworks(
        modules=with_extractors(policy, [actor.mu], list(critic.q_networks)),
        forwards=[
            lambda observations, actions: actor(observations),
            lambda observations, actions: critic(observations, actions),
        ],
        losses={"features": actor_loss, "actor": actor_loss, "critic": critic_loss},
        net_arch=net_arch,
        sizes=sizes,
        targets=[
            (actor, actor_target, lambda observations, actions: actor_target(observations)),
            (critic, critic_target, lambda observations, actions: critic_target(observations, actions)),
        ],
        extractors=list(dict.fromkeys(owner.features_extractor for owner in (actor, actor_target, critic, critic_target))),
        ties=twins(policy, critic.q_networks),
        act=lambda observations: actor(observations),
    )
