"""Noise dimensions: how many, where they are, what they are, and that the environment does not notice."""

import gymnasium as gym
import numpy as np
import pytest

from rl_crop_envs import NoiseDimensions, TrackingEnv
from rl_crop_envs.noise import count_noise_dims


def observations(env, steps, seed=0):
    found = [env.reset(seed=seed)[0]]
    for _ in range(steps):
        found.append(env.step(np.zeros(env.action_space.shape, np.float32))[0])
    return np.array(found)


@pytest.mark.parametrize(
    "noise_dims, n_real, added",
    [(0.9, 8, 72), (0.5, 3, 3), (0.99, 1, 99), (0.9, 1, 9), (0.75, 7, 21), (0, 4, 0), (5, 3, 5), (1, 3, 1)],
)
def test_how_many_are_added(noise_dims, n_real, added):
    assert count_noise_dims(noise_dims, n_real) == added


def test_at_least_the_share_is_noise():
    for n_real in range(1, 30):
        added = count_noise_dims(0.93, n_real)
        assert added / (added + n_real) >= 0.93 > (added - 1) / (added - 1 + n_real)


def test_real_dimensions_are_the_environments_own_and_it_does_not_notice():
    env = NoiseDimensions(TrackingEnv(), 0.9)
    assert env.observation_space.shape == (80,) and len(set(env.real)) == 8
    assert not np.array_equal(np.sort(env.real), np.arange(8)) and not np.array_equal(np.sort(env.real), np.arange(72, 80))
    assert np.array_equal(observations(env, 50, seed=3)[:, env.real], observations(TrackingEnv(), 50, seed=3))


def test_the_rest_is_independent_standard_normal():
    env = NoiseDimensions(TrackingEnv(), 20)
    seen = observations(env, 5000)
    noise = np.delete(seen, env.real, axis=1)
    assert noise.mean(0) == pytest.approx(np.zeros(20), abs=0.08)
    assert noise.std(0) == pytest.approx(np.ones(20), abs=0.08)
    together = np.corrcoef(np.hstack([noise[1:], noise[:-1], seen[1:, env.real]]), rowvar=False)
    assert np.abs(together[:20] - np.eye(48)[:20]).max() < 0.08


def test_seeds_and_the_layout():
    one, two = NoiseDimensions(TrackingEnv(), 0.9), NoiseDimensions(TrackingEnv(), 0.9)
    assert np.array_equal(one.real, two.real)  # training and evaluation must agree
    assert not np.array_equal(one.real, NoiseDimensions(TrackingEnv(), 0.9, layout_seed=1).real)
    assert np.array_equal(observations(one, 5, seed=7), observations(two, 5, seed=7))
    assert not np.array_equal(observations(one, 5, seed=7), observations(two, 5, seed=8))


def test_bounds_of_real_dimensions_stay():
    env = NoiseDimensions(gym.make("Pendulum-v1"), 0.9)
    assert np.array_equal(env.observation_space.high[env.real], gym.make("Pendulum-v1").observation_space.high)
    assert np.isinf(np.delete(env.observation_space.low, env.real)).all()
    assert env.observation_space.contains(env.reset(seed=0)[0])


def test_what_cannot_be_wrapped():
    with pytest.raises(ValueError, match="vectors"):
        NoiseDimensions(gym.make("FrozenLake-v1"), 0.9)
    for noise_dims in (-0.1, 1.5, True):
        with pytest.raises(ValueError, match="noise_dims"):
            NoiseDimensions(gym.make("Pendulum-v1"), noise_dims)
