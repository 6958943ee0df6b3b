"""From what the last layer says to the action that the environment takes, as deterministic ``predict`` does it."""

import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

from rl_crop.core.errors import PruningError

# Two scores are a tie where they differ by less, of the larger one where that is above 1: single precision tells no more.
TIE = 1e-6


class Choice(nn.Module):
    """
    The best of several values, for each of several numbers.

    :param sizes: how many values each number has
    :param shape: of the action
    :param n_quantiles: scores of each value, whose mean counts
    """

    def __init__(self, sizes: list[int], shape: tuple[int, ...], n_quantiles: int = 1) -> None:
        super().__init__()
        self.sizes, self.shape, self.n_quantiles = sizes, shape, n_quantiles
        self.dtype = np.dtype(np.int64)

    def values(self, scores: th.Tensor, masks: th.Tensor | None = None) -> th.Tensor:
        """:return: one score for each value, -1e8 where the mask forbids it."""
        if self.n_quantiles > 1:
            scores = scores.view(-1, self.n_quantiles, sum(self.sizes)).mean(dim=1)
        return scores if masks is None else th.where(masks, scores, -1e8)

    def forward(self, scores: th.Tensor, masks: th.Tensor | None = None) -> th.Tensor:
        parts = th.split(self.values(scores, masks), self.sizes, dim=1)
        return th.stack([part.argmax(dim=1) for part in parts], dim=1).reshape(-1, *self.shape)

    def ties(self, action: np.ndarray, other: np.ndarray, scores: th.Tensor, masks: th.Tensor | None = None) -> np.ndarray:
        """
        :param action: chosen by the policy
        :param other: chosen by the file
        :param scores: those of both
        :param masks: which values were allowed
        :return: boolean, of the action's shape: the scores of the two choices are a tie
        """
        parts = th.split(self.values(scores, masks), self.sizes, dim=1)
        rows = []
        for i, part in enumerate(parts):
            one, two = (
                part.gather(1, th.as_tensor(choice.reshape(len(part), -1)[:, i : i + 1]).long()) for choice in (action, other)
            )
            rows.append((one - two).abs() < TIE * th.maximum(one.abs(), two.abs()).clamp(min=1))
        return th.cat(rows, dim=1).numpy().reshape(action.shape)


class Threshold(nn.Module):
    """
    Yes where the logit is above zero.

    :param shape: of the action
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.dtype = np.dtype(np.float32)

    def forward(self, scores: th.Tensor) -> th.Tensor:
        return (scores > 0).float().reshape(-1, *self.shape)

    def ties(self, action: np.ndarray, other: np.ndarray, scores: th.Tensor) -> np.ndarray:
        """:return: boolean, of the action's shape: the logit is as good as zero (parameters as of :meth:`Choice.ties`)."""
        return (scores.abs() < TIE).numpy().reshape(action.shape)


class Bounded(nn.Module):
    """
    An action of the environment's scale.

    :param space: of the actions
    :param squashed: the scores lie in [-1, 1] and are stretched to the bounds; else they are clipped to them
    """

    low: th.Tensor
    high: th.Tensor

    def __init__(self, space: spaces.Box, squashed: bool) -> None:
        super().__init__()
        self.shape, self.squashed = space.shape, squashed
        self.dtype = np.result_type(np.float32, space.dtype)
        self.register_buffer("low", th.as_tensor(space.low.astype(self.dtype)))
        self.register_buffer("high", th.as_tensor(space.high.astype(self.dtype)))

    def forward(self, scores: th.Tensor) -> th.Tensor:
        action = scores.reshape(-1, *self.shape)
        if self.squashed:
            return self.low + 0.5 * (action + 1.0) * (self.high - self.low)
        return th.minimum(th.maximum(action.to(self.low.dtype), self.low), self.high)

    def scale(self, action: np.ndarray) -> np.ndarray:
        """
        :return: what a difference of actions is divided by: 1, or more where single precision is coarser for being applied to
            larger numbers
        """
        if self.squashed:
            return np.maximum(1.0, (self.high.numpy() - self.low.numpy()) / 2)
        return np.maximum(1.0, np.abs(action))


def make_decision(space: spaces.Space, squashed: bool, masked: bool, n_quantiles: int) -> Choice | Threshold | Bounded:
    """
    :param space: of the actions
    :param squashed: the policy's networks end in [-1, 1]
    :param masked: the policy takes masks of actions
    :param n_quantiles: scores of each value of a discrete action
    :return: the last step
    :raises PruningError: the space is not one of Stable-Baselines3
    """
    if isinstance(space, spaces.Box):
        return Bounded(space, squashed)
    if isinstance(space, spaces.Discrete):
        return Choice([int(space.n)], (), n_quantiles)
    if isinstance(space, spaces.MultiDiscrete):
        return Choice([int(size) for size in space.nvec], space.shape)
    if isinstance(space, spaces.MultiBinary):
        # Policies with masks score both answers.
        return Choice([2] * int(np.prod(space.shape)), space.shape) if masked else Threshold(space.shape)
    raise PruningError(f"Actions of {space} cannot be exported.")
