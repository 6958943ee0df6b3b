"""Pruned agents are ordinary Stable-Baselines3 agents: they save, load and resume, also where rl_crop is not installed."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO, SAC

import rl_crop
from tests.sb3.agents import AGENTS, SCORING, consistent, equal, ppo, sac, tensors

STOCK = """
import json, sys
sys.modules["rl_crop"] = None
import numpy as np, torch as th
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_util import make_vec_env

try:
    import rl_crop
    raise SystemExit("rl_crop can be imported")
except ImportError:
    pass
th.set_num_threads(1)
found = {}
for line in json.load(sys.stdin):
    algorithm = PPO if line["algorithm"] == "PPO" else SAC
    model = algorithm.load(line["path"])
    actions, _ = model.predict(np.array(line["observations"], dtype=np.float32), deterministic=True)
    model = algorithm.load(line["path"], env=make_vec_env(line["env"], n_envs=line["n_envs"]))
    before, history = [p.detach().clone() for p in model.policy.parameters()], model.pruning_history
    model.learn(128 * line["n_envs"], reset_num_timesteps=False)
    moved = all(p.numel() == 0 or not th.equal(p, old) for p, old in zip(model.policy.parameters(), before))
    model.save(line["path"])
    found[line["name"]] = {"actions": actions.tolist(), "moved": moved, "history": history == model.pruning_history}
print(json.dumps(found))
"""


def test_stock_zips(tmp_path):
    jobs, expected = [], {}
    rng = np.random.default_rng(0)
    for name, make in AGENTS.items():
        if name.endswith("_dict"):
            continue
        model = make().learn(64, callback=rl_crop.PruningCallback(0.6, when=0.5, verbose=0, **SCORING))
        observations = rng.uniform(-1, 1, (20, *model.observation_space.shape)).astype(np.float32)
        expected[name] = model.predict(observations, deterministic=True)[0]
        model.save(tmp_path / name)
        env = "CartPole-v1" if model.observation_space.shape == (4,) else "Pendulum-v1"
        jobs.append({
            "name": name, "path": str(tmp_path / name), "observations": observations.tolist(), "env": env,
            "algorithm": type(model).__name__, "n_envs": model.n_envs,
        })  # fmt: skip
        assert len(model.pruning_history) == 1
    result = subprocess.run([sys.executable, "-c", STOCK], input=json.dumps(jobs), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    for job in jobs:
        name = job["name"]
        assert np.abs(np.array(found[name]["actions"]) - expected[name]).max() < 1e-6, name
        assert found[name]["moved"] and found[name]["history"], name
        back = (PPO if job["algorithm"] == "PPO" else SAC).load(job["path"])  # trained on there, and saved again
        consistent(back)
        assert len(back.pruning_history) == 1


def test_rebuilt_policies_load_strictly(make_agent):
    model = make_agent().learn(64)
    rl_crop.prune_policy(model, 0.6, **SCORING)
    kind, spaces = type(model.policy), (model.observation_space, model.action_space)
    for keywords in (model.policy_kwargs, model.policy._get_constructor_parameters()):
        keywords = {**model.policy_kwargs, **{key: keywords[key] for key in keywords if not key.endswith("_space")}}
        rebuilt = kind(*spaces, **{"lr_schedule": lambda _: 0.1, "use_sde": model.use_sde, **keywords})
        rebuilt.load_state_dict(model.policy.state_dict(), strict=True)
        assert equal(rebuilt.state_dict(), model.policy.state_dict())


@pytest.mark.parametrize(
    "name", ["ppo_discrete", "ppo_sde", "ppo_dict", "ppo_linear_actor", "sac", "sac_sde", "sac_one_critic"]
)
def test_policy_save_and_load(name, tmp_path):
    model = AGENTS[name]().learn(64)
    rl_crop.prune_policy(model, 0.6, **SCORING)
    model.policy.save(tmp_path / "policy.zip")
    loaded = type(model.policy).load(tmp_path / "policy.zip")
    assert equal(loaded.state_dict(), model.policy.state_dict())


def test_save_load_predict_resume(make_agent, tmp_path):
    model = make_agent().learn(64)
    rl_crop.prune_policy(model, 0.6, **SCORING)
    model.learn(64, reset_num_timesteps=False)
    model.save(tmp_path / "agent.zip")
    loaded = type(model).load(tmp_path / "agent.zip", env=model.get_env())
    assert equal(tensors(loaded), tensors(model)) and loaded.pruning_history == model.pruning_history
    consistent(loaded)
    loaded.learn(64, reset_num_timesteps=False)
    rl_crop.prune_policy(loaded, 0.3, **SCORING)  # and once more
    assert len(loaded.pruning_history) == 2
    consistent(loaded.learn(64, reset_num_timesteps=False))


def test_history_is_plain_and_json_ready(make_plain):
    model = make_plain().learn(192, callback=rl_crop.PruningCallback(0.6, when=64, verbose=0, **SCORING))
    rl_crop.prune_policy(model, 0.2, **SCORING)
    assert json.loads(json.dumps(model.pruning_history)) == model.pruning_history
    first, second = model.pruning_history
    assert (first["source"], second["source"]) == ("PruningCallback", "prune_policy")
    assert first["timesteps"] < second["timesteps"] == model.num_timesteps


@pytest.mark.parametrize("make", [ppo, sac])
def test_the_users_policy_kwargs_stay_as_they_are(make):
    mine = {"net_arch": [16, 16], "activation_fn": th.nn.ELU}
    models = [type(make())("MlpPolicy", make().get_env(), policy_kwargs=mine) for _ in range(2)]
    rl_crop.prune_policy(models[0], 0.6, **SCORING)
    assert mine["net_arch"] == [16, 16] and models[1].policy_kwargs["net_arch"] == [16, 16]
    assert models[0].policy_kwargs["activation_fn"] is th.nn.ELU
    consistent(models[0])
