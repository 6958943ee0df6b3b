"""What the networks of each kind of policy are: parameters, objectives, how to run them, what must stay in step."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.units import named_tensors
from rl_crop.sb3 import objectives

Objective = Callable[[Any], th.Tensor]
Tie = tuple[tuple[str, int], tuple[str, int]]


@dataclass(frozen=True)
class PolicyNetworks:
    """
    The parts of one policy.

    :param modules: by network, the modules whose parameters it owns (parameters may be given as they are).
    :param forwards: by network, a function of (observations, actions) that returns its outputs.
    :param targets: by network, the module that is followed, its target and the function that runs the target.
    :param losses: by network, the objective of a batch.
    :param whole: modules that are left whole, with the reason.
    :param ties: slices that are one unit although no call joins them.
    """

    modules: Mapping[str, Sequence[nn.Module | nn.Parameter]]
    forwards: Mapping[str, Callable[[Any, Any], Any]]
    losses: Mapping[str, Objective]
    targets: Mapping[str, tuple[nn.Module, nn.Module, Callable[[Any, Any], Any]]] = field(default_factory=dict)
    whole: Mapping[nn.Module, str] = field(default_factory=dict)
    ties: Sequence[Tie] = ()


def describe(policy: BasePolicy, gamma: float, ent_coef: float) -> PolicyNetworks:
    """
    :param policy: an SB3 policy.
    :param gamma: discount factor.
    :param ent_coef: weight of the entropy.
    :return: its parts.
    :raises PruningError: this kind of policy is not supported.
    """
    wrapped = [name for name, module in policy.named_modules() if hasattr(module, "_orig_mod")]
    if wrapped:
        raise PruningError(
            f"{wrapped} are wrapped by torch.compile, which hides their sizes: use module.compile(), which compiles in place, "
            f"or compile after pruning."
        )
    for kind, function in ADAPTERS.items():
        if isinstance(policy, kind):
            return function(policy, gamma, ent_coef)
    supported = ", ".join(kind.__name__ for kind in ADAPTERS)
    raise PruningError(f"{type(policy).__name__} is not supported: rl_crop prunes {supported}. Nothing was changed.")


EXTRACTOR = "a features extractor is left whole: its widths have no place in policy_kwargs"


def _actor_critic(policy: ActorCriticPolicy, gamma: float, ent_coef: float) -> PolicyNetworks:
    if type(policy.mlp_extractor) is not MlpExtractor or hasattr(policy, "lstm_actor"):
        raise PruningError(
            f"{type(policy).__name__} is not supported: its hidden layers are not those of a plain MlpExtractor, so their new "
            f"widths could not be written into net_arch. Nothing was changed."
        )
    ties: list[Tie] = []
    if policy.use_sde:  # one row of log_std for every latent feature
        ties = [(("action_net.weight", 1), ("log_std", 0))]
    return PolicyNetworks(
        modules={
            "actor": [policy.mlp_extractor.policy_net, policy.action_net, *([policy.log_std] if policy.use_sde else [])],
            "critic": [policy.mlp_extractor.value_net, policy.value_net],
        },
        forwards={
            "actor": lambda observations, actions: policy.action_net(objectives.actor_latent(policy, observations)),
            "critic": lambda observations, actions: objectives.state_values(policy, observations),
        },
        losses={
            "actor": lambda batch: objectives.policy_gradient_loss(policy, batch, ent_coef),
            "critic": lambda batch: objectives.value_loss(policy, batch),
        },
        whole=dict.fromkeys((policy.pi_features_extractor, policy.vf_features_extractor), EXTRACTOR),
        ties=ties,
    )


def _soft_actor_critic(policy: SACPolicy, gamma: float, ent_coef: float) -> PolicyNetworks:
    actor, critic, target = policy.actor, policy.critic, policy.critic_target
    heads: list[Any] = [actor.mu, actor.log_std]

    def act(observations: Any, actions: Any) -> tuple[th.Tensor, ...]:
        latent = actor.latent_pi(actor.extract_features(observations, actor.features_extractor))
        return tuple(head(latent) for head in heads if isinstance(head, nn.Module))

    ties = _twins(critic.q_networks, named_tensors(policy))
    if actor.use_sde:
        mean = "actor.mu.0.weight" if isinstance(actor.mu, nn.Sequential) else "actor.mu.weight"
        ties.append(((mean, 1), ("actor.log_std", 0)))
    return PolicyNetworks(
        modules={"actor": [actor.latent_pi, *heads], "critic": list(critic.q_networks)},
        forwards={"actor": act, "critic": lambda observations, actions: critic(observations, actions)},
        losses={
            "actor": lambda batch: objectives.soft_actor_loss(policy, batch, ent_coef),
            "critic": lambda batch: objectives.soft_critic_loss(policy, batch, gamma, ent_coef),
        },
        targets={"critic": (critic, target, lambda observations, actions: target(observations, actions))},
        whole=dict.fromkeys((actor.features_extractor, critic.features_extractor), EXTRACTOR),
        ties=ties,
    )


ADAPTERS: dict[type, Callable[..., PolicyNetworks]] = {
    ActorCriticPolicy: _actor_critic,
    SACPolicy: _soft_actor_critic,
}
"""How each kind of policy is described, by class."""


def _twins(networks: Iterable[nn.Module], tensors: Mapping[str, th.Tensor]) -> list[Tie]:
    """Equal places in twin critics are one unit: the twins share one ``net_arch``, so they lose units together."""
    names = {id(tensor): name for name, tensor in tensors.items()}
    first, *others = [[module for module in network.modules() if isinstance(module, nn.Linear)] for network in networks]
    return [
        ((names[id(one.weight)], 0), (names[id(other.weight)], 0))
        for layers in others
        for one, other in zip(first[:-1], layers[:-1], strict=True)
    ]
