import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO, SAC

from rl_crop.evaluation.zips import save_slim


@pytest.mark.parametrize(
    "algorithm, env, keywords",
    [(PPO, "CartPole-v1", {"n_steps": 16, "n_epochs": 1, "batch_size": 16}), (SAC, "Pendulum-v1", {"learning_starts": 8})],
)
def test_it_is_smaller_and_acts_and_trains_as_ever(tmp_path, algorithm, env, keywords):
    model = algorithm("MlpPolicy", env, policy_kwargs={"net_arch": [64, 64]}, seed=0, **keywords)
    model.learn(16)
    model.save(tmp_path / "whole.zip")
    optimizer = getattr(model.policy, "actor", model.policy).optimizer
    moments = {key: entry["exp_avg"].clone() for key, entry in optimizer.state.items()}
    save_slim(model, tmp_path / "slim.zip")
    assert moments and all(th.equal(optimizer.state[key]["exp_avg"], value) for key, value in moments.items())

    sizes = {name: (tmp_path / f"{name}.zip").stat().st_size for name in ("whole", "slim")}
    parameters = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    assert sizes["whole"] - sizes["slim"] > 8 * parameters  # two moments of four bytes, at least of this optimizer
    loaded = algorithm.load(tmp_path / "slim.zip", env=gym.make(env))
    observation = model.observation_space.sample()
    assert np.array_equal(*(agent.predict(observation, deterministic=True)[0] for agent in (model, loaded)))
    loaded.learn(16, reset_num_timesteps=False)
    assert loaded.num_timesteps == 32
