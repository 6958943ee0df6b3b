"""Environments; needs no rl_crop, so that stock processes can import it."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
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
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize

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
    gym.register_envs(pytest.importorskip("ale_py"))
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


BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)
DOUBLE = spaces.Box(-np.inf, np.inf, (3,), np.float64)
IMAGE = spaces.Box(0, 255, (36, 38, 1), np.uint8)  # channels last
PARTS = spaces.Dict(
    {"speed": BOX, "gear": spaces.Discrete(4), "doors": spaces.MultiDiscrete([2, 3]), "lights": spaces.MultiBinary(2)}
)
MATRIX = spaces.Box(-1.0, 2.0, (2, 3), np.float32)
# Without whole numbers: their encodings have sizes that the LSTM of torch refuses.
FEWER = spaces.Dict({"speed": BOX, "lights": spaces.MultiBinary(2)})
SEEN = spaces.Dict({"camera": IMAGE, "speed": BOX})
CHOICE = spaces.Discrete(4)
TORQUES = spaces.Box(np.float32([-2.0, -0.5]), np.float32([1.0, 30.0]))


class Toy(gym.Env):
    """Random observations, at a scale that normalisation has to mend; ``given`` is the last."""

    def __init__(self, observations: spaces.Space, actions: spaces.Space) -> None:
        self.observation_space, self.action_space = observations, actions
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self.steps = 0
        return self.give(), {}

    def step(self, action: Any):
        assert self.action_space.contains(action) or np.shape(action) == self.action_space.shape
        self.steps += 1
        return self.give(), 0.0, False, self.steps >= 20, {}

    def give(self) -> Any:
        def draw(space: spaces.Space) -> Any:
            if isinstance(space, spaces.Dict):
                return {key: draw(part) for key, part in space.spaces.items()}
            if isinstance(space, spaces.Box) and space.dtype != np.uint8:
                return (2.0 + 1.5 * self.np_random.standard_normal(space.shape)).astype(space.dtype)
            space.seed(int(self.np_random.integers(1 << 30)))
            if isinstance(space, spaces.Box):  # images of all kinds of brightness
                return (space.sample() * self.np_random.random()).astype(np.uint8)
            return space.sample()

        self.given = draw(self.observation_space)
        return self.given


class MaskedToy(Toy):
    """With masks of actions."""

    def action_masks(self) -> np.ndarray:
        binary = isinstance(self.action_space, spaces.MultiBinary)
        size = 2 * self.action_space.n if binary else int(self.action_space.n)
        mask = self.np_random.random(size) < 0.7
        mask[[0, -1]] = True
        return mask


def toys(observations: spaces.Space, actions: spaces.Space, n_envs: int = 1, toy: type[Toy] = Toy, normalize: Any = None):
    """:return: toy environments; with ``normalize``, arguments of ``VecNormalize``, under statistics that no longer move."""
    env: Any = DummyVecEnv([lambda: toy(observations, actions)] * n_envs)
    env.seed(0)
    if normalize is not None:
        env = VecNormalize(env, **normalize)
        env.reset()
        for _ in range(10):
            env.step(np.array([actions.sample() for _ in range(n_envs)]))
        env.training = False
    return env


def given(env: Any) -> Any:
    """:return: what the environments gave last, before any wrapper, stacked."""
    rows = [env.given for env in env.unwrapped.envs]
    if isinstance(rows[0], dict):
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    return np.stack(rows)
