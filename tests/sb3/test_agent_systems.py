"""Drivers with gates, scores, phases and an encoder around model.learn(): the agent is afterwards an ordinary one."""

from dataclasses import replace

import pytest
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import StopTrainingOnMaxEpisodes

import rl_crop
from rl_crop.sb3.task import AgentTask
from tests.zoo.agents import agent, ppo
from tests.zoo.snapshots import hooks

SMALL = {"n_events": 2, "n_rounds": 2, "n_subsets": 4, "n_batches": 2}
AGENTS = {"PPO": ppo, "DQN": agent(DQN, learning_starts=50, target_update_interval=100, learning_rate=1e-4)}


def test_parts_of_a_run_add_up_to_it_and_each_has_a_rollout():
    model, done = AGENTS["PPO"](), []
    task = AgentTask(model, 640)
    for share, rollouts in ((0.25, 3), (0.15, 1), (0.15, 2), (0.15, 1), (0.05, 1), (0.25, 2), (0.0, 0)):
        before = model.num_timesteps
        task.train(share)
        done.append(model.num_timesteps - before)
        assert done[-1] == 64 * rollouts
    assert sum(done) == 640
    snapshot = task.snapshot()
    task.train(0.05)  # half a rollout
    task.train(0.2)
    assert model.num_timesteps == 640 + 192  # 160 in whole rollouts
    task.restore(snapshot)
    task.train(0.2)
    assert model.num_timesteps == 640 + 128
    for _ in range(3):
        task.train(0.02)
    assert model.num_timesteps == 640 + 128 + 192  # at least a rollout whenever training is asked for


def test_a_part_that_a_callback_stops_is_over():
    model = AGENTS["PPO"]()
    task = AgentTask(model, 640, callback=[StopTrainingOnMaxEpisodes(1)])
    task.train(0.5)
    stopped = model.num_timesteps
    assert stopped < 320
    task.callback.clear()
    task.train(0.2)
    assert model.num_timesteps == stopped + 128


CASES = [("PPO", "gbn"), ("PPO", "stamp"), ("DQN", "gbn"), ("DQN", "hydra"), ("DQN", "early_exits")]


@pytest.mark.parametrize(("algorithm", "name"), CASES)
def test_agents_are_pruned_saved_and_trained_on(algorithm, name, tmp_path, monkeypatch):
    monkeypatch.setattr("rl_crop.core.recipes.systems.stamp.STEPS", 20)
    model = AGENTS[algorithm]()
    names = list(model.policy.state_dict())
    recipe = replace(rl_crop.recipes[name], options=SMALL)
    report = rl_crop.run_recipe(AgentTask(model, 512), recipe, 0.5)
    networks = {"actor", "critic"} if algorithm == "PPO" else {"critic"}
    assert all(0.5 <= report.sparsity[network] < 0.6 for network in networks)
    assert list(model.policy.state_dict()) == names and all(p.requires_grad for p in model.policy.parameters())
    assert hooks(model.policy) == []
    assert len(model.policy.optimizer.param_groups[0]["params"]) == len(model.policy.optimizer.state_dict()["state"])
    if algorithm == "DQN":
        shapes = [[p.shape for p in net.parameters()] for net in (model.q_net, model.q_net_target)]
        assert shapes[0] == shapes[1]
    model.save(tmp_path / "agent")
    loaded = type(model).load(tmp_path / "agent", env=model.get_env())
    observation = model.get_env().reset()
    assert loaded.predict(observation, deterministic=True)[0] == model.predict(observation, deterministic=True)[0]
    assert all(th.equal(a, b) for a, b in zip(loaded.policy.parameters(), model.policy.parameters(), strict=True))
    loaded.learn(64, reset_num_timesteps=False)
