"""What policies with critics of actions have in common: twins, places of their widths, the order of their extractors."""

from collections.abc import Iterable
from typing import Any

from stable_baselines3.common.policies import BasePolicy
from torch import nn

from rl_crop.core.graph.groups import named_tensors
from rl_crop.sb3.networks import Place, Tie, has_parameters


def twins(policy: BasePolicy, networks: Iterable[nn.Module]) -> list[Tie]:
    """Equal places in twin critics are one unit: the twins share one ``net_arch``, so they lose units together."""
    names = {id(tensor): name for name, tensor in named_tensors(policy).items()}
    first, *others = [[module for module in network.modules() if isinstance(module, nn.Linear)] for network in networks]
    return [
        ((names[id(one.weight)], 0), (names[id(other.weight)], 0))
        for layers in others
        for one, other in zip(first[:-1], layers[:-1], strict=True)
    ]


def places(policy: Any, arch: dict[str, list[int]], actors: Iterable[Any]) -> list[Place]:
    """:return: where an actor and its critics keep their widths, ``{"pi": ..., "qf": ...}``."""
    return [
        (policy, "net_arch", arch),
        (policy.net_args, "net_arch", arch["pi"]),
        (policy.actor_kwargs, "net_arch", arch["pi"]),
        (policy.critic_kwargs, "net_arch", arch["qf"]),
        *((actor, "net_arch", arch["pi"]) for actor in actors),
    ]


def with_extractors(policy: Any, actor: list[Any], critic: list[Any]) -> dict[str, list[Any]]:
    """
    The networks of a policy, each with its features extractor, or ``features`` where the two share one.

    :param policy: with ``actor`` and ``critic``.
    :param actor: modules of the actor without its extractor.
    :param critic: modules of the critics without theirs.
    """
    own, other = policy.actor.features_extractor, policy.critic.features_extractor
    if own is not other:
        return {"actor": [own, *actor], "critic": [other, *critic]}
    return {**({"features": [own]} if has_parameters(own) else {}), "actor": actor, "critic": critic}
