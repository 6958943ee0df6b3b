"""What a pruned agent is compared with: one built small, masks, and Torch-Pruning with optimizers built anew."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch as th
from stable_baselines3 import SAC
from torch import nn
from torch.nn.utils import prune

from rl_crop.evaluation.networks import read_widths
from rl_crop.optional import require


def native(pruned: Any, build: Callable[[Any], Any]) -> Any:
    """
    :param pruned: a pruned agent
    :param build: builds an agent of given widths
    :return: an agent that was built with the pruned one's widths, and holds its weights and its optimizers' state
    """
    model = build(read_widths(pruned))
    model.set_parameters(pruned.get_parameters(), device=pruned.device)
    return model


def mask(model: Any, sparsity: float) -> None:
    """
    Mask the smallest weights of every linear layer with ``torch.nn.utils.prune``, of target networks the same ones.

    :param model: an agent of SAC or PPO
    :param sparsity: share of each layer's weights
    """
    policy = model.policy
    followers: dict[nn.Module, nn.Module] = {}
    if isinstance(model, SAC):
        pairs = zip(policy.critic.modules(), policy.critic_target.modules(), strict=True)
        followers = {module: target for module, target in pairs if isinstance(module, nn.Linear)}
    targets = set(followers.values())
    for module in [m for m in policy.modules() if isinstance(m, nn.Linear) and m not in targets]:
        prune.l1_unstructured(module, "weight", amount=sparsity)
        if module in followers:
            prune.custom_from_mask(followers[module], "weight", module.weight_mask)


def torch_pruning(model: Any, widths: Mapping[str, Sequence[int]]) -> None:
    """
    What a user does today with Torch-Pruning: the dependency graph of each network, units of the smallest norms removed,
    targets copied, optimizers built anew.

    :param model: a dense agent of SAC or PPO
    :param widths: of its hidden layers afterwards, ``{"pi": ..., "qf": ...}`` or ``{"pi": ..., "vf": ...}``
    :raises ImportError: Torch-Pruning is not installed; names the extra
    """
    policy = model.policy
    observations, actions = (
        th.zeros(2, *shape, device=model.device) for shape in (model.observation_space.shape, model.action_space.shape)
    )
    if isinstance(model, SAC):
        actor, critic = policy.actor, policy.critic
        _remove_units(actor, observations, _actor_outputs, _linear(actor.latent_pi), widths["pi"])
        for network in critic.q_networks:
            joined = th.cat([observations, actions], dim=1)
            _remove_units(network, joined, lambda net, x: net(x), _linear(network)[:-1], widths["qf"])
        for owner in (actor, critic):
            owner.optimizer = policy.optimizer_class(owner.parameters(), model.lr_schedule(1), **policy.optimizer_kwargs)
        policy.critic_target = model.critic_target = copy.deepcopy(critic)
        policy.critic_target.set_training_mode(False)
        return
    extractor = policy.mlp_extractor
    for network, head, kept in (
        (extractor.policy_net, policy.action_net, widths["pi"]),
        (extractor.value_net, policy.value_net, widths["vf"]),
    ):
        whole = nn.Sequential(network, head)
        _remove_units(whole, observations, lambda net, x: net(x), _linear(network), kept)
    policy.optimizer = policy.optimizer_class(policy.parameters(), model.lr_schedule(1), **policy.optimizer_kwargs)


def _actor_outputs(actor: Any, observations: th.Tensor) -> list[th.Tensor]:
    latent = actor.latent_pi(observations)
    return [actor.mu(latent), actor.log_std(latent)]


def _linear(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def _remove_units(
    network: nn.Module, inputs: th.Tensor, forward: Callable[..., Any], layers: Sequence[nn.Linear], kept: Sequence[int]
) -> None:
    tp = require("torch_pruning", "benchmark")
    for layer, count in zip(layers, kept, strict=True):
        graph = tp.DependencyGraph().build_dependency(network, example_inputs=inputs, forward_fn=forward)
        order = layer.weight.detach().norm(dim=1).argsort()
        removed = order[: layer.out_features - count].tolist()
        if removed:
            graph.get_pruning_group(layer, tp.prune_linear_out_channels, idxs=removed).prune()
