"""Agents of every kind that can be exported, in an environment that remembers what it gave."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

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


class Own(BaseFeaturesExtractor):
    """A user's extractor: a residual connection, functions instead of modules, a tensor that it keeps."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space, 2 * space.shape[0])
        self.first = nn.Linear(space.shape[0], space.shape[0])

    def forward(self, x: th.Tensor) -> th.Tensor:
        y = self.first(x)
        self.kept = y + th.nn.functional.elu(th.flatten(y, 1), 0.5)  # what has two names keeps its value
        return th.cat([self.kept, x.tanh()], dim=1)


class SmallCNN(BaseFeaturesExtractor):
    """Uneven channels, as pruning leaves them."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space, 7)
        layers = [nn.Conv2d(space.shape[0], 5, 8, 4), nn.ReLU(), nn.Conv2d(5, 3, 3, 2), nn.ReLU(), nn.Flatten()]
        self.layers = nn.Sequential(*layers, nn.Linear(3 * 3 * 3, 7))

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.layers(x)


class WithNorms(BaseFeaturesExtractor):
    """Normalisation by layer and by batch."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space, 6)
        self.layers = nn.Sequential(
            nn.Linear(3, 6), nn.LayerNorm(6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 6, bias=False)
        )

    def forward(self, x: th.Tensor) -> th.Tensor:
        return self.layers(x)


def build(
    algorithm: type[BaseAlgorithm],
    observations: spaces.Space = BOX,
    actions: spaces.Space = CHOICE,
    policy: str | None = None,
    normalize: dict | None = None,
    n_envs: int = 2,
    seed: int = 0,
    toy: type[Toy] = Toy,
    **keywords: Any,
) -> BaseAlgorithm:
    """
    An agent with random weights and, where it has some, random statistics.

    :param normalize: arguments of ``VecNormalize``
    :param seed: of the weights
    :param toy: the environment
    """
    env: Any = DummyVecEnv([lambda: toy(observations, actions)] * n_envs)
    env.seed(0)
    if normalize is not None:
        env = VecNormalize(env, **normalize)
        env.reset()
        for _ in range(10):
            env.step(np.array([actions.sample() for _ in range(n_envs)]))
        env.training = False
    policy = policy or ("MultiInputPolicy" if isinstance(observations, spaces.Dict) else "MlpPolicy")
    if issubclass(algorithm, (PPO, A2C, TRPO, MaskablePPO, RecurrentPPO)):
        keywords.setdefault("n_steps", 16)
        if not issubclass(algorithm, A2C):
            keywords.setdefault("batch_size", 16)
    elif not issubclass(algorithm, ARS):
        keywords.setdefault("buffer_size", 64)
    model = algorithm(policy, env, seed=0, device="cpu", **keywords)
    generator = th.Generator().manual_seed(seed)
    with th.no_grad():
        for parameter in model.policy.parameters():
            noise = th.randn(parameter.shape, generator=generator)
            parameter.add_(noise / max(parameter.shape[-1], 9) ** 0.5 if parameter.dim() > 1 else 0.3 * noise)
        for buffer in model.policy.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.3 * th.rand(buffer.shape, generator=generator))
    return model


def kw(**policy_kwargs: Any) -> dict[str, Any]:
    return {"policy_kwargs": {"net_arch": [13, 11], **policy_kwargs}}


SDE = {"use_sde": True, "sde_sample_freq": 4}
# What both formats can express.
AGENTS: dict[str, Callable[[], BaseAlgorithm]] = {
    "ppo": lambda: build(PPO, **kw(net_arch={"pi": [13, 5], "vf": [8]})),
    "ppo_clipped_separate": lambda: build(
        PPO, DOUBLE, TORQUES, **kw(share_features_extractor=False, features_extractor_class=Own)
    ),
    "ppo_sde_squashed": lambda: build(PPO, BOX, TORQUES, **SDE, **kw(squash_output=True, activation_fn=nn.ELU)),
    "ppo_normalized": lambda: build(PPO, DOUBLE, TORQUES, normalize={"clip_obs": 1.0}, **kw()),
    "ppo_parts_normalized": lambda: build(PPO, PARTS, spaces.MultiBinary(3), normalize={"norm_obs_keys": ["speed"]}, **kw()),
    "a2c_multi_discrete": lambda: build(A2C, spaces.MultiDiscrete([3, 4]), spaces.MultiDiscrete([2, 5]), **kw()),
    "dqn_discrete": lambda: build(DQN, spaces.Discrete(6), **kw(activation_fn=nn.SiLU)),
    "dqn_image_mlp": lambda: build(DQN, spaces.Box(0, 255, (1, 36, 36), np.uint8), seed=5, **kw()),
    "sac_matrices": lambda: build(SAC, MATRIX, MATRIX, **kw()),
    "sac_norms": lambda: build(SAC, BOX, TORQUES, **kw(features_extractor_class=WithNorms)),
    "sac_sde": lambda: build(SAC, BOX, TORQUES, **SDE, **kw(net_arch=[], clip_mean=0.4)),
    "td3_parts": lambda: build(TD3, PARTS, TORQUES, **kw()),
    "ddpg": lambda: build(DDPG, BOX, TORQUES, **kw(activation_fn=nn.GELU)),
    "tqc": lambda: build(TQC, BOX, TORQUES, **kw(n_quantiles=5, activation_fn=nn.LeakyReLU)),
    "qrdqn": lambda: build(QRDQN, seed=2, **kw(n_quantiles=7, activation_fn=nn.Softplus)),
    "trpo": lambda: build(TRPO, BOX, TORQUES, **kw(activation_fn=nn.Sigmoid)),
    "maskable": lambda: build(MaskablePPO, toy=MaskedToy, **kw()),
    "maskable_binary": lambda: build(MaskablePPO, actions=spaces.MultiBinary(3), toy=MaskedToy, **kw()),
    "crossq": lambda: build(CrossQ, BOX, TORQUES, **kw()),
    "ars": lambda: build(ARS, BOX, TORQUES, **kw()),
    "ars_linear": lambda: build(ARS, BOX, CHOICE, "LinearPolicy"),
}
# What only ONNX can.
WITH_IMAGES: dict[str, Callable[[], BaseAlgorithm]] = {
    "ppo_image": lambda: build(PPO, IMAGE, TORQUES, "CnnPolicy", **kw(features_extractor_kwargs={"features_dim": 9})),
    "dqn_own_cnn": lambda: build(DQN, IMAGE, CHOICE, "CnnPolicy", seed=2, **kw(features_extractor_class=SmallCNN)),
    "td3_seen_normalized": lambda: build(TD3, SEEN, TORQUES, normalize={"norm_obs_keys": ["speed"]}, **kw()),
}
RECURRENT: dict[str, Callable[[], BaseAlgorithm]] = {
    "recurrent": lambda: build(RecurrentPPO, BOX, TORQUES, "MlpLstmPolicy", **kw(lstm_hidden_size=6, n_lstm_layers=2)),
    "recurrent_parts": lambda: build(RecurrentPPO, FEWER, CHOICE, "MultiInputLstmPolicy", **kw(lstm_hidden_size=6)),
}


def given(env: Any) -> Any:
    """:return: what the environments gave last, before any wrapper, stacked."""
    rows = [env.given for env in env.unwrapped.envs]
    if isinstance(rows[0], dict):
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    return np.stack(rows)
