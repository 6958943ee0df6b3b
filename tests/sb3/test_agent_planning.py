"""Planning changes nothing: neither on data that the agent has, nor where a rollout has to be collected for it."""

import random

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise

import rl_crop
from tests.zoo.agents import AGENTS, SCORING, ppo, sac
from tests.zoo.callbacks import Watch
from tests.zoo.snapshots import all_but_the_environment, everything, last_observation, noise, same, tensors, unmoved

CRITERIA = ["crop", "crop_gate", "snip", "grasp", "synflow", "magnitude", "random", "span", "span_crop"]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("name", ["ppo_sde", "sac_sde"])
def test_with_data_by_every_criterion(name, criterion):
    model = AGENTS[name]().learn(128)
    with unmoved(model, everything):
        str(rl_crop.plan_policy_pruning(model, 0.6, criterion=criterion, **SCORING))


@pytest.mark.parametrize("name", ["ppo_images", "dqn", "recurrent", "td3_own_shared", "crossq"])
def test_with_data_while_training(name):
    model = AGENTS[name]().learn(64)
    model.policy.set_training_mode(True)
    with unmoved(model, everything):
        rl_crop.plan_policy_pruning(model, 0.6, criterion="span_crop", compensation="distill", **SCORING)


COLLECTED = [
    "ppo_sde", "ppo_normalized", "ppo_dict_normalized", "a2c", "trpo", "maskable_images", "recurrent", "recurrent_mixed",
    "dqn", "qrdqn", "sac_sde", "sac_normalized", "sac_n_steps", "td3", "ddpg", "tqc_sde", "crossq", "ars", "dqn_own",
]  # fmt: skip


@pytest.mark.parametrize("name", COLLECTED)
def test_where_a_rollout_is_collected(name):
    model = AGENTS[name]()
    criterion = "span" if name == "ars" else "crop"
    for trained in (False, True):
        if trained:
            model.learn(64)
            for buffer in ("rollout_buffer", "replay_buffer"):
                if hasattr(model, buffer):
                    getattr(model, buffer).reset()
        last = last_observation(model)
        with unmoved(model, all_but_the_environment):
            rl_crop.plan_policy_pruning(model, 0.6, criterion=criterion, **SCORING)
        assert last is None or not same(last, last_observation(model))
    model.learn(64, reset_num_timesteps=False)


def moment(model):
    """Weights, exploration noise and generators of this moment."""
    return [tensors(model), noise(model), random.getstate(), np.random.get_state(), th.get_rng_state()]


RUNS = [
    (name, when)
    for name in ("ppo_sde", "ppo_normalized", "sac_sde", "sac_normalized", "dqn", "recurrent")
    for when in (60, "lazy")
]


@pytest.mark.parametrize(("name", "when"), [*RUNS, ("ppo_discrete", "epi"), ("sac", "epi")])
def test_a_run_is_the_dense_run_until_the_cut(name, when):
    callback = rl_crop.PruningCallback(0.6, when=when, latest=120, verbose=0, **SCORING)
    before, after, dense = {}, {}, {}
    look = [
        Watch(lambda model, found=found: found.update({model.num_timesteps: moment(model)}))
        for found in (before, after, dense)
    ]
    model = AGENTS[name]().learn(200, callback=[look[0], callback, look[1]])
    AGENTS[name]().learn(200, callback=look[2])
    [event] = model.pruning_history
    cut = event["timesteps"]
    assert cut in dense and all(same(before[now], dense[now]) for now in dense if now <= cut)
    assert same(after[cut][2:], dense[cut][2:]) and not same(after[cut][0], dense[cut][0])


def test_action_noise_goes_on_where_it_was():
    model = sac(env={"n_envs": 2}, action_noise=OrnsteinUhlenbeckActionNoise(np.zeros(1), np.ones(1)))
    model.learn(64)
    model.replay_buffer.reset()
    before = [noise.noise_prev.copy() for noise in model.action_noise.noises]
    rl_crop.plan_policy_pruning(model, 0.6, **SCORING)
    assert same([noise.noise_prev for noise in model.action_noise.noises], before) and np.any(before)


@pytest.mark.parametrize("make", [ppo, sac])
def test_a_plan_is_applied_once_and_recorded(make):
    model = make().learn(64)
    plan = rl_crop.plan_policy_pruning(model, 0.5, **SCORING)
    assert not hasattr(model, "pruning_history")
    report = plan.apply()
    assert report.widths == {name: (width, plan.widths_after[name]) for name, width in plan.widths_before.items()}
    [event] = model.pruning_history
    assert event["source"] == "plan_policy_pruning" and event["sparsity"] == report.sparsity
    with pytest.raises(rl_crop.PruningError, match="make a new plan"):
        plan.apply()
    assert len(model.pruning_history) == 1
