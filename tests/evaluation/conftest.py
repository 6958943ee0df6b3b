import pytest
import torch as th

from rl_crop.evaluation import RunConfig


@pytest.fixture(autouse=True)
def one_thread():
    th.set_num_threads(1)


@pytest.fixture
def tiny():
    """A run of PPO on CartPole-v1 that takes a fraction of a second."""
    return RunConfig.from_dict(
        {
            "env": "CartPole-v1",
            "algo": "ppo",
            "n_timesteps": 256,
            "n_envs": 2,
            "n_steps": 32,
            "n_epochs": 1,
            "policy_kwargs": {"net_arch": {"pi": [8, 8], "vf": [8, 8]}},
            "evaluation": {"n_evals": 4, "n_episodes": 3, "final_episodes": 5, "n_envs": 2},
        }
    )
