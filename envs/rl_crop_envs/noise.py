"""Observations most of which mean nothing."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class NoiseDimensions(gym.Wrapper[np.ndarray, Any, np.ndarray, Any]):
    """
    Add dimensions of pure noise to an environment's observations: independent standard normal numbers, new at every step.
    Real and noisy dimensions are mixed by a permutation that is the same in every environment of the same size, so in
    training and in evaluation. The environment itself plays as it would without the wrapper.

    :param env: an environment whose observations are vectors
    :param noise_dims: the share of all dimensions that is noise (a number below 1; at least this share is), or how many
        dimensions to add (a whole number from 1)
    :param layout_seed: decides the permutation
    :raises ValueError: observations are no vectors, or ``noise_dims`` is neither a share nor a whole number

    The attribute ``real`` holds the positions of the real dimensions, in the order of the environment's own.
    """

    def __init__(self, env: gym.Env[np.ndarray, Any], noise_dims: float, layout_seed: int = 0) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1 or not np.issubdtype(space.dtype, np.floating):
            raise ValueError(f"Noise can be added to vectors of real numbers alone, observations are {space}")
        n_real = space.shape[0]
        n_noise = count_noise_dims(noise_dims, n_real)
        self.real = np.random.default_rng(layout_seed).permutation(n_real + n_noise)[:n_real]
        low = np.full(n_real + n_noise, -np.inf, space.dtype)
        high = -low
        low[self.real], high[self.real] = space.low, space.high
        self.observation_space = spaces.Box(low, high, dtype=space.dtype.type)
        self._rng = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """
        :param seed: seeds the environment, and the noise apart from it
        :param options: the environment's own
        :return: the first observation with its noise, and the environment's ``info``
        """
        if seed is not None:
            # Not the generator of `seed` alone, which may be the environment's: noise must tell nothing about it.
            self._rng = np.random.default_rng([seed, 1])
        observation, info = self.env.reset(seed=seed, options=options)
        return self._with_noise(observation), info

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """
        :param action: the environment's own
        :return: the environment's, the observation with its noise
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._with_noise(observation), reward, terminated, truncated, info

    def _with_noise(self, observation: np.ndarray) -> np.ndarray:
        shape = self.observation_space.shape
        assert shape is not None
        noisy = self._rng.standard_normal(shape).astype(observation.dtype)
        noisy[self.real] = observation
        return noisy


def count_noise_dims(noise_dims: float, n_real: int) -> int:
    """
    :param noise_dims: a share of all dimensions below 1, or a whole number from 1
    :param n_real: the dimensions that are there
    :return: how many to add
    :raises ValueError: ``noise_dims`` is neither
    """
    if isinstance(noise_dims, bool) or noise_dims < 0 or (noise_dims >= 1 and noise_dims != int(noise_dims)):
        raise ValueError(f"`noise_dims` is a share below 1 or a whole number from 1, got {noise_dims}")
    if noise_dims >= 1:
        return int(noise_dims)
    exact = noise_dims / (1 - noise_dims) * n_real
    return int(np.ceil(exact - 1e-9))  # 0.9 / (1 - 0.9) is a little above 9
