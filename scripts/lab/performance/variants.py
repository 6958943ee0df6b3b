"""Other ways to make the same gradient step: Adam in one call, compiled modules, twin critics as one product."""

from collections.abc import Callable, Mapping
from typing import Any

import torch as th
from stable_baselines3 import SAC
from torch import nn

from rl_crop.sb3.subject import algorithm_optimizers

Variant = Callable[[Any, str], None]
"""Changes an agent in place, given the backend of torch.compile."""


def adam(model: Any, **how: bool) -> None:
    """
    :param model: an agent
    :param how: ``fused`` or ``foreach`` of all its optimizers; the rest of their state stays
    """
    for optimizer in algorithm_optimizers(model):
        for group in optimizer.param_groups:
            group.update({"fused": False, "foreach": False} | how)
            for parameter in group["params"]:
                state = optimizer.state.get(parameter, {})
                if "step" in state and how.get("fused"):  # counted where the parameter is
                    state["step"] = state["step"].to(parameter.device)


def compiled(model: Any, backend: str) -> None:
    """
    :param model: an agent of SAC or PPO, whose hidden layers are compiled in place: names and parameters stay
    :param backend: of torch.compile
    """
    policy = model.policy
    if isinstance(model, SAC):
        networks = [policy.actor.latent_pi, *policy.critic.q_networks, *policy.critic_target.q_networks]
    else:
        networks = [policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net]
    for network in networks:
        network.compile(backend=backend)


def stacked(model: Any) -> None:
    """:param model: an agent of SAC, whose twin critics, and their targets, are computed as one batched product"""
    for critic in (model.policy.critic, model.policy.critic_target):
        critic.forward = _together(critic)


def _together(critic: Any) -> Callable[[Any, th.Tensor], tuple[th.Tensor, ...]]:
    rows = list(zip(*(list(network) for network in critic.q_networks), strict=True))

    def forward(observations: Any, actions: th.Tensor) -> tuple[th.Tensor, ...]:
        features = critic.extract_features(observations, critic.features_extractor)
        x = th.cat([features, actions], dim=1).expand(len(critic.q_networks), -1, -1)
        for layers in rows:
            if isinstance(layers[0], nn.Linear):
                weight = th.stack([layer.weight for layer in layers])
                x = th.baddbmm(th.stack([layer.bias for layer in layers]).unsqueeze(1), x, weight.transpose(1, 2))
            else:
                x = layers[0](x)
        return tuple(x)

    return forward


def rounded(model: Any) -> None:
    """:param model: an agent, each of whose weights moves to the next number: a difference of rounding, and no more"""
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.copy_(th.nextafter(parameter, th.full_like(parameter, th.inf)))


def _both(*variants: Variant) -> Variant:
    def apply(model: Any, backend: str) -> None:
        for variant in variants:
            variant(model, backend)

    return apply


def _foreach(model: Any, backend: str) -> None:
    adam(model, foreach=True)


def _fused(model: Any, backend: str) -> None:
    adam(model, fused=True)


def _stacked(model: Any, backend: str) -> None:
    stacked(model)


VARIANTS: Mapping[str, Mapping[str, Variant]] = {
    "ppo": {"foreach": _foreach, "fused": _fused, "compiled": compiled, "fused+compiled": _both(_fused, compiled)},
    "sac": {
        "foreach": _foreach, "fused": _fused, "compiled": compiled, "stacked": _stacked,
        "fused+compiled": _both(_fused, compiled), "fused+stacked": _both(_fused, _stacked),
    },
}  # fmt: skip
"""By algorithm and name."""
