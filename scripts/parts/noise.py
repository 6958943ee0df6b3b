"""Noise on observations: how much of its return an agent keeps when its sensors are worse than in training."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

# The largest value of a pixel.
_BRIGHT = 255.0


class _Observing(VecEnvWrapper):
    # Calls ``_see`` with every observation that the agent is about to get, and hands on what that returns.

    def __init__(self, venv: VecEnv, see: Callable[[str, np.ndarray], np.ndarray]) -> None:
        super().__init__(venv)
        self._see = see

    def reset(self) -> Any:
        return self._look(self.venv.reset())

    def step_wait(self) -> Any:
        observations, *rest = self.venv.step_wait()
        return self._look(observations), *rest

    def _look(self, observations: Any) -> Any:
        if isinstance(observations, Mapping):
            return {key: self._see(key, value) for key, value in observations.items()}
        return self._see("", observations)


class Spread:
    """
    The standard deviation of each dimension of the observations that agents meet.

    Images need none: their noise is measured by the scale of pixels. What is not a box of numbers has none.

    :param space: the observation space
    """

    def __init__(self, space: spaces.Space) -> None:
        self.spaces = dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}
        self._seen = {
            key: RunningMeanStd(epsilon=0.0, shape=part.shape)
            for key, part in self.spaces.items()
            if isinstance(part, spaces.Box) and not is_image_space(part)
        }

    def watch(self, venv: VecEnv) -> VecEnv:
        """
        Add what is observed in some environments.

        :param venv: environments of this observation space
        :return: the same environments, watched
        """
        return _Observing(venv, self._update)

    def _update(self, key: str, observations: np.ndarray) -> np.ndarray:
        if key in self._seen:
            self._seen[key].update(observations)
        return observations

    @property
    def units(self) -> dict[str, Any]:
        """One unit of noise by key of the observation (``""`` where it is not a dictionary); an array, or 255 for images."""
        images = {key: _BRIGHT for key, part in self.spaces.items() if is_image_space(part)}
        return images | {key: np.sqrt(seen.var) for key, seen in self._seen.items()}


def with_noise(venv: VecEnv, units: Mapping[str, Any], level: float, seed: int) -> VecEnv:
    """
    Add Gaussian noise to what is observed. The noise is drawn from the seed and the number of the step alone, so that every
    agent gets the same.

    :param venv: the environments
    :param units: one unit of noise, see :attr:`Spread.units`; other parts of an observation stay as they are
    :param level: the standard deviation of the noise, in these units
    :param seed: seeds the noise
    :return: the same environments, noisy; pixels are rounded and stay between 0 and 255
    """
    generators = {key: np.random.default_rng([seed, place]) for place, key in enumerate(sorted(units))}

    def add(key: str, observations: np.ndarray) -> np.ndarray:
        if key not in units:
            return observations
        noisy = observations + level * units[key] * generators[key].standard_normal(observations.shape)
        if observations.dtype == np.uint8:
            noisy = np.rint(noisy).clip(0, _BRIGHT)
        return noisy.astype(observations.dtype)

    return _Observing(venv, add)
