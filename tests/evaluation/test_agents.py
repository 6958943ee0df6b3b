import dataclasses
import shutil

import pytest

from rl_crop.evaluation import ConfigError, SavedAgent, run
from rl_crop.evaluation.agents import own_file


@pytest.fixture
def directory(tiny, tmp_path):
    run(dataclasses.replace(tiny, normalize=True, n_timesteps=64), tmp_path / "run", seed=0, plot=False)
    return tmp_path / "run"


def test_by_directory_or_zip_and_what_is_missing_is_named(directory):
    assert SavedAgent.find(directory) == SavedAgent.find(directory / "model.zip")
    (directory / "vecnormalize.pkl").unlink()
    with pytest.raises(ConfigError, match="vecnormalize.pkl is missing"):
        SavedAgent.find(directory)
    (directory / "config.yaml").unlink()
    with pytest.raises(ConfigError, match="config.yaml is missing"):
        SavedAgent.find(directory)
    with pytest.raises(ConfigError, match="no saved agent at .*other.zip"):
        SavedAgent.find(directory / "other.zip")


def test_an_agents_own_files_come_first(directory, tmp_path):
    small = tmp_path / "small.zip"
    shutil.copyfile(directory / "model.zip", small)
    for name in ("config.yaml", "vecnormalize.pkl"):
        shutil.copyfile(directory / name, own_file(small, name))
        (tmp_path / name).write_text("another agent's")
    agent = SavedAgent.find(small)
    assert agent.config_path == tmp_path / "small.config.yaml"
    assert agent.normalization == tmp_path / "small.vecnormalize.pkl"


def test_statistics_stand_still_and_rewards_are_normalised_on_request_alone(directory):
    agent = SavedAgent.find(directory)
    env, losses = agent.build_env(0, 3), agent.build_env(0, 3, normalize_rewards=True)
    assert env.num_envs == 3 and not env.training and not env.norm_reward
    assert not losses.training and losses.norm_reward
    assert env.obs_rms.count > 64
