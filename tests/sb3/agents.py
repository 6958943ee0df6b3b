"""Small agents of every supported kind, and what a test reads off them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from rl_crop.sb3.subject import algorithm_optimizers


class DictObservations(gym.ObservationWrapper):
    """The observation in two halves, by name."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        low, high = env.observation_space.low, env.observation_space.high
        self.observation_space = spaces.Dict({"a": spaces.Box(low[:1], high[:1]), "b": spaces.Box(low[1:], high[1:])})

    def observation(self, observation):
        return {"a": observation[:1], "b": observation[1:]}


def make_env(env_id: str, n_envs: int = 1, normalize: bool = False, dict_obs: bool = False):
    env = make_vec_env(env_id, n_envs=n_envs, seed=0, wrapper_class=DictObservations if dict_obs else None)
    return VecNormalize(env) if normalize else env


def build(algorithm: type[BaseAlgorithm], env_id: str, net_arch: Any, env: Any, policy_kwargs: dict | None, **keywords):
    """
    An agent.

    :param env: an environment, or what ``make_env`` is to be told.
    :param policy_kwargs: beside ``net_arch``.
    """
    env = make_env(env_id, **(env or {})) if env is None or isinstance(env, dict) else env
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    arch = net_arch if isinstance(net_arch, dict) else list(net_arch)
    return algorithm(policy, env, policy_kwargs={"net_arch": arch, **(policy_kwargs or {})}, seed=0, **keywords)


def ppo(env_id: str = "CartPole-v1", net_arch: Any = (16, 16), env: Any = None, policy_kwargs: dict | None = None, **keywords):
    defaults = {"n_steps": 64, "batch_size": 32, "n_epochs": 2, "learning_rate": 1e-2, "ent_coef": 0.01}
    return build(PPO, env_id, net_arch, env, policy_kwargs, **defaults | keywords)


def sac(net_arch: Any = (16, 16), env: Any = None, policy_kwargs: dict | None = None, **keywords):
    defaults = {
        "learning_starts": 32, "batch_size": 32, "train_freq": 4, "learning_rate": 1e-2, "tau": 0.05, "buffer_size": 1000,
    }  # fmt: skip
    return build(SAC, "Pendulum-v1", net_arch, env, policy_kwargs, **defaults | keywords)


SEPARATE, SHARED = {"share_features_extractor": False}, {"share_features_extractor": True}
AGENTS: dict[str, Callable[..., BaseAlgorithm]] = {
    "ppo_discrete": ppo,
    "ppo_box": lambda **k: ppo("Pendulum-v1", **k),
    "ppo_sde": lambda **k: ppo("Pendulum-v1", use_sde=True, sde_sample_freq=4, env={"n_envs": 2}, **k),
    "ppo_uneven": lambda **k: ppo(net_arch={"pi": [16, 8], "vf": [12]}, policy_kwargs=SEPARATE, **k),
    "ppo_linear_actor": lambda **k: ppo("Pendulum-v1", net_arch={"pi": [], "vf": [16, 16]}, use_sde=True, **k),
    "ppo_linear_critic": lambda **k: ppo(net_arch={"pi": [16], "vf": []}, **k),
    "ppo_normalized": lambda **k: ppo(env={"normalize": True, "n_envs": 3}, **k),
    "ppo_dict": lambda **k: ppo(env={"dict_obs": True}, **k),
    "sac": sac,
    "sac_sde": lambda **k: sac(use_sde=True, sde_sample_freq=2, use_sde_at_warmup=True, **k),
    "sac_one_critic": lambda **k: sac({"pi": [16, 8], "qf": [12]}, policy_kwargs={"n_critics": 1}, **k),
    "sac_three_critics": lambda **k: sac(policy_kwargs={"n_critics": 3, **SHARED}, ent_coef=0.1, **k),
    "sac_linear_actor": lambda **k: sac(net_arch={"pi": [], "qf": [16, 16]}, use_sde=True, **k),
    "sac_linear_critic": lambda **k: sac(net_arch={"pi": [16], "qf": []}, **k),
    "sac_normalized": lambda **k: sac(env={"normalize": True, "n_envs": 2}, target_update_interval=2, **k),
    "sac_dict": lambda **k: sac(env={"dict_obs": True}, **k),
}

SCORING = {"n_batches": 2, "batch_size": 64}
"""Small scoring batches."""


SIZES = (
    "in_features", "out_features", "net_arch", "latent_dim_pi", "latent_dim_vf", "actor_kwargs", "critic_kwargs", "net_args",
    "training",
)  # fmt: skip
"""Attributes of modules that a cut changes, or must not."""


def tensors(model: BaseAlgorithm) -> dict[str, th.Tensor]:
    """A copy of every parameter and buffer of the policy, targets included."""
    return {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}


def state(model: BaseAlgorithm) -> dict[str, Any]:
    """Everything that a failed cut must leave alone, copied: tensors, gradients, optimizer state, sizes."""
    found: dict[str, Any] = {"tensors": tensors(model), "ids": [id(p) for p in model.policy.parameters()]}
    found["grads"] = [None if p.grad is None else p.grad.clone() for p in model.policy.parameters()]
    found["optimizers"] = [
        {key: value.clone() if isinstance(value, th.Tensor) else value for key, value in slot.items()}
        for optimizer in algorithm_optimizers(model)
        for slot in optimizer.state.values()
    ]
    found["sizes"] = {
        f"{name}.{key}": repr(value)
        for name, module in model.policy.named_modules()
        for key, value in vars(module).items()
        if key in SIZES
    }
    found["policy_kwargs"] = repr(model.policy_kwargs)
    found["history"] = repr(getattr(model, "pruning_history", []))
    found["noise"] = noise(model)
    return found


def noise(model: BaseAlgorithm) -> Any:
    """Exploration noise that is drawn before it is used."""
    distribution = getattr(model.policy, "actor", model.policy).action_dist
    values = [getattr(distribution, name, None) for name in ("latent_sde_dim", "exploration_mat", "exploration_matrices")]
    return [value.detach().clone() if isinstance(value, th.Tensor) else value for value in values]


def equal(first: Any, second: Any) -> bool:
    """Bit for bit, through containers, arrays and tensors (NaN equals NaN)."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(value, second[key]) for key, value in first.items())
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(equal(one, other) for one, other in zip(first, second, strict=True))
    if type(first) is not type(second):
        return False
    if isinstance(first, th.Tensor):
        return first.shape == second.shape and first.dtype == second.dtype and np.array_equal(
            first.detach().numpy(), second.detach().numpy(), equal_nan=first.is_floating_point()
        )  # fmt: skip
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second, equal_nan=first.dtype.kind == "f")
    return bool(first == second)


def consistent(model: BaseAlgorithm) -> None:
    """Assert that optimizer state, targets and every stored size agree with the parameters."""
    for optimizer in algorithm_optimizers(model):
        for parameter, slot in optimizer.state.items():
            assert all(value.shape == parameter.shape for value in slot.values() if value.dim())
    for module in model.policy.modules():
        if isinstance(module, th.nn.Linear):
            assert (module.out_features, module.in_features) == tuple(module.weight.shape)
            assert module.bias.shape == (module.out_features,)
    policy = model.policy
    assert model.policy_kwargs["net_arch"] == policy.net_arch
    if isinstance(model, SAC):
        assert [p.shape for p in policy.critic.parameters()] == [p.shape for p in policy.critic_target.parameters()]
        arch = policy.net_arch
        assert policy.actor.net_arch == policy.actor_kwargs["net_arch"] == policy.net_args["net_arch"] == arch["pi"]
        assert policy.critic_kwargs["net_arch"] == arch["qf"]
        assert hidden(policy.actor.latent_pi) == arch["pi"]
        assert all(hidden(network)[:-1] == arch["qf"] for network in policy.critic.q_networks)
        log_std, distribution = policy.actor.log_std, policy.actor.action_dist
    else:
        extractor = policy.mlp_extractor
        assert policy.net_arch == {"pi": hidden(extractor.policy_net), "vf": hidden(extractor.value_net)}
        assert extractor.latent_dim_pi == policy.action_net.in_features
        assert extractor.latent_dim_vf == policy.value_net.in_features
        log_std, distribution = getattr(policy, "log_std", None), policy.action_dist
    if model.use_sde:
        assert distribution.latent_sde_dim == len(log_std) == distribution.exploration_mat.shape[0]


def hidden(network: th.nn.Module) -> list[int]:
    return [module.out_features for module in network.modules() if isinstance(module, th.nn.Linear)]


@contextmanager
def unmoved(model: BaseAlgorithm) -> Iterator[None]:
    """Assert that a block leaves all of :func:`state` as it was."""
    before = state(model)
    yield
    after = state(model)
    for key, value in before.items():
        assert equal(value, after[key]), key
