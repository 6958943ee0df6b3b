"""The regulator's closed forms against episodes that are played, against other policies, and against other derivations."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import rl_crop_envs  # noqa: F401
from rl_crop_envs import LQREnv

SYSTEMS = [{}, {"n_states": 3, "n_actions": 1, "spectral_radius": 1.1, "horizon": 20, "system_seed": 5}]
EPISODES = 400


def play(env, gain, n_episodes=EPISODES):
    """Returns, sums of regrets, and the largest action of episodes under a linear policy."""
    totals, regrets, largest = [], [], 0.0
    for seed in range(n_episodes):
        observation, _ = env.reset(seed=seed)
        total = regret = 0.0
        done = False
        while not done:
            action = gain @ observation
            largest = max(largest, np.abs(action).max())
            observation, reward, done, _, info = env.step(action)
            assert info["regret"] >= 0
            total, regret = total + reward, regret + info["regret"]
        totals.append(total)
        regrets.append(regret)
    return np.array(totals), np.array(regrets), largest


def within_sampling_error(samples, expected):
    return abs(samples.mean() - expected) < 4 * samples.std() / np.sqrt(len(samples))


@pytest.fixture(params=SYSTEMS, ids=["default", "small and unstable"])
def env(request):
    return LQREnv(**request.param)


def test_gymnasium_and_its_checks_accept_it():
    made = gym.make("rl_crop/LQR-v0", n_states=3, n_actions=2)
    assert made.observation_space.shape == (3,) and made.action_space.shape == (2,)
    assert np.isfinite(made.observation_space.high).all()
    check_env(made.unwrapped, skip_render_check=True)


def test_expected_returns_are_those_of_episodes(env):
    best = env.problem.best_gain()
    rng = np.random.default_rng(0)
    for gain in (best, 0.5 * best, best + 0.02 * rng.standard_normal(best.shape)):
        totals, _, _ = play(env, gain)
        assert within_sampling_error(totals, env.problem.expected_return(gain))


def test_the_best_return_is_that_of_the_best_policy_and_of_no_other(env):
    problem, best = env.problem, env.problem.best_gain()
    assert env.optimal_return() == pytest.approx(problem.expected_return(best), rel=1e-9)
    rng = np.random.default_rng(0)
    for size in (1e-3, 1e-2):
        worse = [problem.expected_return(best + size * rng.standard_normal(best.shape)) for _ in range(20)]
        assert max(worse) < env.optimal_return()


def test_the_best_feedback_is_that_of_the_recursion_over_time(env):
    problem = env.problem
    a, b, q, r = problem.dynamics, problem.control, problem.state_cost, problem.action_cost
    values = problem.riccati()
    for _ in range(problem.horizon):  # backwards from the last cost: it must stay what it is
        gain = -np.linalg.solve(r + b.T @ values @ b, b.T @ values @ a)
        assert gain == pytest.approx(problem.best_gain(), abs=1e-8)
        values = q + a.T @ values @ a + a.T @ values @ b @ gain
    observations = np.random.default_rng(0).standard_normal((5, len(a)))
    assert env.optimal_action(observations) == pytest.approx(observations @ gain.T, abs=1e-5)


def test_regret_is_the_distance_to_the_best_return(env):
    best = env.problem.best_gain()
    _, none, _ = play(env, best, 5)
    assert none == pytest.approx(0.0, abs=1e-9)
    _, regrets, _ = play(env, 0.5 * best)
    assert within_sampling_error(regrets, env.optimal_return() - env.problem.expected_return(0.5 * best))


def test_the_best_policy_stays_within_the_action_space_even_where_chance_is_worst(env):
    problem, gain = env.problem, env.problem.best_gain()
    assert problem.largest_actions(gain) == pytest.approx(np.ones(len(gain)))
    # The worst case of the first action, built by hand: the push that is largest in the end, from start and noise alike.
    closed = problem.dynamics + problem.control @ gain
    powers = [np.linalg.matrix_power(closed, k) for k in range(problem.horizon)]
    largest = 0.0
    for steps in range(problem.horizon):
        state = problem.start * np.sign(gain[0] @ powers[steps])
        for k in range(steps):
            state = closed @ state + problem.noise * np.sign(gain[0] @ powers[steps - 1 - k])
        largest = max(largest, gain[0] @ state)
    assert largest == pytest.approx(1.0)


def test_states_stay_within_the_observation_space():
    env = LQREnv(n_states=2, n_actions=1, horizon=10, spectral_radius=1.2)
    top = 0.0
    for seed in range(300):
        observation, _ = env.reset(seed=seed)
        done = False
        while not done:
            observation, _, done, _, _ = env.step(np.sign(observation[:1] + 1e-9).astype(np.float32))
            assert env.observation_space.contains(observation)
            top = max(top, (np.abs(observation) / env.observation_space.high).max())
    assert top > 0.3  # the bounds are of the right size


def test_the_system_is_decided_by_its_seed_alone():
    same, again, other = LQREnv(), LQREnv(), LQREnv(system_seed=1)
    same.reset(seed=3)
    assert np.array_equal(same.problem.dynamics, again.problem.dynamics)
    assert not np.allclose(same.problem.dynamics, other.problem.dynamics)
    assert np.abs(np.linalg.eigvals(other.problem.dynamics)).max() == pytest.approx(1.0)


@pytest.mark.parametrize("wrong", [{"n_states": 0}, {"spectral_radius": 0.0}, {"noise": -1.0}, {"horizon": 0}])
def test_arguments_out_of_range(wrong):
    with pytest.raises(ValueError, match="needed|must be"):
        LQREnv(**wrong)
