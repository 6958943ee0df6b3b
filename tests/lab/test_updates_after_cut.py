import pytest

import rl_crop
from lab.after_cut import WAYS, another_way, next_updates
from lab.partly_trained import partly_trained
from rl_crop.core.pruning import compensation
from rl_crop.evaluation.building import build_env
from rl_crop.evaluation.config import ConfigError, RunConfig

CARTPOLE = {"env": "CartPole-v1", "n_timesteps": 256, "policy_kwargs": {"net_arch": [32, 32]}}
CONFIG = RunConfig.from_dict(CARTPOLE | {"algo": "ppo", "n_steps": 64, "batch_size": 32, "n_epochs": 1})


def agent(tmp_path, config=CONFIG):
    env = build_env(config, 0)
    return *partly_trained(config, env, "task", 0, 0.5, tmp_path), env


def test_an_agent_is_trained_once(tmp_path):
    model, saved, env = agent(tmp_path)
    written = saved.stat().st_mtime_ns
    again, _, _ = agent(tmp_path)
    assert model.num_timesteps == again.num_timesteps == 128 and saved.stat().st_mtime_ns == written


@pytest.mark.parametrize("keeps_state", [True, False])
def test_another_way_holds_only_inside(tmp_path, keeps_state):
    model, _, _ = agent(tmp_path)
    strength = compensation.RIDGE
    with another_way(0.5, keeps_state):
        assert compensation.RIDGE == 0.5
        rl_crop.prune_policy(model, 0.5, n_batches=1, batch_size=32)
    assert compensation.RIDGE == strength and bool(model.policy.optimizer.state) == keeps_state
    rl_crop.prune_policy(model, 0.5, n_batches=1, batch_size=32)
    assert not model.policy.optimizer.state


@pytest.mark.long
def test_every_way_starts_from_the_same_agent(tmp_path):
    _, saved, env = agent(tmp_path)
    rows = next_updates(saved, CONFIG, env, build_env(CONFIG, 1, 1, training=False), 0.0, 0.5, "magnitude", (0, 1), 2)
    assert [(row["seed"], row["ridge"], row["keeps_state"]) for row in rows] == [(s, *way) for s in (0, 1) for way in WAYS]
    assert all(len(set(row["returns"])) == 1 for row in rows)  # nothing is learnt at a rate of zero


def test_agents_without_rollouts_are_refused(tmp_path):
    config = RunConfig.from_dict(CARTPOLE | {"algo": "dqn", "learning_starts": 10})
    _, saved, env = agent(tmp_path, config)
    with pytest.raises(ConfigError, match="on-policy"):
        next_updates(saved, config, env, env, 0.0, 0.5, "magnitude", (0,), 1)
