"""Linear dynamics with quadratic costs: what the best policy is and what any linear policy earns, in closed form."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_discrete_are


@dataclass(frozen=True, eq=False)
class LinearQuadratic:
    """
    A problem of ``n`` states and ``m`` actions over ``horizon`` steps.

    The state moves by ``x' = A x + B u + w``. The return is minus the sum of ``xᵀ Q x + uᵀ R u`` over all steps and of
    ``xᵀ P x`` at the end, where ``P`` solves the algebraic Riccati equation. With this last cost the best policy is the same
    linear feedback at every step, so that observations need not tell the time.

    The first state and every ``w`` are uniform on a cube around zero, independent in every dimension. So the states
    that the best policy can meet are bounded, and so are its actions.

    :param dynamics: ``A``, ``(n, n)``
    :param control: ``B``, ``(n, m)``
    :param state_cost: ``Q``, ``(n, n)``, symmetric, positive definite
    :param action_cost: ``R``, ``(m, m)``, symmetric, positive definite
    :param horizon: steps of an episode
    :param start: half the edge of the cube of first states
    :param noise: half the edge of the cube of ``w``
    """

    dynamics: np.ndarray
    control: np.ndarray
    state_cost: np.ndarray
    action_cost: np.ndarray
    horizon: int
    start: float
    noise: float

    @staticmethod
    def random(
        n_states: int, n_actions: int, spectral_radius: float, action_cost: float, horizon: int, noise: float, seed: int
    ) -> "LinearQuadratic":
        """
        Draw a problem whose best actions fill [-1, 1] and never leave it.

        :param n_states: number of states
        :param n_actions: number of actions
        :param spectral_radius: the largest absolute eigenvalue of the dynamics; above 1 the system is unstable
        :param action_cost: price of the actions relative to that of the states, before actions are scaled
        :param horizon: steps of an episode
        :param noise: half the edge of the cube of the noise; first states are within [-1, 1]
        :param seed: decides the system
        :return: the problem
        """
        rng = np.random.default_rng(seed)
        dynamics = rng.standard_normal((n_states, n_states))
        dynamics *= spectral_radius / np.abs(np.linalg.eigvals(dynamics)).max()
        control = rng.standard_normal((n_states, n_actions)) / np.sqrt(n_states)
        state_cost, costs = np.eye(n_states) / n_states, np.eye(n_actions) * action_cost / n_actions
        raw = LinearQuadratic(dynamics, control, state_cost, costs, horizon, 1.0, noise)
        scale = np.diag(raw.largest_actions(raw.best_gain()))
        return LinearQuadratic(dynamics, control @ scale, state_cost, scale @ costs @ scale, horizon, 1.0, noise)

    def riccati(self) -> np.ndarray:
        """
        :return: ``P``, ``(n, n)``: from state ``x`` on, the best policy pays ``xᵀ P x``, and what the noise adds
        """
        return solve_discrete_are(self.dynamics, self.control, self.state_cost, self.action_cost)

    def curvature(self) -> np.ndarray:
        """
        :return: ``R + Bᵀ P B``, ``(m, m)``: an action that is ``d`` away from the best one loses ``dᵀ (R + Bᵀ P B) d``
        """
        return self.action_cost + self.control.T @ self.riccati() @ self.control

    def best_gain(self) -> np.ndarray:
        """
        :return: the gain ``G``, ``(m, n)``, of the best policy ``u = G x``
        """
        return -np.linalg.solve(self.curvature(), self.control.T @ self.riccati() @ self.dynamics)

    def expected_return(self, gain: np.ndarray) -> float:
        """
        What a linear policy earns in an episode, on average over first states and noise; exact.

        :param gain: ``G``, ``(m, n)``, of the policy ``u = G x``
        :return: the expected return, without discount
        """
        identity = np.eye(len(self.dynamics))
        closed = self.dynamics + self.control @ gain
        cost = self.state_cost + gain.T @ self.action_cost @ gain
        covariance = identity * self.start**2 / 3  # the variance of a uniform variable on [-h, h] is h² / 3
        total = 0.0
        for _ in range(self.horizon):
            total += np.sum(cost * covariance)
            covariance = closed @ covariance @ closed.T + identity * self.noise**2 / 3
        return -float(total + np.sum(self.riccati() * covariance))

    def best_return(self) -> float:
        """
        :return: the largest expected return that any policy can have
        """
        spread = self.start**2 / 3 + self.horizon * self.noise**2 / 3
        return -float(np.trace(self.riccati()) * spread)

    def largest_actions(self, gain: np.ndarray) -> np.ndarray:
        """
        :param gain: ``G``, ``(m, n)``, of the policy ``u = G x``
        :return: the largest absolute value that each of its actions can take in an episode, ``(m,)``
        """
        closed = self.dynamics + self.control @ gain
        return self._reach([gain @ power for power in _powers(closed, self.horizon)])

    def largest_states(self) -> np.ndarray:
        """
        :return: the largest absolute value of each state in an episode, ``(n,)``, whatever a policy does within [-1, 1]
        """
        powers = _powers(self.dynamics, self.horizon + 1)
        pushes = np.cumsum([np.abs(power @ self.control).sum(1) for power in powers[:-1]], axis=0)
        return self._reach(powers) + pushes[-1]

    def _reach(self, responses: list[np.ndarray]) -> np.ndarray:
        # A linear function of a point in a cube is largest in a corner: there it is the sum of the absolute coefficients.
        sums = np.abs(responses).sum(2)
        noise = self.noise * (np.cumsum(sums, axis=0) - sums)
        return (self.start * sums + noise).max(0)


def _powers(matrix: np.ndarray, count: int) -> list[np.ndarray]:
    powers = [np.eye(len(matrix))]
    for _ in range(count - 1):
        powers.append(matrix @ powers[-1])
    return powers
