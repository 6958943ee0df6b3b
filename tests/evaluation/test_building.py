import dataclasses

import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecNormalize

from rl_crop.evaluation.algorithms import SB3_CONTRIB
from rl_crop.evaluation.building import build_env, build_model
from rl_crop.evaluation.config import ConfigError, RunConfig


def with_hyperparams(config, **hyperparams):
    return dataclasses.replace(config, hyperparams=config.hyperparams | hyperparams)


def test_linear_schedule_falls_to_zero_and_belongs_to_stable_baselines3(tiny):
    config = with_hyperparams(tiny, learning_rate="lin_0.01", clip_range="lin_0.2")
    model = build_model(config, build_env(config, 0), 0)
    assert [model.lr_schedule(progress) for progress in (1.0, 0.5, 0.0)] == pytest.approx([0.01, 0.005, 0.0])
    assert model.clip_range(0.5) == pytest.approx(0.1)
    # so that the zip loads where this package is not installed
    assert type(model.learning_rate).__module__.startswith("stable_baselines3.")


@pytest.mark.parametrize("changes", [{"learning_rate": "lin_fast"}, {"clip_range": "cos_0.1"}])
def test_a_bad_schedule_is_named(tiny, changes):
    config = with_hyperparams(tiny, **changes)
    with pytest.raises(ConfigError, match=next(iter(changes))):
        build_model(config, build_env(config, 0), 0)


def test_activation_by_name(tiny):
    config = dataclasses.replace(tiny, policy_kwargs={"activation_fn": "nn.ReLU"})
    assert "ReLU" in str(build_model(config, build_env(config, 0), 0).policy)
    config = dataclasses.replace(tiny, policy_kwargs={"activation_fn": "Relu"})
    with pytest.raises(ConfigError, match="activation_fn: Relu"):
        build_model(config, build_env(config, 0), 0)


def test_normalisation_learns_in_training_and_stands_still_in_evaluation(tiny):
    config = dataclasses.replace(with_hyperparams(tiny, gamma=0.9), normalize={"clip_obs": 5.0})
    training, evaluation = build_env(config, 0), build_env(config, 0, 3, training=False)
    assert isinstance(training, VecNormalize) and isinstance(evaluation, VecNormalize)
    assert (training.gamma, training.clip_obs, training.norm_reward) == (0.9, 5.0, True)
    assert (evaluation.num_envs, evaluation.training, evaluation.norm_reward) == (3, False, False)


def test_the_same_seed_gives_the_same_episodes(tiny):
    first, second, other = (build_env(tiny, seed).reset() for seed in (3, 3, 4))
    assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_action_noise_from_a_file():
    data = {"env": "Pendulum-v1", "algo": "td3", "n_timesteps": 10, "noise_type": "normal", "noise_std": 0.3}
    config = RunConfig.from_dict(data)
    model = build_model(config, build_env(config, 0), 0)
    assert repr(model.action_noise) == "NormalActionNoise(mu=[0.], sigma=[0.3])"
    assert RunConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match="noise_type: white"):
        build_model(RunConfig.from_dict(data | {"noise_type": "white"}), build_env(config, 0), 0)
    with pytest.raises(ConfigError, match="noise_type"):  # an algorithm without action noise
        RunConfig.from_dict(data | {"algo": "ppo", "env": "CartPole-v1"})


@pytest.mark.parametrize("algo", SB3_CONTRIB)
def test_algorithms_of_sb3_contrib(algo):
    env = "Pendulum-v1" if algo in ("tqc", "crossq") else "CartPole-v1"
    policy = "MlpLstmPolicy" if algo == "ppo_lstm" else "MlpPolicy"
    config = RunConfig.from_dict({"env": env, "algo": algo, "n_timesteps": 10, "policy": policy})
    assert type(build_model(config, build_env(config, 0), 0)).__name__ == SB3_CONTRIB[algo]
