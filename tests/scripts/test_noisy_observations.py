import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from parts.noise import Spread, with_noise

BOX = spaces.Box(-np.inf, np.inf, (2,))
IMAGE = spaces.Box(0, 255, (8, 8, 3), np.uint8)


class Scripted(gym.Env):
    """Shows the observations that it is given, whatever is done."""

    action_space = spaces.Discrete(2)

    def __init__(self, space, observations):
        self.observation_space, self.observations = space, observations

    def reset(self, *, seed=None, options=None):
        self.step_number = 0
        return self.observations[0], {}

    def step(self, action):
        self.step_number += 1
        return self.observations[self.step_number], 0.0, False, False, {}


def scripted(space, observations, n_envs=1):
    return DummyVecEnv([lambda: Scripted(space, observations)] * n_envs)


def shown(env, n_steps):
    seen = [env.reset()]
    for _ in range(n_steps):
        seen.append(env.step(np.zeros(env.num_envs, dtype=int))[0])
    return seen


def test_spread_is_that_of_everything_that_was_seen():
    first, second = np.random.default_rng(0).normal([1e6, 3.0], [2.0, 0.0], size=(2, 30, 2)).astype(np.float32)
    spread = Spread(BOX)
    for observations in (first, second):
        assert np.array_equal(np.concatenate(shown(spread.watch(scripted(BOX, observations)), 29)), observations)
    assert spread.units[""] == pytest.approx(np.concatenate([first, second]).astype(np.float64).std(axis=0), rel=1e-5)


def test_noise_has_the_size_that_was_asked_for_and_is_the_same_for_everyone():
    n_steps, units = 400, {"": np.array([10.0, 0.0])}
    still = np.zeros((n_steps + 1, 2), dtype=np.float32)

    def noisy(level, seed, observations=still):
        return np.stack(shown(with_noise(scripted(BOX, observations, 5), units, level, seed), n_steps))

    noise = noisy(0.2, 7)
    assert noise.dtype == np.float32 and noise.shape == (n_steps + 1, 5, 2)
    assert noise[..., 0].std() == pytest.approx(2.0, rel=0.05) and abs(noise[..., 0].mean()) < 0.15
    assert not noise[..., 1].any()  # a dimension that never moves stays as it is
    assert np.corrcoef(noise[1:, 0, 0], noise[:-1, 0, 0])[0, 1] == pytest.approx(0, abs=0.15)  # anew at every step
    assert np.abs(np.corrcoef(noise[..., 0].T) - np.eye(5)).max() < 0.2  # and in every environment
    assert np.array_equal(noise, noisy(0.2, 7)) and not np.array_equal(noise, noisy(0.2, 8))
    assert noisy(0.1, 7) == pytest.approx(noise / 2) and noisy(0.2, 7, still + 3) == pytest.approx(noise + 3, abs=1e-5)


def test_noise_on_images_is_in_units_of_their_scale():
    grey, white = (np.full((41, 8, 8, 3), value, np.uint8) for value in (128, 255))
    spread = Spread(IMAGE)
    shown(spread.watch(scripted(IMAGE, grey)), 40)
    assert spread.units == {"": 255.0}
    noisy = np.stack(shown(with_noise(scripted(IMAGE, grey), spread.units, 0.1, 0), 40))
    assert noisy.dtype == np.uint8 and noisy.std() == pytest.approx(25.5, rel=0.05)
    bright = np.stack(shown(with_noise(scripted(IMAGE, white), spread.units, 0.1, 0), 40))
    assert (bright == 255).mean() == pytest.approx(0.5, abs=0.05) and bright.min() > 100  # clipped, not wrapped around


def test_parts_of_a_dictionary_have_their_own_noise_and_choices_none():
    space = spaces.Dict({"a": BOX, "b": IMAGE, "c": spaces.Discrete(4)})
    steps = [{"a": np.array([i, -2.0 * i], np.float32), "b": np.full((8, 8, 3), 99, np.uint8), "c": 2} for i in range(9)]
    spread = Spread(space)
    shown(spread.watch(scripted(space, steps)), 8)
    assert sorted(spread.units) == ["a", "b"]
    assert spread.units["a"] == pytest.approx(np.std(np.arange(9)) * np.array([1, 2]))
    noisy = shown(with_noise(scripted(space, steps), spread.units, 0.1, 0), 8)
    assert all(np.all(step["c"] == 2) for step in noisy)
    assert any(np.any(step["a"] != seen["a"]) for step, seen in zip(noisy, steps)) and np.any(noisy[0]["b"] != 99)
    assert Spread(spaces.Discrete(3)).units == {}
