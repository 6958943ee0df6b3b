"""How tests build small agents."""

from collections.abc import Callable
from typing import Any

from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space

from tests.zoo.worlds import ENVS, make_env

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

    :param env: an environment, or its name in ``ENVS`` or in gymnasium, or what ``make_env`` is to be told.
    :param policy_kwargs: beside ``net_arch``.
    :param keywords: of the algorithm, beside ``DEFAULTS``; ``policy`` where it is not the one that fits the environment.
    """
    if isinstance(env, str):
        env = ENVS[env]() if env in ENVS else make_env(env)
    elif isinstance(env, dict):
        env = make_env(**env)
    space = env.observation_space
    kind = "MultiInput" if isinstance(space, spaces.Dict) else "Cnn" if is_image_space(space) else "Mlp"
    policy = keywords.pop("policy", f"{kind}LstmPolicy" if algorithm is RecurrentPPO else f"{kind}Policy")
    kwargs = {} if net_arch is None else {"net_arch": net_arch if isinstance(net_arch, dict) else list(net_arch)}
    if algorithm is RecurrentPPO:
        kwargs["lstm_hidden_size"] = 8
    return algorithm(
        policy, env, policy_kwargs=kwargs | (policy_kwargs or {}), seed=0, device="cpu", **DEFAULTS[algorithm] | keywords
    )


def ppo(env_id: str = "CartPole-v1", net_arch: Any = (16, 16), env: Any = None, policy_kwargs: dict | None = None, **keywords):
    env = {"env_id": env_id, **env} if isinstance(env, dict) else env_id if env is None else env
    return build(PPO, env, net_arch, policy_kwargs, **keywords)


def sac(net_arch: Any = (16, 16), env: Any = None, policy_kwargs: dict | None = None, **keywords):
    env = {"env_id": "Pendulum-v1", **env} if isinstance(env, dict) else "Pendulum-v1" if env is None else env
    return build(SAC, env, net_arch, policy_kwargs, **keywords)


def agent(algorithm: type[BaseAlgorithm], env: Any, **given: Any) -> Callable[..., BaseAlgorithm]:
    """:return: a function that builds this agent; its keyword arguments come before those given here."""
    return lambda **keywords: build(algorithm, env, **given | keywords)
