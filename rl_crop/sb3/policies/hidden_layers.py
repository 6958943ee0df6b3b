"""The hidden layers between features and heads: those of ``net_arch``, or of a module of the user's in their place."""

from typing import Any

import torch as th
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.common.utils import obs_as_tensor
from torch import nn

from rl_crop.core.errors import explained
from rl_crop.core.rng import eval_mode, isolated_rng
from rl_crop.sb3.networks import hidden_widths
from rl_crop.sb3.observations import sampled


def hidden_layers(policy: Any) -> tuple[list[nn.Module], list[nn.Module], list[nn.Module]]:
    """
    :param policy: an actor-critic policy.
    :return: the modules of its ``mlp_extractor`` that both networks run, those of the actor alone, and those of the critic.
    :raises PruningError: an own one does not run on features.
    """
    extractor = policy.mlp_extractor
    if type(extractor) is MlpExtractor:
        return [], [extractor.policy_net], [extractor.value_net]
    with isolated_rng(0), eval_mode(policy), th.no_grad():
        with explained(f"{type(policy).__name__} is not supported: its mlp_extractor does not run on features"):
            features = _features(policy)
            actor, critic = (_run_by(extractor, run, features) for run in (extractor.forward_actor, extractor.forward_critic))
    return [m for m in actor if m in critic], [m for m in actor if m not in critic], [m for m in critic if m not in actor]


def _features(policy: Any) -> th.Tensor:
    """:return: what the hidden layers receive, of the size that it has now."""
    if hasattr(policy, "lstm_actor"):
        return th.rand(2, policy.lstm_actor.hidden_size, device=policy.device)
    observations = obs_as_tensor(sampled(policy.observation_space, 2), policy.device)
    return BaseModel.extract_features(policy, observations, policy.pi_features_extractor)


def _run_by(root: nn.Module, run: Any, features: th.Tensor) -> list[nn.Module]:
    """:return: the modules with tensors of their own that a function runs."""
    ran: list[nn.Module] = []
    parts = [part for part in root.modules() if part is not root]
    hooks = [part.register_forward_hook(lambda module, *_: ran.append(module)) for part in parts]
    try:
        run(features)
    finally:
        for hook in hooks:
            hook.remove()
    return [part for part in parts if part in ran and (part._parameters or part._buffers)]


def stated_widths(policy: Any) -> Any:
    """:return: what ``net_arch`` must say: the widths as they are, or what it says of a module that does not follow it."""
    extractor = policy.mlp_extractor
    if type(extractor) is not MlpExtractor:
        return policy.net_arch
    return {"pi": hidden_widths(extractor.policy_net), "vf": hidden_widths(extractor.value_net)}
