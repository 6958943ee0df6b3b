"""Environments as a configuration describes them: found, preprocessed, wrapped, with noise, stacked."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.env_util import is_wrapped, make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize, VecTransposeImage, unwrap_vec_wrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper

from rl_crop.evaluation import agents, run
from rl_crop.evaluation.building import build_env, build_model
from rl_crop.evaluation.config import ConfigError, RunConfig, short_hash
from rl_crop.evaluation.run import FINAL_SEED

BASE = {"env": "rl_crop/Tracking-v0", "algo": "ppo", "n_timesteps": 256, "n_steps": 64, "n_epochs": 1, "n_envs": 2}
EVALUATION = {"n_evals": 1, "n_episodes": 2, "final_episodes": 2, "n_envs": 1}
PONG = {"env": "PongNoFrameskip-v4", "algo": "dqn", "n_timesteps": 100, "frame_stack": 4, "buffer_size": 100}


def config(**changes):
    return RunConfig.from_dict(BASE | {"evaluation": EVALUATION} | changes)


def layers(env):
    found = []
    while isinstance(env, VecEnvWrapper):
        found.append(type(env))
        env = env.venv
    return found


class Louder(gym.RewardWrapper):
    """Doubles rewards, or more."""

    def __init__(self, env, times=2):
        super().__init__(env)
        self.times = times

    def reward(self, reward):
        return self.times * reward


LOUDER = f"{__name__}.Louder"


def test_without_the_new_keys_environments_are_what_they_were():
    plain = RunConfig.from_dict({"env": "CartPole-v1", "algo": "ppo", "n_timesteps": 10, "n_envs": 2})
    ours, stock = build_env(plain, 3), make_vec_env("CartPole-v1", n_envs=2, seed=3)
    assert layers(ours) == [] and np.array_equal(ours.reset(), stock.reset())
    for action in np.random.default_rng(0).integers(2, size=(60, 2)):
        assert all(np.array_equal(x, y) for x, y in zip(ours.step(action)[:3], stock.step(action)[:3]))


def test_runs_without_the_new_keys_keep_their_hash():
    data = {"env": "Pendulum-v1", "algo": "sac", "n_timesteps": 20000, "normalize": True}
    assert RunConfig.from_dict(data).canonical() == data  # what earlier versions hashed
    spelled_out = data | {"env_wrapper": None, "atari": None, "frame_stack": 1, "noise_dims": 0}
    assert RunConfig.from_dict(spelled_out).canonical() == data
    assert short_hash(config(noise_dims=0.9).canonical()) != short_hash(config().canonical())


@pytest.mark.parametrize(
    "spelled", [LOUDER, {LOUDER: None}, [LOUDER], [{LOUDER: {}}]], ids=["name", "mapping", "list", "list of mappings"]
)
def test_wrappers_in_every_spelling_are_one_run(spelled):
    assert config(env_wrapper=spelled).env_wrapper == [{LOUDER: {}}]
    assert config(env_wrapper=spelled) == RunConfig.from_dict(config(env_wrapper=spelled).to_dict())


def test_wrappers_come_in_the_order_of_the_file_and_leave_returns_alone():
    wrapped = config(env_wrapper=[{LOUDER: {"times": 3}}, LOUDER])
    ours, plain = build_env(wrapped, 0), build_env(config(), 0)
    assert [env.env.times for env in ours.envs] == [3, 3] and [env.times for env in ours.envs] == [2, 2]
    ours.reset(), plain.reset()
    for _ in range(100):
        rewards, infos = ours.step(np.zeros((2, 4)))[1::2]
        expected = plain.step(np.zeros((2, 4)))[1]
        assert rewards == pytest.approx(6 * expected, rel=1e-5)
    # The monitor is inside: a return is the task's own
    assert infos[0]["episode"]["r"] == pytest.approx(-25, abs=15)


def test_layers_are_the_same_in_training_and_evaluation_and_statistics_stand_still():
    both = config(noise_dims=0.5, frame_stack=3, normalize=True)
    training, evaluation = build_env(both, 0), build_env(both, 0, training=False)
    assert layers(training) == layers(evaluation) == [VecNormalize, VecFrameStack]
    assert training.observation_space.shape == (2 * 8 * 3,) == training.obs_rms.mean.shape
    before = evaluation.obs_rms.mean.copy()
    evaluation.reset(), training.reset()
    assert np.array_equal(evaluation.obs_rms.mean, before) and not np.array_equal(training.obs_rms.mean, before)


def test_noise_is_where_it_is_in_every_environment():
    envs = [*build_env(config(noise_dims=0.9), 0).envs, *build_env(config(noise_dims=0.9), 5, training=False).envs]
    assert envs[0].observation_space.shape == (80,)
    assert all(np.array_equal(env.real, envs[0].real) for env in envs)


def test_a_run_with_everything_is_saved_and_comes_back(tmp_path):
    everything = config(noise_dims=0.5, frame_stack=2, normalize=True, pruning={"sparsity": 0.5, "when": 0.5})
    report = run(everything, tmp_path, 0, print_cuts=False)
    assert len(report["cuts"]) == 1
    agent = agents.SavedAgent.find(tmp_path)
    assert agent.config == everything
    returns, _ = agents.episode_returns(agent.load(), agent.build_env(FINAL_SEED, 2), 2)
    assert returns == pytest.approx(report["final"]["returns"])


def test_atari_is_recognised_and_preprocessed_once():
    pytest.importorskip("ale_py")
    for env_id in ("PongNoFrameskip-v4", "ALE/Pong-v5"):
        env = build_env(RunConfig.from_dict(PONG | {"env": env_id}), 0)
        assert layers(env) == [VecTransposeImage, VecFrameStack] and env.observation_space.shape == (4, 84, 84)
        assert is_wrapped(env.envs[0], AtariWrapper)
        # one frame a step below the preprocessing, four above it
        env.reset()
        raw = env.envs[0].unwrapped
        start = raw.ale.getEpisodeFrameNumber()
        env.step([0])
        assert raw.ale.getEpisodeFrameNumber() == start + 4
        raw.step(0)
        assert raw.ale.getEpisodeFrameNumber() == start + 5
    raw = build_env(RunConfig.from_dict(PONG | {"atari": False, "frame_stack": 1}), 0)
    assert raw.observation_space.shape == (3, 210, 160) and not is_wrapped(raw.envs[0], AtariWrapper)


def test_images_go_to_the_policy_for_images():
    pytest.importorskip("ale_py")
    pong = RunConfig.from_dict(PONG)
    env = build_env(pong, 0)
    model = build_model(pong, env, 0)
    assert type(model.policy).__name__ == "CnnPolicy" and layers(model.get_env()) == layers(env)
    with pytest.raises(ConfigError, match="norm_obs: false"):
        build_env(dataclasses.replace(pong, normalize=True), 0)
    rewards_alone = build_env(dataclasses.replace(pong, normalize={"norm_obs": False}), 0)
    assert unwrap_vec_wrapper(rewards_alone, VecTransposeImage) is not None
    assert rewards_alone.observation_space == env.observation_space


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"env": "rl_crop/Tracing-v0"}, "`env: rl_crop/Tracing-v0`"),
        ({"env_wrapper": "gymnasium.wrappers.NoSuch"}, "NoSuch"),
        ({"env_wrapper": {LOUDER: {"thrice": 3}}}, "Louder cannot wrap.*thrice"),
        ({"env": "FrozenLake-v1", "noise_dims": 0.9}, "NoiseDimensions cannot wrap.*vectors"),
        ({"noise_dims": 1.5}, "noise_dims"),
        ({"env": "CartPole-v1", "atari": True}, "atari"),
    ],
)
def test_errors_of_building_name_what_is_wrong(changes, named):
    with pytest.raises(ConfigError, match=named):
        build_env(config(**changes), 0)


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"env_wrapper": 3}, "`env_wrapper`"),
        ({"env_wrapper": [{"a.B": {}, "c.D": {}}]}, "`env_wrapper`"),
        ({"env_wrapper": {"a.B": 3}}, "a.B"),
        ({"atari": "yes"}, "`atari`"),
        ({"frame_stack": 1.5}, "`frame_stack`"),
        ({"noise_dims": "many"}, "`noise_dims`"),
    ],
)
def test_errors_of_the_file_name_the_key(changes, named):
    with pytest.raises(ConfigError, match=named):
        config(**changes)
