"""Features extractors and policies of users' own; needs no rl_crop, so that stock processes can import it."""

import torch as th
import torch.nn.functional as F  # noqa: N812
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from tests.zoo.worlds import SIDE


class OwnExtractor(BaseFeaturesExtractor):
    """A user's own: convolutions with BatchNorm, a residual block, a depthwise convolution and a LayerNorm."""

    def __init__(self, observation_space: spaces.Box, features_dim: int = 12, channels: int = 8) -> None:
        super().__init__(observation_space, features_dim)
        self.stem = nn.Sequential(
            nn.Conv2d(observation_space.shape[0], channels, 8, stride=6, bias=False), nn.BatchNorm2d(channels)
        )
        self.inner = nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.outer = nn.Conv2d(6, channels, 3, padding=1)
        self.depthwise = nn.Conv2d(channels, channels, 3, stride=2, groups=channels)
        side = (((SIDE - 8) // 6 + 1) - 3) // 2 + 1
        self.linear = nn.Linear(channels * side**2, features_dim)
        self.norm = nn.LayerNorm(features_dim)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(x + self.outer(self.inner(x)))
        return F.relu(self.norm(self.linear(F.relu(self.depthwise(x)).flatten(1))))


class Normed(BaseFeaturesExtractor):
    """A features extractor with a layer and a LayerNorm."""

    def __init__(self, observation_space: spaces.Box, features_dim: int = 32) -> None:
        super().__init__(observation_space, features_dim)
        self.net = nn.Sequential(nn.Linear(observation_space.shape[0], features_dim), nn.LayerNorm(features_dim))

    def forward(self, observations):
        return self.net(observations).relu()


class OwnPolicy(ActorCriticPolicy):
    """A user's policy with a method more and a constructor of its own."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **{"activation_fn": nn.ELU, **kwargs})

    def entropy(self, observations):
        return self.get_distribution(observations).entropy()


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
