"""One table of small agents, each a cell of the support matrix, and the function that builds them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch as th
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from torch import nn

from tests.zoo.extractors import Normed, OwnExtractor, OwnPolicy
from tests.zoo.worlds import ENVS, make_env

CART, PENDULUM = "CartPole-v1", "Pendulum-v1"
CONTINUOUS = (SAC, TD3, DDPG, TQC, CrossQ)
ROLLOUT = {"n_steps": 64, "batch_size": 32, "n_epochs": 2, "learning_rate": 1e-2, "ent_coef": 0.01}
REPLAY = {"learning_starts": 32, "batch_size": 32, "train_freq": 4, "learning_rate": 1e-2, "buffer_size": 1000}
DEFAULTS: dict[type[BaseAlgorithm], dict[str, Any]] = {
    PPO: ROLLOUT, MaskablePPO: ROLLOUT, RecurrentPPO: ROLLOUT, A2C: {"n_steps": 32, "learning_rate": 1e-2, "ent_coef": 0.01},
    TRPO: {"n_steps": 64, "batch_size": 32, "learning_rate": 1e-2}, SAC: REPLAY | {"tau": 0.05},
    TD3: REPLAY | {"tau": 0.05}, DDPG: REPLAY | {"tau": 0.05}, TQC: REPLAY | {"tau": 0.05}, CrossQ: REPLAY,
    DQN: REPLAY | {"target_update_interval": 12}, QRDQN: REPLAY | {"target_update_interval": 12},
    ARS: {"n_delta": 2, "zero_policy": False},
}  # fmt: skip


def build(
    algorithm: type[BaseAlgorithm], env: Any = None, net_arch: Any = (16, 16), policy_kwargs: dict | None = None, **keywords
) -> BaseAlgorithm:
    """
    An agent.

    :param env: an environment, or its name in ``ENVS`` or in gymnasium, or what ``make_env`` is to be told; CartPole-v1, or
        Pendulum-v1 where actions are continuous.
    :param policy_kwargs: beside ``net_arch``.
    :param keywords: of the algorithm, beside ``DEFAULTS``; ``policy`` where it is not the one that fits the environment.
    """
    if isinstance(env, str):
        env = ENVS[env]() if env in ENVS else make_env(env)
    elif env is None or isinstance(env, dict):
        env = make_env(**{"env_id": PENDULUM if algorithm in CONTINUOUS else CART} | (env or {}))
    space = env.observation_space
    kind = "MultiInput" if isinstance(space, spaces.Dict) else "Cnn" if is_image_space(space) else "Mlp"
    policy = keywords.pop("policy", f"{kind}LstmPolicy" if algorithm is RecurrentPPO else f"{kind}Policy")
    kwargs = {} if net_arch is None else {"net_arch": net_arch if isinstance(net_arch, dict) else list(net_arch)}
    if algorithm is RecurrentPPO:
        kwargs["lstm_hidden_size"] = 8
    defaults = next(DEFAULTS[kind] for kind in algorithm.__mro__ if kind in DEFAULTS)
    return algorithm(policy, env, policy_kwargs=kwargs | (policy_kwargs or {}), seed=0, device="cpu", **defaults | keywords)


def ppo(env: Any = None, **keywords: Any) -> PPO:
    return build(PPO, env, **keywords)


def sac(env: Any = None, **keywords: Any) -> SAC:
    return build(SAC, env, **keywords)


def agent(algorithm: type[BaseAlgorithm], env: Any = None, **given: Any) -> Callable[..., BaseAlgorithm]:
    """:return: a function that builds this agent; its keyword arguments come before those given here."""
    return partial(build, algorithm, env=env, **given)


SEPARATE, SHARED = {"share_features_extractor": False}, {"share_features_extractor": True}
SMALL, TINY = {"features_extractor_kwargs": {"features_dim": 20}}, {"features_extractor_kwargs": {"cnn_output_dim": 16}}
OWN = {"features_extractor_class": OwnExtractor, "features_extractor_kwargs": {"features_dim": 24, "channels": 12}}
NORMED = {"features_extractor_class": Normed}
QUANTILES = {"n_quantiles": 7}
SDE = {"use_sde": True, "sde_sample_freq": 4}
UNEVEN, LINEAR_ACTOR, LINEAR_CRITIC = {"pi": [24, 12], "qf": [32]}, {"pi": [], "qf": [16, 16]}, {"pi": [32], "qf": []}


def activation(kind: type[nn.Module]) -> dict[str, Any]:
    return {"activation_fn": kind}


VECTORS: dict[str, Callable[..., BaseAlgorithm]] = {
    "ppo_discrete": ppo,
    "ppo_box": agent(PPO, PENDULUM),
    "ppo_sde": agent(PPO, {"env_id": PENDULUM, "n_envs": 2}, **SDE),
    "ppo_uneven": agent(PPO, net_arch={"pi": [24, 12], "vf": [32]}, policy_kwargs=SEPARATE),
    "ppo_linear_actor": agent(PPO, PENDULUM, net_arch={"pi": [], "vf": [16, 16]}, use_sde=True),
    "ppo_linear_critic": agent(PPO, net_arch={"pi": [32], "vf": []}),
    "ppo_normalized": agent(PPO, {"normalize": True, "n_envs": 3}),
    "ppo_dict": agent(PPO, {"dict_obs": True}),
    "ppo_multi_discrete": agent(PPO, "multi_discrete"),
    "ppo_multi_binary": agent(PPO, "multi_binary"),
    "ppo_discrete_observations": agent(PPO, "discrete_observations"),
    "ppo_sde_of_another_kind": agent(
        PPO, PENDULUM, use_sde=True, policy_kwargs={"full_std": False, "use_expln": True, "squash_output": True}
    ),
    "ppo_frames": agent(PPO, "frames"),
    "ppo_dict_normalized": agent(PPO, "dict_normalized"),
    "ppo_deep_relu": agent(PPO, net_arch=[16] * 4, policy_kwargs=activation(nn.ReLU)),
    "ppo_amsgrad": agent(PPO, policy_kwargs={"optimizer_kwargs": {"amsgrad": True}}),
    "ppo_clipped_values": agent(PPO, clip_range_vf=0.2, target_kl=0.5, normalize_advantage=False),
    "a2c": agent(A2C, policy_kwargs=activation(nn.ELU)),
    "a2c_sde": agent(A2C, PENDULUM, **SDE),
    "a2c_adamw": agent(A2C, use_rms_prop=False, policy_kwargs={"optimizer_class": th.optim.AdamW, **activation(nn.LeakyReLU)}),
    "trpo": agent(TRPO),
    "trpo_sde": agent(TRPO, PENDULUM, target_kl=0.1, **SDE),
    "maskable": agent(MaskablePPO, "masks"),
    "maskable_multi_discrete": agent(MaskablePPO, "masks_multi"),
    "recurrent": agent(RecurrentPPO),
    "recurrent_shared": agent(RecurrentPPO, policy_kwargs={"shared_lstm": True, "enable_critic_lstm": False}),
    "recurrent_without_critic": agent(
        RecurrentPPO, {"env_id": PENDULUM, "n_envs": 2}, policy_kwargs={"enable_critic_lstm": False, "n_lstm_layers": 2}, **SDE
    ),
    "dqn": agent(DQN),
    "dqn_uneven": agent(DQN, net_arch=[20, 10, 6], n_steps=3),
    "dqn_hindsight": agent(DQN, "bits", replay_buffer_class=HerReplayBuffer, learning_starts=60),
    "qrdqn": agent(QRDQN, policy_kwargs={**QUANTILES, **activation(nn.SiLU)}),
    "sac": sac,
    "sac_sde": agent(SAC, use_sde=True, sde_sample_freq=2, use_sde_at_warmup=True),
    "sac_one_critic": agent(SAC, net_arch=UNEVEN, policy_kwargs={"n_critics": 1}),
    "sac_three_critics": agent(SAC, policy_kwargs={"n_critics": 3, **SHARED}, ent_coef=0.1),
    "sac_linear_actor": agent(SAC, net_arch=LINEAR_ACTOR, use_sde=True),
    "sac_linear_critic": agent(SAC, net_arch=LINEAR_CRITIC),
    "sac_normalized": agent(SAC, {"normalize": True, "n_envs": 2}, target_update_interval=2),
    "sac_dict": agent(SAC, {"dict_obs": True}),
    "sac_n_steps": agent(SAC, n_steps=3, policy_kwargs=activation(nn.GELU)),
    "sac_sde_without_clipping": agent(SAC, use_sde=True, policy_kwargs={"use_expln": True, "clip_mean": 0.0}),
    "sac_momentum": agent(
        SAC,
        learning_rate=1e-4,
        policy_kwargs={"optimizer_class": th.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}},
    ),
    "sac_double_precision": agent(SAC, "double"),
    "sac_rewards_normalized": agent(SAC, "rewards_normalized"),
    "sac_hindsight": agent(SAC, "bits_continuous", replay_buffer_class=HerReplayBuffer, learning_starts=60),
    "td3": agent(TD3, policy_kwargs=activation(nn.SiLU)),
    "td3_four_critics": agent(TD3, net_arch=UNEVEN, policy_kwargs={"n_critics": 4, **SHARED}, n_steps=3),
    "td3_linear_critic": agent(TD3, net_arch=LINEAR_CRITIC),
    "ddpg": agent(DDPG),
    "tqc": agent(TQC, policy_kwargs=QUANTILES),
    "tqc_sde": agent(TQC, use_sde=True, net_arch=UNEVEN, policy_kwargs={"n_critics": 3, **QUANTILES}),
    "crossq": agent(CrossQ),
    "crossq_sde": agent(CrossQ, use_sde=True, net_arch=UNEVEN, policy_kwargs={"n_critics": 1}),
    "crossq_linear_actor": agent(CrossQ, net_arch=LINEAR_ACTOR, policy_kwargs={"batch_norm": False, "n_critics": 3}),
    "ars": agent(ARS),
    "ars_box": agent(ARS, PENDULUM, net_arch=[16, 8]),
    "ppo_own_policy": agent(PPO, policy=OwnPolicy),
}
"""Agents without a layer in their features extractors: pruned, they load in plain Stable-Baselines3."""

IMAGES, BOX, MIXED, MIXED_BOX = "images", "images_box", "mixed", "mixed_box"
EXTRACTORS: dict[str, Callable[..., BaseAlgorithm]] = {
    "ppo_pong": agent(PPO, "pong", net_arch=None, policy_kwargs={"features_extractor_kwargs": {"features_dim": 64}}),
    "ppo_images": agent(PPO, IMAGES, net_arch=None, policy_kwargs=SMALL),
    "ppo_images_separate": agent(PPO, IMAGES, policy_kwargs={**SMALL, **SEPARATE}),
    "ppo_images_sde": agent(PPO, BOX, net_arch=[], policy_kwargs=SMALL, use_sde=True),
    "ppo_mixed": agent(PPO, MIXED, policy_kwargs=TINY),
    "ppo_own": agent(PPO, IMAGES, policy_kwargs=OWN),
    "ppo_normed": agent(PPO, policy_kwargs=NORMED),
    "ppo_normed_separate": agent(PPO, policy_kwargs=NORMED | SEPARATE),
    "a2c_images": agent(A2C, IMAGES, policy_kwargs=SMALL, learning_rate=1e-3),
    "a2c_mixed": agent(A2C, MIXED, policy_kwargs=TINY | SEPARATE, learning_rate=1e-3),
    "trpo_images": agent(TRPO, IMAGES, policy_kwargs=SMALL),
    "trpo_mixed": agent(TRPO, MIXED, policy_kwargs=TINY | SEPARATE),
    "maskable_images": agent(MaskablePPO, "masks_images", policy_kwargs=SMALL),
    "maskable_mixed": agent(MaskablePPO, "masks_mixed", policy_kwargs=TINY | SEPARATE),
    "recurrent_images": agent(RecurrentPPO, IMAGES, policy_kwargs=SMALL),
    "recurrent_mixed": agent(RecurrentPPO, MIXED, policy_kwargs={**TINY, **SEPARATE, "enable_critic_lstm": False}),
    "dqn_images": agent(DQN, IMAGES, net_arch=None, policy_kwargs=SMALL),
    "dqn_mixed": agent(DQN, MIXED, policy_kwargs=TINY),
    "dqn_own": agent(DQN, IMAGES, policy_kwargs=OWN),
    "qrdqn_images": agent(QRDQN, IMAGES, policy_kwargs=SMALL | QUANTILES),
    "qrdqn_mixed": agent(QRDQN, MIXED, policy_kwargs=TINY | QUANTILES),
    "sac_images": agent(SAC, BOX, policy_kwargs=SMALL),
    "sac_images_shared": agent(SAC, BOX, policy_kwargs=SMALL | SHARED, use_sde=True),
    "sac_mixed": agent(SAC, MIXED_BOX, policy_kwargs=TINY),
    "sac_own": agent(SAC, BOX, policy_kwargs=OWN),
    "sac_normed_shared": agent(SAC, policy_kwargs=NORMED | SHARED),
    "td3_images": agent(TD3, BOX, policy_kwargs=SMALL),
    "td3_own_shared": agent(TD3, BOX, policy_kwargs=OWN | SHARED),
    "td3_mixed": agent(TD3, MIXED_BOX, policy_kwargs=TINY),
    "ddpg_images": agent(DDPG, BOX, policy_kwargs=SMALL | SHARED),
    "ddpg_mixed": agent(DDPG, MIXED_BOX, policy_kwargs=TINY),
    "tqc_images": agent(TQC, BOX, policy_kwargs=SMALL | QUANTILES),
    "tqc_mixed": agent(TQC, MIXED_BOX, policy_kwargs={**TINY, **SHARED, **QUANTILES}),
    "crossq_normed": agent(CrossQ, policy_kwargs=NORMED),
    "crossq_normed_shared": agent(CrossQ, policy_kwargs=NORMED | SHARED),
}
"""Agents whose features extractors are pruned: they load where this package is installed."""

AGENTS = VECTORS | EXTRACTORS

TYPICAL = (
    "ppo_discrete", "ppo_sde", "ppo_uneven", "ppo_normalized", "ppo_images_separate", "a2c", "trpo", "maskable", "recurrent",
    "dqn", "qrdqn", "sac", "sac_sde", "sac_three_critics", "sac_images_shared", "td3", "ddpg", "tqc", "crossq",
)  # fmt: skip
"""Every algorithm that has a gradient, and what is special about some."""

SCORING = {"n_batches": 2, "batch_size": 64}
"""Small scoring batches."""
