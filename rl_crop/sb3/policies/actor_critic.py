"""On-policy actor-critics (PPO, A2C, TRPO, MaskablePPO): policy loss at ratio 1 and value loss."""

from collections.abc import Callable, Mapping
from typing import Any

import torch as th
import torch.nn.functional as F  # noqa: N812
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from torch import nn

from rl_crop.sb3.batches import needs
from rl_crop.sb3.networks import Forward, Hyperparameters, Place, PolicyNetworks, first_linear, has_parameters
from rl_crop.sb3.noise import StateDependentNoise
from rl_crop.sb3.policies.hidden_layers import hidden_layers, stated_widths

ONE_SIZE = "Stable-Baselines3 builds actor and critic for one features_dim, also where each has an extractor of its own"
TRAINED = ("trained values", "log-probabilities of actions", "entropies")
"""What ``evaluate_actions`` returns, in order."""


def actor_critic(policy: Any, hyper: Hyperparameters) -> PolicyNetworks:
    """
    :param policy: an ``ActorCriticPolicy`` or ``MaskableActorCriticPolicy``.
    :param hyper: of the algorithm.
    :return: its parts.
    :raises PruningError: hidden layers of its own do not run on features.
    """

    def latents(observations: Any, actor: bool = True, critic: bool = True) -> tuple[th.Tensor | None, th.Tensor | None]:
        features = BaseModel.extract_features(policy, observations, policy.pi_features_extractor) if actor else None
        if not critic:
            others = None
        elif features is not None and policy.pi_features_extractor is policy.vf_features_extractor:
            others = features
        else:
            others = BaseModel.extract_features(policy, observations, policy.vf_features_extractor)
        return (
            None if features is None else policy.mlp_extractor.forward_actor(features),
            None if others is None else policy.mlp_extractor.forward_critic(others),
        )

    def trained(observations: Any, actions: Any) -> Any:
        return policy.evaluate_actions(observations, as_trained(policy, actions))

    def valued(observations: Any, actions: Any) -> th.Tensor:
        return policy.value_net(latents(observations, actor=False)[1])

    own: dict[str, tuple[Forward, Forward]] = {  # acting, prediction and training take different ways
        "actions": (
            lambda observations, actions: policy(observations, deterministic=True)[0],
            lambda observations, actions: _chosen(policy, latents, observations).reshape(-1, *policy.action_space.shape),
        ),
        "values": (lambda observations, actions: policy(observations, deterministic=True)[1], valued),
        "predicted values": (lambda observations, actions: policy.predict_values(observations), valued),
        "distributions of actions": (
            lambda observations, actions: policy.get_distribution(observations).log_prob(as_trained(policy, actions)),
            lambda observations, actions: _distribution(policy, latents, observations).log_prob(as_trained(policy, actions)),
        ),
    }
    return assemble(policy, hyper, latents, trained, own=own)


def assemble(
    policy: Any,
    hyper: Hyperparameters,
    latents: Callable[..., tuple[Any, Any]],
    trained: Forward,
    before: Mapping[str, tuple[nn.Module, ...]] | None = None,
    seen: Callable[[Any], Any] = lambda observations: observations,
    own: Mapping[str, tuple[Forward, Forward]] | None = None,
    **more: Any,
) -> PolicyNetworks:
    """
    The parts of an actor-critic policy, given how its latent features are computed.

    :param policy: the policy.
    :param hyper: of the algorithm.
    :param latents: what the action head and the value head receive: a function of (observations, actor, critic), whose
        switches leave the other one ``None``.
    :param trained: what the algorithm trains: values, log-probabilities and entropies of observations and actions.
    :param before: by network, modules between features extractor and ``mlp_extractor``.
    :param seen: what features extractors receive of the observations of a batch.
    :param own: see :class:`PolicyNetworks`; what ``trained`` returns comes beside it.
    :param more: further fields of :class:`PolicyNetworks`.
    :raises PruningError: hidden layers of its own do not run on features.
    """
    use_sde = getattr(policy, "use_sde", False)
    extractor, pi_extractor, vf_extractor = policy.mlp_extractor, policy.pi_features_extractor, policy.vf_features_extractor
    shared = pi_extractor is vf_extractor
    before = before or {}
    both, of_actor, of_critic = hidden_layers(policy)
    modules: dict[str, list[nn.Module | nn.Parameter]] = {
        "actor": [*before.get("actor", ()), *of_actor, policy.action_net, *([policy.log_std] if use_sde else [])],
        "critic": [*before.get("critic", ()), *of_critic, policy.value_net],
    }
    pinned: dict[str, Forward] = {}
    if both or (shared and has_parameters(pi_extractor)):
        modules = {"features": [*([pi_extractor] if shared else []), *both], **modules}
    if not shared:
        modules["actor"].insert(0, pi_extractor)
        modules["critic"].insert(0, vf_extractor)
        pinned[ONE_SIZE] = lambda observations, actions: _features(policy, seen(observations))

    def outputs(observations: Any, actions: Any) -> tuple[th.Tensor, th.Tensor]:
        latent_pi, latent_vf = latents(observations)
        return policy.action_net(latent_pi), policy.value_net(latent_vf)

    def actor_loss(batch: Any) -> th.Tensor:
        return policy_gradient_loss(policy, latents(batch.observations, critic=False)[0], batch, hyper)

    def critic_loss(batch: Any) -> th.Tensor:
        needs(batch, "returns")
        return value_loss(policy.value_net(latents(batch.observations, actor=False)[1]), batch)

    def whole_loss(batch: Any) -> th.Tensor:
        latent_pi, latent_vf = latents(batch.observations)
        policy_loss = policy_gradient_loss(policy, latent_pi, batch, hyper)
        return policy_loss + hyper.vf_coef * value_loss(policy.value_net(latent_vf), batch)

    def sizes() -> list[Place]:
        return [
            (policy, "net_arch", stated_widths(policy)),
            (extractor, "latent_dim_pi", first_linear(policy.action_net).in_features),
            (extractor, "latent_dim_vf", first_linear(policy.value_net).in_features),
        ]

    def described(observations: Any, actions: Any) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        latent_pi, latent_vf = latents(observations)
        distribution = policy._get_action_dist_from_latent(latent_pi)
        log_prob = distribution.log_prob(as_trained(policy, actions))
        return policy.value_net(latent_vf), log_prob, distribution.entropy()

    def compared(place: int) -> tuple[Forward, Forward]:
        def of(function: Forward) -> Forward:
            return lambda observations, actions: function(observations, actions)[place]

        return of(trained), of(described)

    return PolicyNetworks(
        modules=modules,
        forwards=[outputs],
        losses={"features": whole_loss, "actor": actor_loss, "critic": critic_loss},
        net_arch=lambda: stated_widths(policy),
        sizes=sizes,
        extractors=[pi_extractor] if shared else [pi_extractor, vf_extractor],
        pinned=pinned,
        noise=StateDependentNoise(policy.action_dist, policy.log_std, first_linear(policy.action_net)) if use_sde else None,
        act=lambda observations: _chosen(policy, latents, observations),
        training=[] if use_sde else [trained],  # its variance is a product of log_std and latent features, tied by noise
        own={**(own or {}), **{what: compared(place) for place, what in enumerate(TRAINED)}},
        **more,
    )


def _distribution(policy: Any, latents: Callable[..., tuple[Any, Any]], observations: Any) -> Any:
    return policy._get_action_dist_from_latent(latents(observations, critic=False)[0])


def _chosen(policy: Any, latents: Callable[..., tuple[Any, Any]], observations: Any) -> th.Tensor:
    return _distribution(policy, latents, observations).get_actions(deterministic=True)


def as_trained(policy: Any, actions: th.Tensor) -> th.Tensor:
    """:return: actions as Stable-Baselines3 hands them to ``evaluate_actions``: shape (n,) of choices, else (n, numbers)."""
    return actions.long().flatten() if isinstance(policy.action_space, spaces.Discrete) else actions.reshape(len(actions), -1)


def _features(policy: Any, observations: Any) -> list[th.Tensor]:
    extractors = (policy.pi_features_extractor, policy.vf_features_extractor)
    return [BaseModel.extract_features(policy, observations, extractor) for extractor in extractors]


def policy_gradient_loss(policy: Any, latent: th.Tensor | None, batch: Any, hyper: Hyperparameters) -> th.Tensor:
    """
    PPO's policy loss where old and new policy are the same, minus the entropy bonus.

    :param policy: the policy.
    :param latent: what its action head receives, shape (n, features).
    :param batch: with ``actions``, ``advantages`` and, for a maskable policy, ``action_masks``.
    :param hyper: weight of the entropy, and whether advantages are normalised.
    """
    needs(batch, "actions", "advantages")
    distribution = policy._get_action_dist_from_latent(latent)
    if getattr(batch, "action_masks", None) is not None:
        distribution.apply_masking(batch.action_masks)
    log_prob = distribution.log_prob(as_trained(policy, batch.actions))
    advantages = batch.advantages.flatten()
    if hyper.normalize_advantage and len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    # Ratio 1 in value, the policy gradient in its derivative: data need not be of the policy of this very moment.
    loss = -(advantages * th.exp(log_prob - log_prob.detach())).mean()
    entropy = distribution.entropy()
    return loss - hyper.ent_coef * (-log_prob if entropy is None else entropy).mean()


def value_loss(values: th.Tensor, batch: Any) -> th.Tensor:
    """:return: mean squared error of the values, shape (n, 1), against ``batch.returns``."""
    needs(batch, "returns")
    return F.mse_loss(batch.returns.flatten(), values.flatten())
