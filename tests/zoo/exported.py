"""Agents of every kind that can be exported."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from tests.zoo.agents import CONTINUOUS, SDE, build
from tests.zoo.extractors import Own, SmallCNN, WithNorms
from tests.zoo.worlds import BOX, CHOICE, DOUBLE, FEWER, IMAGE, MATRIX, PARTS, SEEN, TORQUES, MaskedToy, Toy, toys


def toy_agent(
    algorithm: type[BaseAlgorithm],
    observations: spaces.Space = BOX,
    actions: spaces.Space | None = None,
    *,
    normalize: dict | None = None,
    n_envs: int = 2,
    toy: type[Toy] = Toy,
    seed: int = 0,
    net_arch: Any = (13, 11),
    **keywords: Any,
) -> BaseAlgorithm:
    """
    An agent of a toy environment, with random weights and, where it has some, random statistics.

    :param actions: ``CHOICE`` by default, or ``TORQUES`` where actions are continuous.
    :param normalize: arguments of ``VecNormalize``.
    :param seed: of the weights.
    :param keywords: of :func:`build`.
    """
    actions = actions or (TORQUES if algorithm in CONTINUOUS else CHOICE)
    model = build(algorithm, toys(observations, actions, n_envs, toy, normalize), net_arch, **keywords)
    generator = th.Generator().manual_seed(seed)
    with th.no_grad():
        for parameter in model.policy.parameters():
            noise = th.randn(parameter.shape, generator=generator)
            parameter.add_(noise / max(parameter.shape[-1], 9) ** 0.5 if parameter.dim() > 1 else 0.3 * noise)
        for buffer in model.policy.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.3 * th.rand(buffer.shape, generator=generator))
    return model


# What both formats can express.
AGENTS: dict[str, Callable[..., BaseAlgorithm]] = {
    "ppo": partial(toy_agent, PPO, net_arch={"pi": [13, 5], "vf": [8]}),
    "ppo_clipped_separate": partial(
        toy_agent, PPO, DOUBLE, TORQUES, policy_kwargs={"share_features_extractor": False, "features_extractor_class": Own}
    ),
    "ppo_sde_squashed": partial(
        toy_agent, PPO, BOX, TORQUES, **SDE, policy_kwargs={"squash_output": True, "activation_fn": nn.ELU}
    ),
    "ppo_normalized": partial(toy_agent, PPO, DOUBLE, TORQUES, normalize={"clip_obs": 1.0}),
    "ppo_parts_normalized": partial(toy_agent, PPO, PARTS, spaces.MultiBinary(3), normalize={"norm_obs_keys": ["speed"]}),
    "a2c_multi_discrete": partial(toy_agent, A2C, spaces.MultiDiscrete([3, 4]), spaces.MultiDiscrete([2, 5])),
    "dqn_discrete": partial(toy_agent, DQN, spaces.Discrete(6), policy_kwargs={"activation_fn": nn.SiLU}),
    "dqn_image_mlp": partial(toy_agent, DQN, spaces.Box(0, 255, (1, 36, 36), np.uint8), policy="MlpPolicy", seed=5),
    "sac_matrices": partial(toy_agent, SAC, MATRIX, MATRIX),
    "sac_norms": partial(toy_agent, SAC, policy_kwargs={"features_extractor_class": WithNorms}),
    "sac_sde": partial(toy_agent, SAC, **SDE, net_arch=[], policy_kwargs={"clip_mean": 0.4}),
    "td3_parts": partial(toy_agent, TD3, PARTS),
    "ddpg": partial(toy_agent, DDPG, policy_kwargs={"activation_fn": nn.GELU}),
    "tqc": partial(toy_agent, TQC, policy_kwargs={"n_quantiles": 5, "activation_fn": nn.LeakyReLU}),
    "qrdqn": partial(toy_agent, QRDQN, seed=2, policy_kwargs={"n_quantiles": 7, "activation_fn": nn.Softplus}),
    "trpo": partial(toy_agent, TRPO, BOX, TORQUES, policy_kwargs={"activation_fn": nn.Sigmoid}),
    "maskable": partial(toy_agent, MaskablePPO, toy=MaskedToy),
    "maskable_binary": partial(toy_agent, MaskablePPO, actions=spaces.MultiBinary(3), toy=MaskedToy),
    "crossq": partial(toy_agent, CrossQ),
    "ars": partial(toy_agent, ARS, BOX, TORQUES),
    "ars_linear": partial(toy_agent, ARS, policy="LinearPolicy", net_arch=None, zero_policy=True),
}
# What only ONNX can.
WITH_IMAGES: dict[str, Callable[..., BaseAlgorithm]] = {
    "ppo_image": partial(toy_agent, PPO, IMAGE, TORQUES, policy_kwargs={"features_extractor_kwargs": {"features_dim": 9}}),
    "dqn_own_cnn": partial(toy_agent, DQN, IMAGE, seed=2, policy_kwargs={"features_extractor_class": SmallCNN}),
    "td3_seen_normalized": partial(toy_agent, TD3, SEEN, normalize={"norm_obs_keys": ["speed"]}),
}
RECURRENT: dict[str, Callable[..., BaseAlgorithm]] = {
    "recurrent": partial(toy_agent, RecurrentPPO, BOX, TORQUES, policy_kwargs={"lstm_hidden_size": 6, "n_lstm_layers": 2}),
    "recurrent_parts": partial(toy_agent, RecurrentPPO, FEWER, policy_kwargs={"lstm_hidden_size": 6}),
}
