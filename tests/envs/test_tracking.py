"""The tracking task: the teacher is the best policy, and what is narrower than it cannot be as good."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.utils.env_checker import check_env
from torch import nn

import rl_crop_envs  # noqa: F401
from rl_crop_envs import TrackingEnv


def rollout(env, policy, steps, seed=0):
    observation, _ = env.reset(seed=seed)
    observations, rewards = [observation], []
    for _ in range(steps):
        observation, reward, _, _, _ = env.step(policy(observation))
        observations.append(observation)
        rewards.append(reward)
    return np.array(observations), np.array(rewards)


def test_gymnasium_and_its_checks_accept_it():
    env = gym.make("rl_crop/Tracking-v0")
    assert env.observation_space.shape == (8,) and env.action_space.shape == (4,)
    check_env(env.unwrapped, skip_render_check=True)
    _, _ = env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(100)]
    assert ends[-1] == (False, True) and not any(any(end) for end in ends[:-1])  # stopped from outside, never over


def test_the_teacher_earns_the_best_return():
    env = TrackingEnv()
    _, rewards = rollout(env, env.optimal_action, 200)
    assert rewards == pytest.approx(env.optimal_return(), abs=1e-9)


def test_the_reward_is_minus_the_mean_squared_distance_to_the_teacher():
    env = TrackingEnv()
    observation, _ = env.reset(seed=1)
    action = env.action_space.sample()
    _, reward, _, _, _ = env.step(action)
    assert reward == pytest.approx(-np.mean((action - env.optimal_action(observation)) ** 2), abs=1e-6)


@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_observations_are_standard_normal_and_remember(memory):
    env = TrackingEnv(memory=memory)
    observations, rewards = rollout(env, lambda _: np.zeros(4, np.float32), 20_000)
    assert observations.mean(0) == pytest.approx(np.zeros(8), abs=0.15)
    assert observations.std(0) == pytest.approx(np.ones(8), abs=0.1)
    assert np.mean(observations[1:] * observations[:-1]) == pytest.approx(memory, abs=0.02)
    assert -rewards.mean() == pytest.approx(0.25, abs=0.03)  # what doing nothing earns


def test_the_best_action_is_always_within_the_action_space():
    for seed in range(3):
        env = TrackingEnv(teacher_seed=seed)
        far = 1000 * np.random.default_rng(0).standard_normal((10_000, 8))  # where every unit is saturated
        actions = env.optimal_action(far)
        assert (np.abs(actions) <= env.action_space.high).all()
        assert np.abs(actions).max() > 0.5 * env.action_space.high.max()


def test_the_teacher_is_decided_by_its_seed_alone():
    x = np.random.default_rng(0).standard_normal((3, 8))
    one, same, other = TrackingEnv(), TrackingEnv(), TrackingEnv(teacher_seed=1)
    one.reset(seed=4)
    assert np.array_equal(one.optimal_action(x), same.optimal_action(x))
    assert not np.allclose(one.optimal_action(x), other.optimal_action(x))


def best_fit(env, width, steps=700):
    """Mean squared distance of a network of this width that is told the teacher's actions, on fresh observations."""
    th.manual_seed(0)
    rng = np.random.default_rng(0)
    net = nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 4))
    optimizer = th.optim.Adam(net.parameters())
    schedule = th.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=steps)

    def distance(n):
        x = rng.standard_normal((n, 8)).astype(np.float32)
        return nn.functional.mse_loss(net(th.from_numpy(x)), th.from_numpy(env.optimal_action(x)))

    for _ in range(steps):
        optimizer.zero_grad()
        distance(256).backward()
        optimizer.step()
        schedule.step()
    with th.no_grad():
        return distance(20_000).item()


@pytest.mark.long
def test_a_network_that_is_too_narrow_must_fail():
    env = TrackingEnv()
    errors = {width: best_fit(env, width) for width in (4, 8, 16, 32)}
    assert errors[4] > errors[8] > 0.012
    assert errors[16] < errors[8] / 4 and errors[32] < 0.002


@pytest.mark.parametrize("wrong", [{"teacher_width": 0}, {"memory": 1.0}])
def test_arguments_out_of_range(wrong):
    with pytest.raises(ValueError, match="must be at least"):
        TrackingEnv(**wrong)
