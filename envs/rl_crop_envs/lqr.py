"""A linear-quadratic regulator: how far an agent is from the best there is can be computed, not guessed."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rl_crop_envs.linear_quadratic import LinearQuadratic


class LQREnv(gym.Env[np.ndarray, np.ndarray]):
    """
    Drive a random, noisy linear system to zero at little cost. Observations are its states, actions are within [-1, 1].

    An episode has ``horizon`` steps and then terminates. The best policy is linear, needs no time, and never leaves the
    action space; an action outside is taken as it is. ``info["regret"]`` is what the step's action costs against the
    best one: an episode's expected return is the best return minus the expected sum of the regrets, for every policy.

    :param n_states: number of states
    :param n_actions: number of actions
    :param spectral_radius: the largest absolute eigenvalue of the dynamics; above 1 the system is unstable
    :param action_cost: price of the actions relative to that of the states
    :param horizon: steps of an episode
    :param noise: what the noise adds to a state in a step is uniform on [-noise, noise]; first states are on [-1, 1]
    :param system_seed: decides the system, which is the same in all episodes
    :raises ValueError: an argument is out of range
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(
        self,
        n_states: int = 8,
        n_actions: int = 4,
        spectral_radius: float = 1.0,
        action_cost: float = 0.1,
        horizon: int = 50,
        noise: float = 0.1,
        system_seed: int = 0,
    ) -> None:
        if min(n_states, n_actions, horizon) < 1:
            raise ValueError(f"At least one state, action and step are needed, got {n_states}, {n_actions} and {horizon}")
        if min(spectral_radius, action_cost) <= 0 or noise < 0:
            raise ValueError("`spectral_radius` and `action_cost` must be above zero, `noise` not below")
        self.problem = LinearQuadratic.random(n_states, n_actions, spectral_radius, action_cost, horizon, noise, system_seed)
        self._riccati, self._curvature = self.problem.riccati(), self.problem.curvature()
        self._gain = self.problem.best_gain()
        bound = self.problem.largest_states().astype(np.float32)
        self.observation_space = spaces.Box(-bound, bound)
        self.action_space = spaces.Box(-1.0, 1.0, (n_actions,))
        self._state, self._step = np.zeros(n_states), 0

    def optimal_action(self, observation: np.ndarray) -> np.ndarray:
        """
        :param observation: one observation, ``(n_states,)``, or a batch of them
        :return: the best action of each, ``(n_actions,)`` or ``(batch, n_actions)``
        """
        return (observation @ self._gain.T).astype(np.float32)

    def optimal_return(self) -> float:
        """
        :return: the expected return of an episode under the best policy
        """
        return self.problem.best_return()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """
        :param seed: seeds first states and noise, not the system
        :param options: unused
        :return: the first state, and an empty ``info``
        """
        super().reset(seed=seed)
        self._state, self._step = self._draw(self.problem.start), 0
        return self._state.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        :param action: ``(n_actions,)``
        :return: the new state, the reward, whether the horizon is reached, ``False``, and the ``regret``
        """
        problem, state = self.problem, self._state
        action = np.asarray(action, np.float64)
        cost = state @ problem.state_cost @ state + action @ problem.action_cost @ action
        distance = action - self._gain @ state
        self._state = problem.dynamics @ state + problem.control @ action + self._draw(problem.noise)
        self._step += 1
        done = self._step >= problem.horizon
        if done:
            cost += self._state @ self._riccati @ self._state
        info = {"regret": float(distance @ self._curvature @ distance)}
        return self._state.astype(np.float32), -float(cost), done, False, info

    def _draw(self, half_edge: float) -> np.ndarray:
        return self.np_random.uniform(-half_edge, half_edge, len(self._state))
