"""The agents that are drawn: small environments of every kind of space, an extractor of our own, few and short updates."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch as th
import torch.nn.functional as F  # noqa: N812
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, VecTransposeImage
from torch import nn

from lab.fuzzing.drawing import CONTINUOUS, ON_POLICY, Q_LEARNING, Combination
from rl_crop.optional import require

SIDE = 44
"""Of images: maps of 2 x 2 after NatureCNN's convolutions."""
LENGTH = 12
"""Of episodes."""

OBSERVATIONS: dict[str, spaces.Space] = {
    "vector": spaces.Box(-1, 1, (5,)),
    "number": spaces.Discrete(6),
    "image": spaces.Box(0, 255, (SIDE, SIDE, 1), np.uint8),
    "vectors": spaces.Dict({"place": spaces.Box(-1, 1, (3,)), "speed": spaces.Box(-1, 1, (2,))}),
    "mixed": spaces.Dict(
        {"image": spaces.Box(0, 255, (SIDE, SIDE, 1), np.uint8), "place": spaces.Box(-1, 1, (3,)), "door": spaces.Discrete(4)}
    ),
}
ACTIONS: dict[str, spaces.Space] = {
    "discrete": spaces.Discrete(3),
    "multidiscrete": spaces.MultiDiscrete([2, 3]),
    "multibinary": spaces.MultiBinary(3),
    "box": spaces.Box(-1, 2, (2,)),
}
N_MASKED = {"discrete": 3, "multidiscrete": 5, "multibinary": 6, "box": 0}


class FuzzEnv(gym.Env):
    """
    Random observations; the reward falls with the distance of the action from a number that the observation begins with.

    :param observations: a key of :data:`OBSERVATIONS`.
    :param actions: a key of :data:`ACTIONS`.
    """

    def __init__(self, observations: str, actions: str) -> None:
        # Copies: a space has a generator of its own.
        self.observation_space = copy.deepcopy(OBSERVATIONS[observations])
        self.action_space = copy.deepcopy(ACTIONS[actions])
        self.n_masked = N_MASKED[actions]
        self.time = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.time = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step; some episodes end early, the others are truncated."""
        self.time += 1
        reward = 1.0 - abs(float(np.mean(action)) - self.goal)
        return self._observe(), reward, bool(self.np_random.random() < 0.05), self.time >= LENGTH, {}

    def action_masks(self) -> np.ndarray:
        """:return: every action, but the last one only every other step."""
        masks = np.ones(self.n_masked, bool)
        masks[-1] = self.time % 2
        return masks

    def _observe(self) -> Any:
        observation = self.observation_space.sample()
        first = next(iter(observation.values())) if isinstance(observation, dict) else observation
        self.goal = float(np.ravel(first)[0]) / (255 if np.size(first) > 9 else 1)
        return observation


class OwnExtractor(BaseFeaturesExtractor):
    """
    As a user might write one: convolutions with BatchNorm and a residual block for images, then residual linear layers with
    a LayerNorm over everything.

    :param observation_space: of any kind.
    :param features_dim: the number of features.
    :param channels: of the convolutions.
    """

    def __init__(self, observation_space: spaces.Space, features_dim: int = 14, channels: int = 8) -> None:
        super().__init__(observation_space, features_dim)
        parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {"": observation_space}
        self.images = [key for key, space in parts.items() if is_image_space(space)]
        length = sum(get_flattened_obs_dim(space) for key, space in parts.items() if key not in self.images)
        if self.images:
            depth = parts[self.images[0]].shape[0]  # type: ignore[index]
            self.stem = nn.Sequential(nn.Conv2d(depth, channels, 8, stride=6, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
            self.block = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
            self.last = nn.Conv2d(channels, 6, 3, stride=2)
            length += 6 * 3 * 3
        self.first, self.second = nn.Linear(length, features_dim), nn.Linear(features_dim, features_dim)
        self.norm = nn.LayerNorm(features_dim)

    def forward(self, observations: Any) -> th.Tensor:
        """:return: features, shape (n, features_dim)."""
        parts = observations if isinstance(observations, dict) else {"": observations}
        found = []
        for key, value in parts.items():
            if key in self.images:
                value = self.stem(value)
                value = F.relu(self.last(F.relu(value + self.block(value))))
            found.append(value.flatten(1))
        features = F.relu(self.first(th.cat(found, dim=1)))
        return self.norm(features + F.relu(self.second(features)))


def build_env(chosen: Combination) -> VecEnv:
    """:return: the environments."""
    kwargs = {"observations": chosen.observations, "actions": chosen.actions}
    env = make_vec_env(FuzzEnv, chosen.n_envs, seed=chosen.seed, env_kwargs=kwargs)
    if not chosen.normalize:
        return env
    if chosen.observations in ("image", "mixed"):  # else the replay buffer would be given images as they were before
        env = VecTransposeImage(env)
    vectors = {"vector": None, "vectors": ["place", "speed"], "mixed": ["place"]}  # images and numbers stay as they are
    return VecNormalize(env, norm_obs=chosen.observations in vectors, norm_obs_keys=vectors.get(chosen.observations))


def algorithm_class(name: str) -> Any:
    """:return: the class, of Stable-Baselines3 or sb3-contrib."""
    own = getattr(stable_baselines3, name, None)
    return getattr(require("sb3_contrib", "contrib"), name) if own is None else own


def build(chosen: Combination) -> BaseAlgorithm:
    """
    :param chosen: what was drawn.
    :return: the agent; whatever Stable-Baselines3 raises goes through.
    """
    name = chosen.algorithm
    kwargs: dict[str, Any] = {"activation_fn": getattr(nn, chosen.activation)}
    if chosen.net_arch is not None:
        kwargs["net_arch"] = chosen.net_arch
    if chosen.share is not None:
        kwargs["share_features_extractor"] = chosen.share
    if chosen.optimizer != "default":
        kwargs["optimizer_class"] = getattr(th.optim, chosen.optimizer)
        special = {"SGD": {"momentum": 0.9}, "AdamW": {"amsgrad": True}}
        kwargs["optimizer_kwargs"] = special.get(chosen.optimizer, {})
    if chosen.n_critics:
        kwargs["n_critics"] = chosen.n_critics
    if chosen.own_extractor:
        kwargs["features_extractor_class"] = OwnExtractor
    elif chosen.observations in ("image", "mixed"):
        size = "features_dim" if chosen.observations == "image" else "cnn_output_dim"
        kwargs["features_extractor_kwargs"] = {size: 20}
    if chosen.algorithm == "RecurrentPPO":
        kwargs |= {"lstm_hidden_size": 8, "enable_critic_lstm": chosen.lstm == "both", "shared_lstm": chosen.lstm == "shared"}
    if name in ("QRDQN", "TQC"):
        kwargs["n_quantiles"] = 5
    extra = copy.deepcopy(chosen.extra)
    kwargs |= extra.pop("policy", {})
    if "train_freq" in extra:
        extra["train_freq"] = tuple(extra["train_freq"])
    policy = f"{chosen.policy}{'Lstm' if name == 'RecurrentPPO' else ''}Policy"
    sde = {"use_sde": True, "sde_sample_freq": 4} if chosen.use_sde else {}
    options = _options(chosen) | sde | extra
    return algorithm_class(name)(policy, build_env(chosen), policy_kwargs=kwargs, seed=chosen.seed, device="cpu", **options)


def _options(chosen: Combination) -> dict[str, Any]:
    """Few, small updates, at a rate at which every tensor can be seen to move."""
    name, options = chosen.algorithm, {"learning_rate": 3e-3}
    if name == "ARS":
        return {"learning_rate": 0.02, "n_delta": 2}
    if name in ON_POLICY:
        options |= {"n_steps": 8 if name == "A2C" else 24}
        if name != "A2C":
            options |= {"batch_size": 24}
        if name in ("PPO", "MaskablePPO", "RecurrentPPO"):
            options |= {"n_epochs": 1, "ent_coef": 0.01}
        if name == "TRPO":
            options |= {"cg_max_steps": 4, "n_critic_updates": 2}
        return options
    options |= {"learning_starts": 16, "batch_size": 16, "buffer_size": 300, "train_freq": 4, "n_steps": chosen.n_steps}
    if name in Q_LEARNING:
        options |= {"target_update_interval": 8}
    if name == "TQC":
        options |= {"top_quantiles_to_drop_per_net": 1}
    assert name in (*CONTINUOUS, *Q_LEARNING)
    return options
