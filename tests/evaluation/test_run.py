import dataclasses

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.evaluation import evaluate_policy

from rl_crop.evaluation import SavedAgent, load_config, run
from rl_crop.evaluation.building import build_env, build_model
from rl_crop.evaluation.recording import CutRecorder
from rl_crop.evaluation.run import FINAL_SEED
from rl_crop.files import read_json


@pytest.fixture
def normalized(tiny):
    return dataclasses.replace(tiny, normalize=True)


def test_a_run_leaves_everything_in_its_directory(normalized, tmp_path):
    report = run(normalized, tmp_path, seed=1)
    names = {path.name for path in tmp_path.iterdir()}
    files = {"config.yaml", "model.zip", "vecnormalize.pkl", "report.json", "evaluations.npz", "learning_curve.png"}
    assert names == files  # and no temporary file
    assert read_json(tmp_path / "report.json") == report
    assert load_config(tmp_path / "config.yaml") == normalized

    assert report["env"] == "CartPole-v1" and report["algo"] == "ppo" and report["seed"] == 1
    assert report["widths"] == {"pi": [8, 8], "vf": [8, 8]}
    assert report["n_params"]["total"] == report["n_params"]["actor"] + report["n_params"]["critic"]
    assert report["cuts"] == report["pruning_history"] == []
    assert 0 < report["seconds"]["learn"] < report["seconds"]["learn_with_evaluation"]
    assert report["versions"]["torch"] == th.__version__

    final = report["final"]
    assert len(final["returns"]) == 5
    assert final["returns"] == final["lengths"]  # CartPole pays 1 a step: these are no normalised rewards
    assert final["mean"] == pytest.approx(np.mean(final["returns"])) and final["std"] == pytest.approx(
        np.std(final["returns"])
    )

    with np.load(tmp_path / "evaluations.npz") as evaluations:
        assert evaluations["timesteps"].tolist() == report["evaluations"]["timesteps"] == [64, 128, 192, 256]
        assert evaluations["results"].shape == (4, 3)
        assert evaluations["results"].mean(axis=1).tolist() == pytest.approx(report["evaluations"]["mean_returns"])
    # the last tenth of four evaluations is the last one
    assert report["last_evaluations_mean"] == report["evaluations"]["mean_returns"][-1]


def test_the_saved_agent_with_its_statistics_earns_what_the_report_says(normalized, tmp_path):
    report = run(normalized, tmp_path, seed=0, plot=False)
    agent = SavedAgent.find(tmp_path)
    returns, _ = evaluate_policy(
        agent.load(), agent.build_env(0 + FINAL_SEED, 5), n_eval_episodes=5, return_episode_rewards=True, warn=False
    )
    assert returns == report["final"]["returns"]


def test_a_run_can_be_repeated(tiny, tmp_path):
    first, second, other = (run(tiny, tmp_path / str(i), seed, plot=False) for i, seed in enumerate((0, 0, 1)))
    assert first["final"] == second["final"] and first["evaluations"] == second["evaluations"]
    assert first["evaluations"] != other["evaluations"]


class SwapsNetworks(BaseCallback):
    """Stands for a pruner: at 128 steps the policy's layers become narrower."""

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        if self.num_timesteps == 128:
            layers = self.model.policy.mlp_extractor.policy_net
            layers[0], layers[2] = th.nn.Linear(4, 3), th.nn.Linear(3, 8)


def test_cuts_are_seen_in_the_networks_themselves(tiny):
    model = build_model(tiny, build_env(tiny, 0), 0)
    recorder = CutRecorder()
    model.learn(256, callback=CallbackList([SwapsNetworks(), recorder]))
    before, after = {"pi": [8, 8], "vf": [8, 8]}, {"pi": [3, 8], "vf": [8, 8]}
    assert recorder.cuts == [{"timesteps": 128, "widths_before": before, "widths_after": after}]


def test_a_cut_at_the_very_end_is_seen(tiny):
    class AtTheEnd(SwapsNetworks):
        def _on_rollout_start(self):
            pass

        def _on_training_end(self):
            self.model.policy.mlp_extractor.policy_net[0] = th.nn.Linear(4, 5)

    model = build_model(tiny, build_env(tiny, 0), 0)
    recorder = CutRecorder()
    model.learn(256, callback=CallbackList([AtTheEnd(), recorder]))
    assert [cut["timesteps"] for cut in recorder.cuts] == [256]


def test_the_model_is_an_ordinary_zip(tiny, tmp_path):
    run(tiny, tmp_path, seed=0, plot=False)
    model = PPO.load(tmp_path / "model.zip", env=build_env(tiny, 0), device="cpu")
    model.learn(64, reset_num_timesteps=False)
    assert model.num_timesteps == 256 + 64


def test_evaluation_does_not_disturb_training(tiny, tmp_path):
    run(tiny, tmp_path, seed=0, plot=False)
    plain = build_model(tiny, build_env(tiny, 0), 0).learn(tiny.n_timesteps)
    for mine, theirs in zip(SavedAgent.find(tmp_path).load().policy.parameters(), plain.policy.parameters()):
        assert th.equal(mine, theirs)
