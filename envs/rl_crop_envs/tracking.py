"""A task whose best policy is a network of known width: an agent that becomes too narrow for it must fail."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

# How steep the teacher's units are. Flatter units are so nearly linear that fewer can stand in for them.
_STEEPNESS = 3.0
# Standard deviation of the best actions
_SPREAD = 0.5


class TrackingEnv(gym.Env[np.ndarray, np.ndarray]):
    """
    Track the output of a network, the teacher: the reward is minus the squared distance of the action to the teacher's,
    averaged over the actions, so that the best return is 0 and minus the mean reward is the mean squared distance.

    The teacher has one hidden layer of ``teacher_width`` tanh units and a linear output. Each of its outputs has mean 0 and
    standard deviation 0.5 over observations: an agent that always does nothing earns -0.25 a step. The action space is
    just wide enough for whatever the teacher can ask for.

    Observations are standard normal at every step and remember their past (``s' = memory · s + √(1 - memory²) · noise``).
    Actions do not move them, so every policy is measured on the same observations. Without a time limit episodes never end;
    ``rl_crop/Tracking-v0`` stops them after 100 steps.

    :param n_observations: dimensions of an observation
    :param n_actions: dimensions of an action
    :param teacher_width: units in the teacher's hidden layer
    :param memory: correlation of an observation with the next, at least 0, below 1; 0 makes them independent
    :param teacher_seed: decides the teacher, which is the same in all episodes
    :raises ValueError: an argument is out of range
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(
        self,
        n_observations: int = 8,
        n_actions: int = 4,
        teacher_width: int = 16,
        memory: float = 0.9,
        teacher_seed: int = 0,
    ) -> None:
        if min(n_observations, n_actions, teacher_width) < 1:
            raise ValueError("`n_observations`, `n_actions` and `teacher_width` must be at least 1")
        if not 0 <= memory < 1:
            raise ValueError(f"`memory` must be at least 0 and below 1, got {memory}")
        rng = np.random.default_rng(teacher_seed)
        self._weight = rng.standard_normal((teacher_width, n_observations))
        self._weight *= _STEEPNESS / np.linalg.norm(self._weight, axis=1, keepdims=True)
        self._bias = rng.standard_normal(teacher_width)
        self._output = rng.standard_normal((n_actions, teacher_width))
        self._offset = np.zeros(n_actions)
        raw = self._teacher(rng.standard_normal((10_000, n_observations)))
        scale = _SPREAD / raw.std(0)
        self._output, self._offset = self._output * scale[:, None], -raw.mean(0) * scale
        # A tanh unit is within [-1, 1]
        bound = (np.abs(self._output).sum(1) + np.abs(self._offset)).astype(np.float32)
        self.action_space = spaces.Box(-bound, bound)
        self.observation_space = spaces.Box(-np.inf, np.inf, (n_observations,))
        self._memory = memory
        self._state = np.zeros(n_observations)

    def optimal_action(self, observation: np.ndarray) -> np.ndarray:
        """
        :param observation: one observation, ``(n_observations,)``, or a batch of them
        :return: the teacher's action for each, ``(n_actions,)`` or ``(batch, n_actions)``
        """
        return self._teacher(observation).astype(np.float32)

    def optimal_return(self) -> float:
        """
        :return: the return of the teacher, which is 0
        """
        return 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """
        :param seed: seeds the observations, not the teacher
        :param options: unused
        :return: the first observation, and an empty ``info``
        """
        super().reset(seed=seed)
        self._state = self.np_random.standard_normal(len(self._state))
        return self._state.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        :param action: ``(n_actions,)``
        :return: the next observation, minus the mean squared distance, ``False`` twice, and an empty ``info``
        """
        reward = -float(np.mean((action - self._teacher(self._state)) ** 2))
        noise = self.np_random.standard_normal(len(self._state))
        self._state = self._memory * self._state + np.sqrt(1 - self._memory**2) * noise
        return self._state.astype(np.float32), reward, False, False, {}

    def _teacher(self, observation: np.ndarray) -> np.ndarray:
        return np.tanh(observation @ self._weight.T + self._bias) @ self._output.T + self._offset
