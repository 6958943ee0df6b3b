import tempfile
import time
from pathlib import Path

import pytest

from rl_crop.evaluation import RunConfig
from rl_crop.evaluation.claims import Claim


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


@pytest.fixture(scope="module")
def no_other_ray():
    """Ray connects to whatever cluster it finds on the machine, so tests side by side must not start another."""
    path = Path(tempfile.gettempdir()) / "rl_crop-tests-with-ray"
    while (claim := Claim.take(path)) is None:
        time.sleep(0.2)
    yield
    claim.release()
