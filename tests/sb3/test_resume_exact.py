"""A run that is saved, loaded and resumed equals the one that was not stopped, bit for bit, wherever it is saved."""

import copy
import random

import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C, DQN, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import rl_crop
from rl_crop.sb3.subject import algorithm_optimizers
from tests.zoo.agents import SCORING, ppo, sac
from tests.zoo.snapshots import last_observation, same, tensors


def slowing(left):
    """A learning rate with which weights settle."""
    return 1e-2 * left**4


def plain(algorithm, env_id, n_envs=1, **keywords):
    env, kwargs = make_vec_env(env_id, n_envs=n_envs, seed=0), {"net_arch": [16, 16]}
    return algorithm("MlpPolicy", env, policy_kwargs=kwargs, learning_rate=slowing, seed=0, device="cpu", **keywords)


REPLAY = {"learning_starts": 32, "batch_size": 32, "train_freq": 4, "buffer_size": 1000}
RUNS = {
    "ppo": lambda: ppo(learning_rate=slowing),
    "ppo_normalized": lambda: ppo(
        {"env_id": "Pendulum-v1", "n_envs": 2, "normalize": True}, n_steps=32, learning_rate=slowing
    ),
    "a2c": lambda: plain(A2C, "CartPole-v1", n_envs=2, n_steps=8),
    "sac": lambda: sac(learning_rate=slowing),
    "sac_normalized": lambda: sac(env={"n_envs": 2, "normalize": True}, learning_rate=slowing, gradient_steps=2),
    "td3": lambda: plain(TD3, "Pendulum-v1", **REPLAY),
    "dqn": lambda: plain(DQN, "CartPole-v1", target_update_interval=100, **REPLAY),
}
"""Agents without gSDE, whose noise Stable-Baselines3 draws before a rollout starts and does not save."""
SCHEDULES = {
    "lazy": [{"when": "lazy"}],
    "lazy, gradual": [{"when": "lazy", "schedule": "gradual", "n_events": 3, "until": 0.9}],
    "epi": [{"when": "epi", "criterion": "magnitude", "min_units": 4}],
    "fixed, iterative": [{"when": 0.4, "schedule": "iterative"}],
    "masks, gradual": [{"when": "lazy", "structured": False, "schedule": "gradual", "n_events": 3, "until": 0.9}],
    "one a network": [{"when": "lazy", "networks": "actor"}, {"when": 0.7, "networks": "critic"}],
}
"""The callbacks of a run."""
TOTAL = 1024


def copied(env):
    """An environment in the state of another."""
    other = copy.deepcopy(env)
    if isinstance(env, VecNormalize):  # which copies its statistics alone
        other.set_venv(copied(env.venv))
        other.returns = env.returns.copy()
    return other


class Photograph(BaseCallback):
    """Between two rollouts: the zip, and all that Stable-Baselines3 does not save."""

    def __init__(self, path, every=64):
        super().__init__()
        self.path, self.every, self.rest = path, every, {}

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        model, now = self.model, self.num_timesteps
        if now % self.every:
            return
        model.save(self.path / f"{now}.zip")
        outside = {name: copy.deepcopy(getattr(model, name, None)) for name in ("action_space", "replay_buffer")}
        self.rest[now] = copied(model.env), outside, (random.getstate(), np.random.get_state(), th.get_rng_state())

    def resume(self, now, callback):
        """Load the agent of one photograph and train it to the end."""
        env, outside, generators = self.rest[now]
        model = type(self.model).load(self.path / f"{now}.zip", env=env, force_reset=False)
        for name, value in outside.items():
            setattr(model, name, value)
        random.setstate(generators[0])
        np.random.set_state(generators[1])
        th.set_rng_state(generators[2])
        return model.learn(TOTAL - now, reset_num_timesteps=False, callback=callback)


def everything(model):
    """All that is to be the same at the end of two runs."""
    events = [{name: value for name, value in event.items() if name != "seconds"} for event in model.pruning_history]
    optimizers = [optimizer.state_dict() for optimizer in algorithm_optimizers(model)]
    return {"events": events, "tensors": tensors(model), "optimizers": optimizers, "observation": last_observation(model)}


LONG = (
    ("ppo_normalized", "epi", {"epi"}),
    ("sac", "one a network", {"lazy", "fixed"}),
    ("sac_normalized", "epi", {"epi"}),
    ("sac", "masks, gradual", {"lazy"}),
)


@pytest.mark.parametrize(
    ("name", "schedule", "decided_by"),
    [
        *(pytest.param(*case, marks=pytest.mark.long) for case in LONG),
        ("ppo", "lazy, gradual", {"lazy"}),
        ("ppo", "fixed, iterative", {"fixed"}),
        ("a2c", "lazy, gradual", {"lazy"}),
        ("sac", "lazy, gradual", {"lazy"}),
        ("td3", "lazy", {"lazy"}),
        ("ppo", "masks, gradual", {"lazy"}),
        ("dqn", "lazy", {"lazy"}),
    ],
)
def test_before_at_and_after_the_cut(name, schedule, decided_by, tmp_path, monkeypatch):
    monkeypatch.setattr("rl_crop.sb3.between_rollouts.CHECK_EVERY", 32)

    def callbacks():
        bounds = {"earliest": 0.0, "latest": 0.9, "verbose": 0}
        return [rl_crop.PruningCallback(0.6, **bounds | keywords | SCORING) for keywords in SCHEDULES[schedule]]

    photograph = Photograph(tmp_path)
    model = RUNS[name]().learn(TOTAL, callback=[photograph, *callbacks()])  # photographed before a planned cut is made
    whole, times = everything(model), [event["timesteps"] for event in model.pruning_history]
    assert {event["decided_by"] for event in model.pruning_history} == decided_by
    before = max(now for now in photograph.rest if now < times[0])
    at = min(now for now in photograph.rest if now >= times[0])  # of an on-policy agent: planned, not cut yet
    last = max(now for now in photograph.rest if now <= times[-1])  # in the middle of a gradual schedule
    for now in {before, at, last}:
        resumed = everything(photograph.resume(now, callbacks()))
        for what, value in whole.items():
            assert same(value, resumed[what]), (now, times, what)
