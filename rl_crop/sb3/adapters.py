"""Which family a policy belongs to, by its class."""

from collections.abc import Callable
from typing import Any

from stable_baselines3.common.policies import BasePolicy

from rl_crop.core.errors import PruningError
from rl_crop.sb3.networks import Hyperparameters, PolicyNetworks
from rl_crop.sb3.policies.actor_critic import actor_critic
from rl_crop.sb3.policies.deterministic import deterministic_actor_critic
from rl_crop.sb3.policies.evolution import random_search
from rl_crop.sb3.policies.q_learning import q_learning, quantile_regression
from rl_crop.sb3.policies.recurrent import recurrent_actor_critic
from rl_crop.sb3.policies.soft import soft_actor_critic, truncated_quantile_critics

ADAPTERS: dict[str, Callable[[Any, Hyperparameters], PolicyNetworks]] = {
    "stable_baselines3.common.policies.ActorCriticPolicy": actor_critic,
    "stable_baselines3.sac.policies.SACPolicy": soft_actor_critic,
    "stable_baselines3.td3.policies.TD3Policy": deterministic_actor_critic,
    "stable_baselines3.dqn.policies.DQNPolicy": q_learning,
    "sb3_contrib.common.maskable.policies.MaskableActorCriticPolicy": actor_critic,
    "sb3_contrib.common.recurrent.policies.RecurrentActorCriticPolicy": recurrent_actor_critic,
    "sb3_contrib.tqc.policies.TQCPolicy": truncated_quantile_critics,
    "sb3_contrib.qrdqn.policies.QRDQNPolicy": quantile_regression,
    "sb3_contrib.crossq.policies.CrossQPolicy": soft_actor_critic,
    "sb3_contrib.ars.policies.ARSPolicy": random_search,
}
"""How each kind of policy is described, by the qualified name of its class: sb3-contrib need not be installed."""


def describe(policy: BasePolicy, hyper: Hyperparameters | None = None) -> PolicyNetworks:
    """
    :param policy: an SB3 policy.
    :param hyper: hyperparameters that its objectives read.
    :return: its parts.
    :raises PruningError: this kind of policy is not supported.
    """
    wrapped = [name for name, module in policy.named_modules() if hasattr(module, "_orig_mod")]
    if wrapped:
        raise PruningError(
            f"{wrapped} are wrapped by torch.compile, which hides their sizes: use module.compile(), which compiles in place, "
            f"or compile after pruning."
        )
    for kind in type(policy).__mro__:  # the most special one first
        function = ADAPTERS.get(f"{kind.__module__}.{kind.__qualname__}")
        if function is not None:
            return function(policy, hyper or Hyperparameters())
    supported = ", ".join(name.rpartition(".")[2] for name in ADAPTERS)
    raise PruningError(f"{type(policy).__name__} is not supported: rl_crop prunes {supported}. Nothing was changed.")


def unwrap(policy: Any) -> BasePolicy:
    """:return: the policy itself, out of a ``torch.compile`` wrapper."""
    policy = getattr(policy, "_orig_mod", policy)
    if not isinstance(policy, BasePolicy):
        raise PruningError(f"Expected a Stable-Baselines3 algorithm or policy, not {type(policy).__name__}.")
    return policy
