"""Soft actor-critics (SAC, TQC, CrossQ): the entropy-regularised value, and the temporal-difference loss of all critics."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn

from rl_crop.sb3.batches import needs, td_target
from rl_crop.sb3.networks import Hyperparameters, Place, PolicyNetworks, hidden_widths
from rl_crop.sb3.noise import StateDependentNoise
from rl_crop.sb3.policies.critics import places, twins, with_extractors

LOG_STD = (-20.0, 2.0)
"""Where Stable-Baselines3 clips the logarithm of the standard deviation of actions."""
CriticLoss = Callable[[th.Tensor, th.Tensor, Any], th.Tensor]


def soft_actor_critic(policy: Any, hyper: Hyperparameters) -> PolicyNetworks:
    """
    :param policy: a ``SACPolicy``, or a ``CrossQPolicy``, which has no target networks.
    :param hyper: of the algorithm.
    :return: its parts.
    """
    target = getattr(policy, "critic_target", policy.critic)

    def actor_loss(batch: Any) -> th.Tensor:
        actions, log_prob = _act(policy, batch.observations)
        values = th.cat(policy.critic(batch.observations, actions), dim=1)
        return (hyper.ent_coef * log_prob - values.min(dim=1, keepdim=True).values).mean()

    def critic_loss(batch: Any) -> th.Tensor:
        needs(batch, "actions", "next_observations", "rewards", "dones")
        with th.no_grad():
            next_actions, next_log_prob = _act(policy, batch.next_observations)
            next_values = th.cat(target(batch.next_observations, next_actions), dim=1)
            next_values = next_values.min(dim=1, keepdim=True).values - hyper.ent_coef * next_log_prob
            targets = td_target(batch, next_values, hyper.gamma)
        losses = [F.mse_loss(values, targets) for values in policy.critic(batch.observations, _flat(batch.actions))]
        return 0.5 * th.stack(losses).sum()

    return _assemble(policy, actor_loss, critic_loss)


def truncated_quantile_critics(policy: Any, hyper: Hyperparameters) -> PolicyNetworks:
    """
    :param policy: a ``TQCPolicy``.
    :param hyper: of the algorithm.
    :return: its parts.
    """

    def actor_loss(batch: Any) -> th.Tensor:
        actions, log_prob = _act(policy, batch.observations)
        values = policy.critic(batch.observations, actions).mean(dim=2).mean(dim=1, keepdim=True)
        return (hyper.ent_coef * log_prob - values).mean()

    def critic_loss(batch: Any) -> th.Tensor:
        from sb3_contrib.common.utils import quantile_huber_loss

        needs(batch, "actions", "next_observations", "rewards", "dones")
        critic = policy.critic
        n_kept = critic.quantiles_total - hyper.top_quantiles_to_drop_per_net * critic.n_critics
        with th.no_grad():
            next_actions, next_log_prob = _act(policy, batch.next_observations)
            quantiles = policy.critic_target(batch.next_observations, next_actions).flatten(1).sort(dim=1).values
            targets = td_target(batch, quantiles[:, :n_kept] - hyper.ent_coef * next_log_prob, hyper.gamma)
        found = critic(batch.observations, _flat(batch.actions))
        return quantile_huber_loss(found, targets.unsqueeze(1), sum_over_quantiles=False)

    return _assemble(policy, actor_loss, critic_loss)


def _assemble(policy: Any, actor_loss: Callable[[Any], th.Tensor], critic_loss: Callable[[Any], th.Tensor]) -> PolicyNetworks:
    actor, critic, target = policy.actor, policy.critic, getattr(policy, "critic_target", None)
    heads: list[Any] = [actor.mu, actor.log_std]

    def act(observations: Any, actions: Any) -> tuple[th.Tensor, ...]:
        latent = actor.latent_pi(actor.extract_features(observations, actor.features_extractor))
        return tuple(head(latent) for head in heads if isinstance(head, nn.Module))

    def net_arch() -> dict[str, list[int]]:
        return {"pi": hidden_widths(actor.latent_pi), "qf": hidden_widths(critic.q_networks[0], heads=1)}

    def sizes() -> list[Place]:
        return places(policy, net_arch(), [actor])

    mean: Any = actor.mu[0] if isinstance(actor.mu, nn.Sequential) else actor.mu
    n_computed = 1 if actor.use_sde else 2
    owners = [actor, critic] if target is None else [actor, critic, target]
    return PolicyNetworks(
        modules=with_extractors(policy, [actor.latent_pi, *heads], list(critic.q_networks)),
        forwards=[act, lambda observations, actions: critic(observations, actions)],
        losses={"features": actor_loss, "actor": actor_loss, "critic": critic_loss},
        net_arch=net_arch,
        sizes=sizes,
        targets=[] if target is None else [(critic, target, lambda observations, actions: target(observations, actions))],
        extractors=list(dict.fromkeys(owner.features_extractor for owner in owners)),
        ties=twins(policy, critic.q_networks),
        act=lambda observations: actor(observations, deterministic=True),
        own={
            "actions": (
                lambda observations, actions: actor(observations, deterministic=True),
                lambda observations, actions: act(observations, actions)[0].tanh(),
            ),
            "distributions of actions": (
                lambda observations, actions: th.cat(actor.get_action_dist_params(observations)[:n_computed], 1),
                lambda observations, actions: th.cat(_distribution(*act(observations, actions)), 1),
            ),
        },
        noise=StateDependentNoise(actor.action_dist, actor.log_std, mean) if actor.use_sde else None,
    )


def _distribution(mean: th.Tensor, *log_std: th.Tensor) -> list[th.Tensor]:
    """:return: the parameters of the distribution of actions: the mean as it is, the deviation clipped."""
    return [mean, *(values.clamp(*LOG_STD) for values in log_std)]


def _flat(actions: th.Tensor) -> th.Tensor:
    return actions.reshape(len(actions), -1)


def _act(policy: Any, observations: Any) -> tuple[th.Tensor, th.Tensor]:
    """Sampled actions and their log-probabilities, shape (n, 1), with exploration noise drawn anew, as in training."""
    with kept_noise(policy.actor.action_dist):
        if policy.actor.use_sde:
            policy.actor.reset_noise()
        actions, log_prob = policy.actor.action_log_prob(observations)
    return actions, log_prob.reshape(-1, 1)


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
