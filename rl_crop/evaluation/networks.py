"""What an agent is made of, read from its modules and not from what it remembers of them."""

from collections.abc import Sequence
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from rl_crop.core.pruning.planning import trace
from rl_crop.sb3.task import agent_subject


def count_parameters(model: BaseAlgorithm) -> dict[str, int]:
    """
    :return: the parameters that an agent learns (target networks are not among them) by network (``actor``, ``critic``, and
        ``features`` for an extractor that both share) and their ``total``
    """
    counts: dict[str, int] = {}
    # named_parameters() names every parameter once, however many modules hold it
    for name, parameter in model.policy.named_parameters():
        network = _network_of(model, name)
        if network is not None:
            counts[network] = counts.get(network, 0) + parameter.numel()
    return counts | {"total": sum(counts.values())}


def count_left(model: BaseAlgorithm) -> int:
    """:return: the parameters that an agent learns and that are not masked"""
    learnt = [parameter for name, parameter in model.policy.named_parameters() if _network_of(model, name) is not None]
    return weights_left(learnt)


def weights_left(tensors: Sequence[th.Tensor]) -> int:
    """:return: parameters that are not masked: all but the zeros of weights."""
    return sum(int(tensor.count_nonzero()) if tensor.dim() > 1 else tensor.numel() for tensor in tensors)


def count_flops(model: BaseAlgorithm) -> int:
    """
    :return: floating-point operations for one observation through every network of an agent once; masked weights count too
    """
    return trace(agent_subject(model, [])).flops


def _network_of(model: BaseAlgorithm, name: str) -> str | None:
    top = name.split(".")[0]
    if hasattr(model.policy, "mlp_extractor"):
        if "value_net" in name or top in ("vf_features_extractor", "lstm_critic", "critic"):
            return "critic"
        return "features" if top == "features_extractor" else "actor"
    if top.endswith("_target"):
        return None
    return "actor" if top in ("actor", "action_net") else "critic"


def read_widths(model: BaseAlgorithm) -> dict[str, list[int]] | list[int]:
    """
    Read the widths of an agent's hidden linear layers.

    :param model: the agent
    :return: a ``net_arch`` with which a network of these widths can be built: by head (``pi`` and ``vf``, or ``pi`` and
        ``qf``), or a list where there is one network alone; layers of a features extractor are not among them
    """
    policy: Any = model.policy
    if hasattr(policy, "mlp_extractor"):
        extractor = policy.mlp_extractor
        return {"pi": _out_features(extractor.policy_net), "vf": _out_features(extractor.value_net)}
    if hasattr(policy, "actor"):
        # The deterministic actors of TD3 and DDPG end in the actions, the latent network of SAC does not.
        latent = getattr(policy.actor, "latent_pi", None)
        pi = _out_features(policy.actor.mu)[:-1] if latent is None else _out_features(latent)
        return {"pi": pi, "qf": _out_features(policy.critic.qf0)[:-1]}
    for name in ("q_net", "quantile_net"):
        if hasattr(policy, name):  # the network of the same name inside it has the heads
            return _out_features(getattr(getattr(policy, name), name))[:-1]
    return _out_features(policy.action_net)[:-1]


def _out_features(module: nn.Module) -> list[int]:
    return [layer.out_features for layer in module.modules() if isinstance(layer, nn.Linear)]
