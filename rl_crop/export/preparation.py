"""From an observation as the environment gives it to what a features extractor takes."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecNormalize, VecTransposeImage
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.export.source import Source


class Normalize(nn.Module):
    """
    What ``VecNormalize`` does, in double precision as there.

    :param mean: of the observations
    :param variance: of them
    :param epsilon: added to the variance
    :param clip: the largest absolute result
    """

    mean: th.Tensor
    std: th.Tensor

    def __init__(self, mean: np.ndarray, variance: np.ndarray, epsilon: float, clip: float) -> None:
        super().__init__()
        self.register_buffer("mean", th.as_tensor(mean, dtype=th.float64).clone())
        self.register_buffer("std", th.as_tensor(np.sqrt(variance + epsilon), dtype=th.float64))
        self.clip = float(clip)

    def forward(self, x: th.Tensor) -> th.Tensor:
        return ((x.double() - self.mean) / self.std).clamp(-self.clip, self.clip).float()


class ChannelsFirst(nn.Module):
    """What ``VecTransposeImage`` does."""

    def forward(self, x: th.Tensor) -> th.Tensor:
        return x.permute(0, 3, 1, 2)


class ToFloat(nn.Module):
    """
    Numbers as they are, in single precision, or divided.

    :param divisor: 255 for images
    """

    def __init__(self, divisor: float = 1.0) -> None:
        super().__init__()
        self.divisor = divisor

    def forward(self, x: th.Tensor) -> th.Tensor:
        return x.float() if self.divisor == 1.0 else x.float() / self.divisor


class OneHot(nn.Module):
    """
    Whole numbers as the one-hot vectors of each, side by side.

    :param sizes: how many values each number has
    """

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, x: th.Tensor) -> th.Tensor:
        numbers = x.reshape(-1, len(self.sizes)).long()
        places = (th.arange(size, device=x.device) for size in self.sizes)
        return th.cat([numbers[:, i : i + 1] == place for i, place in enumerate(places)], dim=1).float()


def make_preparation(source: Source, key: str | None, space: spaces.Space, normalize_images: bool) -> nn.Sequential:
    """
    :param source: where observations come from
    :param key: of a part of a dictionary observation
    :param space: what the policy takes (this part of it)
    :param normalize_images: the policy divides images by 255
    :return: a chain of the modules of this file
    :raises PruningError: the space is not one of Stable-Baselines3
    """
    steps: list[nn.Module] = []
    for wrapper in source.wrappers:
        if isinstance(wrapper, VecNormalize) and wrapper.norm_obs:
            statistics: Any = wrapper.obs_rms
            if key is not None:
                statistics = statistics.get(key)
            if statistics is not None:
                steps.append(Normalize(statistics.mean, statistics.var, wrapper.epsilon, wrapper.clip_obs))
        elif isinstance(wrapper, VecTransposeImage) and not wrapper.skip and (key is None or key in wrapper.image_space_keys):
            steps.append(ChannelsFirst())
    return nn.Sequential(*steps, _preprocessing(space, normalize_images))


def _preprocessing(space: spaces.Space, normalize_images: bool) -> nn.Module:
    if isinstance(space, spaces.Box):
        return ToFloat(255.0 if normalize_images and is_image_space(space) else 1.0)
    if isinstance(space, spaces.Discrete):
        return OneHot([int(space.n)])
    if isinstance(space, spaces.MultiDiscrete):
        return OneHot([int(size) for size in space.nvec])
    if isinstance(space, spaces.MultiBinary):
        return ToFloat()
    raise PruningError(f"Observations of {space} cannot be exported.")
