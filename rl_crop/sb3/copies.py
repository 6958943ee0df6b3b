"""Copies of a policy's networks that are cut along: targets, averages, snapshots, and whatever else follows them."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import nn

from rl_crop.core.graph.groups import named_tensors
from rl_crop.core.model import Copy, Run, make_run
from rl_crop.core.pruning.surgery import Transaction
from rl_crop.sb3.held import Follower
from rl_crop.sb3.networks import Forward, PolicyNetworks
from rl_crop.sb3.noise import StateDependentNoise

SIZES = ("net_arch", "latent_dim_pi", "latent_dim_vf", "features_dim", "_features_dim")
"""Attributes in which modules of Stable-Baselines3 keep widths beside their tensors."""


def runs(forwards: Sequence[Forward], inputs: tuple[Any, Any]) -> list[Run]:
    """:return: functions of (observations, actions), bound to these."""
    return [make_run(forward, inputs) for forward in forwards]


def targets(parts: PolicyNetworks, names: Mapping[int, str], inputs: tuple[Any, Any]) -> list[Copy]:
    """
    :param parts: a policy's networks.
    :param names: the trained tensors' names, by ``id``.
    :param inputs: observations and actions.
    :return: its target networks as one copy (they can share an extractor), under the names of what they follow.
    """
    if not parts.targets:
        return []
    mirrored: dict[str, th.Tensor] = {}
    for module, target, _ in parts.targets:
        own = named_tensors(target)
        mirrored |= {names[id(tensor)]: own[key] for key, tensor in named_tensors(module).items()}
    modules = tuple(target for _, target, _ in parts.targets)
    return [Copy(mirrored, runs([run for *_, run in parts.targets], inputs), modules)]


def roles(parts: PolicyNetworks, names: Mapping[int, str]) -> dict[int, str]:
    """:return: by ``id``, the name of every trained tensor, and of what every tensor of a target follows."""
    found = dict(names)
    for module, target, _ in parts.targets:
        own = named_tensors(target)
        found |= {id(own[key]): names[id(tensor)] for key, tensor in named_tensors(module).items()}
    return found


def followed(
    follower: Follower, policy: nn.Module, trained: Copy, forwards: Sequence[Forward], inputs: tuple[Any, Any],
    role: Mapping[int, str],
) -> list[Copy]:  # fmt: skip
    """
    :param follower: a copy of a part of the policy.
    :param policy: the policy.
    :param trained: its trained tensors.
    :param forwards: what runs its networks.
    :param inputs: observations and actions.
    :param role: see :func:`roles`.
    :return: it as the core sees it (more than one, where it holds targets too): run in the place of what it follows.
    """
    found: list[dict[str, th.Tensor]] = []
    for identity, tensor in follower.tensors.items():
        if identity in role:
            free = next((tensors for tensors in found if role[identity] not in tensors), None)
            if free is None:
                found.append(free := {})
            free[role[identity]] = tensor
    copies = []
    for tensors in found:
        replaced = {id(trained.tensors[name]): tensor for name, tensor in tensors.items()}
        in_place = [_in_place(policy, forward, replaced) for forward in forwards] if follower.alike else []
        copies.append(Copy(tensors, runs(in_place, inputs), () if follower.module is None else (follower.module,)))
    return copies


def _in_place(policy: nn.Module, forward: Forward, replaced: Mapping[int, th.Tensor]) -> Forward:
    def run(observations: Any, actions: Any) -> Any:
        with swapped(policy, replaced):
            return forward(observations, actions)

    return run


@contextmanager
def swapped(policy: nn.Module, replaced: Mapping[int, th.Tensor]) -> Iterator[None]:
    """
    A block in which a policy computes with other tensors.

    :param policy: the policy.
    :param replaced: by the ``id`` of one of its tensors, what takes its place.
    """
    kept: list[tuple[Any, str, Any]] = []
    for module in policy.modules():
        for store in (module._parameters, module._buffers):
            kept += [(store, key, tensor) for key, tensor in store.items() if id(tensor) in replaced]
    try:
        for store, key, tensor in kept:
            store[key] = replaced[id(tensor)]
        yield
    finally:
        for store, key, tensor in kept:
            store[key] = tensor


def follow_sizes(transaction: Transaction, part: nn.Module, module: nn.Module) -> None:
    """
    Give a copy the sizes that its original keeps beside its tensors.

    :param transaction: remembers every change.
    :param part: the original, its sizes corrected.
    :param module: the copy, its tensors cut.
    """
    for name, original in part.named_modules():
        follower: Any = module.get_submodule(name)
        for key in SIZES:
            if key in vars(follower) and vars(follower)[key] != vars(original)[key]:
                transaction.set_attribute(follower, key, copy.deepcopy(vars(original)[key]))
        distribution: Any = getattr(follower, "action_dist", None)
        if hasattr(distribution, "latent_sde_dim"):
            StateDependentNoise(distribution, follower.log_std, follower).resize(transaction)
