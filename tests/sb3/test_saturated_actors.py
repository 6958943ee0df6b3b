"""Trained actors push means of actions far into the tails of tanh; only deviations are clipped."""

import pytest
import torch as th
from stable_baselines3 import SAC

import rl_crop


@pytest.mark.parametrize("use_sde", [False, True])
def test_they_are_pruned(use_sde):
    model = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [8, 8]}, use_sde=use_sde, seed=0)
    with th.no_grad():
        model.actor.get_parameter("mu.0.bias" if use_sde else "mu.bias").fill_(9.0)
    if not use_sde:
        model.actor.log_std.bias.data.fill_(30.0)
    report = rl_crop.prune_policy(model, sparsity=0.5, criterion="magnitude", compensation="none", n_batches=1, batch_size=8)
    assert report.sparsity["actor"] >= 0.5
