"""What a policy is to the pruner: its networks, their objectives, what runs them, and what must stay in step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.pruning.surgery import Transaction
from rl_crop.sb3.noise import StateDependentNoise

Objective = Callable[[Any], th.Tensor]
Forward = Callable[[Any, Any], Any]
"""A function of (observations, actions)."""
Tie = tuple[tuple[str, int], tuple[str, int]]
Place = tuple[Any, str, Any]
"""An object (or a dictionary), the name of one of its attributes (or keys), and the value that belongs there."""


@dataclass(frozen=True)
class Hyperparameters:
    """
    What the objectives need to know of the algorithm.

    :param gamma: discount factor.
    :param ent_coef: weight of the entropy.
    :param vf_coef: weight of the value loss, where a shared extractor learns from both losses.
    :param normalize_advantage: whether advantages are normalised over a batch.
    :param target_policy_noise: standard deviation of the noise on target actions (TD3).
    :param target_noise_clip: its bound (TD3).
    :param top_quantiles_to_drop_per_net: quantiles left out of the target (TQC).
    """

    gamma: float = 0.99
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    normalize_advantage: bool = True
    target_policy_noise: float = 0.2
    target_noise_clip: float = 0.5
    top_quantiles_to_drop_per_net: int = 2

    @classmethod
    def of(cls, model: Any, **given: Any) -> "Hyperparameters":
        """:return: those of an algorithm; ``given`` ones that are not ``None`` come first."""
        found = {name: getattr(model, name) for name in cls.__dataclass_fields__ if hasattr(model, name)}
        found["ent_coef"] = entropy_coefficient(model)
        found.setdefault("vf_coef", 0.0)  # TRPO trains a shared extractor with the policy loss alone
        return cls(**found | {name: value for name, value in given.items() if value is not None})


def entropy_coefficient(model: Any) -> float:
    """:return: the weight of the entropy as it is now, learned or fixed (0 where the algorithm has none)."""
    if getattr(model, "log_ent_coef", None) is not None:
        return float(th.exp(model.log_ent_coef.detach()))
    if getattr(model, "ent_coef_tensor", None) is not None:
        return float(model.ent_coef_tensor)
    return float(getattr(model, "ent_coef", 0.0))


@dataclass(frozen=True)
class PolicyNetworks:
    """
    The parts of one policy.

    :param modules: by network, the modules whose parameters it owns (parameters may be given as they are); in the order
        in which budgets are settled.
    :param forwards: functions that together run every network and return its outputs.
    :param losses: by network, the objective of a batch; ``None`` where the algorithm has no gradient.
    :param net_arch: the hidden widths as they are, in the form of ``policy_kwargs["net_arch"]``.
    :param sizes: every further place in which a width is stored, with the value that belongs there now.
    :param targets: the modules that are followed, each with its target and the function that runs the target.
    :param extractors: features extractors in the order in which Stable-Baselines3 builds them, targets included.
    :param pinned: further functions whose outputs keep their size, by reason.
    :param whole: modules that are left whole, with the reason.
    :param ties: slices that are one unit although no call joins them.
    :param one_width: by reason, axes of parameters that end with one width, whichever units these are.
    :param stored: keys of the observations under which states lie whose last axis holds units.
    :param follow: cuts what else holds such states: a function of the transaction, the algorithm (or ``None``), what holds
        observations, and the places that stay by key.
    :param kwargs: what changes in ``policy_kwargs`` by a cut, beside ``net_arch``.
    :param noise: the state-dependent exploration noise of the actor, if it has one.
    :param one_vector: whether the algorithm keeps all parameters in one vector, and writes it anew after a cut.
    :param act: makes actions of observations, where something here reads actions and none are given.
    :param training: what training runs beside ``forwards``; see :class:`~rl_crop.core.model.Subject`.
    :param prepare: turns a batch into what the objectives and forwards read.
    :param own: by what they compute, a function of the policy's own and the one that describes it here: they must agree.
    """

    modules: Mapping[str, Sequence[nn.Module | nn.Parameter]]
    forwards: Sequence[Forward]
    losses: Mapping[str, Objective | None]
    net_arch: Callable[[], Any]
    sizes: Callable[[], Sequence[Place]]
    targets: Sequence[tuple[nn.Module, nn.Module, Forward]] = ()
    extractors: Sequence[BaseFeaturesExtractor] = ()
    pinned: Mapping[str, Forward] = field(default_factory=dict)
    whole: Mapping[nn.Module, str] = field(default_factory=dict)
    ties: Sequence[Tie] = ()
    one_width: Mapping[str, Sequence[tuple[nn.Parameter, int]]] = field(default_factory=dict)
    stored: Sequence[str] = ()
    follow: Callable[[Transaction, Any, Sequence[Mapping[str, Any]], Mapping[str, np.ndarray]], None] | None = None
    kwargs: Callable[[], Mapping[str, Any]] = field(default=lambda: {})
    noise: StateDependentNoise | None = None
    one_vector: bool = False
    act: Callable[[Any], th.Tensor] | None = None
    training: Sequence[Forward] = ()
    prepare: Callable[[Any], Any] = field(default=lambda batch: batch)
    own: Mapping[str, tuple[Forward, Forward]] = field(default_factory=dict)


def hidden_widths(network: nn.Module, heads: int = 0) -> list[int]:
    """:return: outputs of every linear layer but the last ``heads``, as ``net_arch`` lists them."""
    widths = [module.out_features for module in network.modules() if isinstance(module, nn.Linear)]
    return widths[: len(widths) - heads]


def first_linear(head: nn.Module) -> nn.Linear:
    """
    :return: the layer by which a head receives its features.
    :raises PruningError: it has no linear layer.
    """
    found = next((module for module in head.modules() if isinstance(module, nn.Linear)), None)
    if found is None:
        raise PruningError(f"A head of the policy is not supported: {head} has no linear layer. Nothing was changed.")
    return found


def has_parameters(module: nn.Module) -> bool:
    """:return: whether there is anything to prune in a features extractor."""
    return next(module.parameters(), None) is not None
