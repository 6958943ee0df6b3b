"""Environments, features extractors and policies of a user's own; needs no rl_crop, so that stock processes can import it."""

import copy

import ale_py
import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.envs import InvalidActionEnvDiscrete, InvalidActionEnvMultiDiscrete
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.envs import (
    BitFlippingEnv,
    FakeImageEnv,
    IdentityEnv,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize

SIDE = 44  # maps of 2 x 2 after NatureCNN's convolutions


class DictObservations(gym.ObservationWrapper):
    """The observation in two halves, by name."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        low, high = env.observation_space.low, env.observation_space.high
        self.observation_space = spaces.Dict({"a": spaces.Box(low[:1], high[:1]), "b": spaces.Box(low[1:], high[1:])})

    def observation(self, observation):
        return {"a": observation[:1], "b": observation[1:]}


class Double(gym.ObservationWrapper):
    """Observations in double precision, as MuJoCo's are."""

    def __init__(self, env):
        super().__init__(env)
        low, high = (bound.astype(np.float64) for bound in (env.observation_space.low, env.observation_space.high))
        self.observation_space = spaces.Box(low, high, dtype=np.float64)

    def observation(self, observation):
        return observation.astype(np.float64)


class Images(FakeImageEnv):
    """Random images, the same in every run, and a reward that depends on the action."""

    def __init__(self, discrete: bool = True, **others: spaces.Space) -> None:
        super().__init__(screen_height=SIDE, screen_width=SIDE, n_channels=1, discrete=discrete)
        if others:
            self.observation_space = spaces.Dict({"image": self.observation_space, **copy.deepcopy(others)})
        self.observation_space.seed(0)

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, float(np.mean(action)), *rest

    def action_masks(self):
        return np.arange(self.action_space.n) != self.current_step % self.action_space.n


MIXED = {"place": spaces.Box(-1, 1, (3,)), "door": spaces.Discrete(4)}
"""What stands beside an image in a mapping of observations."""


def make_env(env_id: str, n_envs: int = 1, normalize: bool = False, dict_obs: bool = False) -> VecEnv:
    env = make_vec_env(env_id, n_envs=n_envs, seed=0, wrapper_class=DictObservations if dict_obs else None)
    return VecNormalize(env) if normalize else env


def pong() -> VecEnv:
    """A real Atari game, preprocessed and stacked as for NatureCNN."""
    gym.register_envs(ale_py)
    return VecFrameStack(make_atari_env("ALE/Pong-v5", seed=0), 4)


ENVS = {
    "images": lambda: make_vec_env(Images, 2, seed=0),
    "images_box": lambda: make_vec_env(Images, seed=0, env_kwargs={"discrete": False}),
    "mixed": lambda: make_vec_env(Images, seed=0, env_kwargs=MIXED),
    "mixed_box": lambda: make_vec_env(Images, seed=0, env_kwargs={"discrete": False, **MIXED}),
    "masks": lambda: make_vec_env(InvalidActionEnvDiscrete, seed=0, env_kwargs={"dim": 8, "n_invalid_actions": 3}),
    "masks_multi": lambda: make_vec_env(
        InvalidActionEnvMultiDiscrete, seed=0, env_kwargs={"dims": [3, 4], "n_invalid_actions": 2}
    ),
    "masks_images": lambda: make_vec_env(Images, seed=0),
    "masks_mixed": lambda: make_vec_env(Images, seed=0, env_kwargs=MIXED),
    "multi_discrete": lambda: make_vec_env(IdentityEnvMultiDiscrete, seed=0, env_kwargs={"dim": 3}),
    "multi_binary": lambda: make_vec_env(IdentityEnvMultiBinary, seed=0, env_kwargs={"dim": 3}),
    "discrete_observations": lambda: make_vec_env(IdentityEnv, seed=0, env_kwargs={"dim": 4}),
    "double": lambda: make_vec_env("Pendulum-v1", seed=0, wrapper_class=Double),
    "frames": lambda: VecFrameStack(make_env("CartPole-v1", 2), 3),
    "rewards_normalized": lambda: VecNormalize(make_env("Pendulum-v1", 2), norm_obs=False),
    "dict_normalized": lambda: make_env("CartPole-v1", 2, normalize=True, dict_obs=True),
    "bits": lambda: make_vec_env(BitFlippingEnv, seed=0, env_kwargs={"n_bits": 4}),
    "bits_continuous": lambda: make_vec_env(BitFlippingEnv, seed=0, env_kwargs={"n_bits": 4, "continuous": True}),
    "pong": pong,
}
"""Environments by name, each made anew."""


class Normed(BaseFeaturesExtractor):
    """A features extractor with a layer and a LayerNorm."""

    def __init__(self, observation_space: spaces.Box, features_dim: int = 32) -> None:
        super().__init__(observation_space, features_dim)
        self.net = th.nn.Sequential(th.nn.Linear(observation_space.shape[0], features_dim), th.nn.LayerNorm(features_dim))

    def forward(self, observations):
        return self.net(observations).relu()


class OwnPolicy(ActorCriticPolicy):
    """A user's policy with a method more and a constructor of its own."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **{"activation_fn": th.nn.ELU, **kwargs})

    def entropy(self, observations):
        return self.get_distribution(observations).entropy()
