"""What holds for every format: the comparison, what an error leaves, what an export does not touch."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

import rl_crop
from rl_crop.export.check import full_precision
from tests.zoo.agents import ppo, sac
from tests.zoo.exported import AGENTS, toy_agent
from tests.zoo.snapshots import everything, unmoved
from tests.zoo.worlds import BOX, CHOICE, TORQUES, Toy


@pytest.mark.parametrize("name", ["ppo_normalized", "sac_norms", "crossq", "maskable"])
def test_nothing_of_the_agent_moves(name, tmp_path):
    model = AGENTS[name]()
    model.get_env().reset()
    model.get_env().training = True  # statistics would move with every step
    model.policy.train()
    env = model.get_env().unwrapped.envs[0]
    before = env.np_random.bit_generator.state, env.steps
    with unmoved(model, everything):
        rl_crop.export_actor(model, tmp_path / "policy.c")
        rl_crop.export_actor(model, tmp_path / "policy.c", env=model.get_env())  # its own, though it is named
    assert (env.np_random.bit_generator.state, env.steps) == before


def test_batch_statistics_are_not_those_of_the_batch(tmp_path):
    """Batch norms and dropout act as in evaluation even where the agent is left in training mode."""
    model = AGENTS["sac_norms"]()
    observations = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    wanted, _ = model.predict(observations, deterministic=True)
    model.policy.train()
    rl_crop.export_actor(model, tmp_path / "policy.onnx")
    import onnxruntime

    (found,) = onnxruntime.InferenceSession(tmp_path / "policy.onnx").run(None, {"observation": observations})
    np.testing.assert_allclose(found, wanted, atol=1e-4)


class Improved(PPO):
    """A user's own idea of ``predict``."""

    def predict(self, *args, **kwargs):
        action, state = super().predict(*args, **kwargs)
        return (action + 2e-4 if self.action_space == TORQUES else 3 - action), state


@pytest.mark.parametrize("actions", [TORQUES, CHOICE])
@pytest.mark.parametrize("suffix", [".c", ".onnx"])
def test_a_file_that_differs_is_not_written(actions, suffix, tmp_path):
    model = toy_agent(Improved, BOX, actions)
    path = tmp_path / f"policy{suffix}"
    with pytest.raises(rl_crop.PruningError, match="predict"):
        rl_crop.export_actor(model, path)
    assert list(tmp_path.iterdir()) == []
    path.write_text("the last good one")
    with pytest.raises(rl_crop.PruningError, match="predict"):
        rl_crop.export_actor(model, path)
    assert path.read_text() == "the last good one" and list(tmp_path.iterdir()) == [path]


class Other(DQN):
    """Chooses the second of two values that are the same, or nearly."""

    def predict(self, *args, **kwargs):
        action, state = super().predict(*args, **kwargs)
        return np.where(action == 0, 1, action), state


@pytest.mark.parametrize(("gap", "scale", "is_tie"), [(0.0, 1.0, True), (1e-4, 1.0, False), (1e-4, 1000.0, True)])
def test_ties_are_counted_and_nothing_else_is_forgiven(gap, scale, is_tie, tmp_path):
    model = toy_agent(Other)
    last = model.policy.q_net.q_net[-1]
    with th.no_grad():
        last.weight.zero_()
        last.bias.copy_(scale + th.tensor([gap, 0.0, -1.0, -1.0]))
    if is_tie:
        report = rl_crop.export_actor(model, tmp_path / "policy.c")
        assert report.n_ties >= report.n_observations and "ties" in str(report)
    else:
        with pytest.raises(rl_crop.PruningError, match="no ties"):
            rl_crop.export_actor(model, tmp_path / "policy.c")


def test_differences_are_measured_by_the_range_of_a_squashed_action(tmp_path):
    wide = spaces.Box(-3000.0, 3000.0, (1,), np.float32)
    report = rl_crop.export_actor(toy_agent(SAC, BOX, wide), tmp_path / "policy.c")
    assert report.largest_difference < 1e-5


def test_actions_that_are_not_numbers_are_refused(tmp_path):
    model = toy_agent(SAC)
    with th.no_grad():
        model.policy.actor.mu.bias.fill_(float("nan"))
    with pytest.raises(rl_crop.PruningError, match="finite"):
        rl_crop.export_actor(model, tmp_path / "policy.c")


def test_a_fresh_environment_is_stepped_where_one_can_be_made(tmp_path):
    model = ppo({"env_id": "Pendulum-v1", "n_envs": 2})
    states = [env.unwrapped.np_random.bit_generator.state for env in model.get_env().unwrapped.envs]
    assert rl_crop.export_actor(model, tmp_path / "policy.c").origin == "a fresh environment"
    assert states == [env.unwrapped.np_random.bit_generator.state for env in model.get_env().unwrapped.envs]


def test_a_given_gymnasium_environment_is_stepped(tmp_path):
    env = gym.make("Pendulum-v1")
    model = sac(env)
    model.env = None
    assert rl_crop.export_actor(model, tmp_path / "policy.c", env=env).origin == "the environment"


def test_buffers_hold_real_observations(tmp_path):
    model = toy_agent(SAC, normalize={}, learning_starts=10)
    model.learn(40)
    report = rl_crop.export_actor(model, tmp_path / "policy.c")
    assert report.origin == "the agent's buffer and the space" and report.n_observations == 256 + 40


def test_normalisation_that_cannot_be_folded_in_is_refused(tmp_path):
    inner = VecNormalize(DummyVecEnv([lambda: Toy(BOX, CHOICE)]))
    model = ppo(VecFrameStack(inner, 2))
    with pytest.raises(rl_crop.PruningError, match="VecFrameStack"):
        rl_crop.export_actor(model, tmp_path / "policy.c")
    outer = VecNormalize(VecFrameStack(DummyVecEnv([lambda: Toy(BOX, CHOICE)]), 2))
    assert rl_crop.export_actor(model, tmp_path / "policy.c", env=outer).inputs == {"observation": "float[6]"}


def test_wrong_arguments_say_what_to_do(tmp_path):
    model = AGENTS["ppo"]()
    for arguments, message in [
        ({"path": tmp_path / "policy.pt"}, "must end in"),
        ({"path": tmp_path / "policy.c", "opset": 18}, "opset"),
        ({"path": tmp_path / "policy.c", "env": DummyVecEnv([lambda: Toy(CHOICE, CHOICE)])}, "the policy takes"),
        ({"path": tmp_path / "policy.onnx", "opset": 3}, "opset 3"),
    ]:
        with pytest.raises(rl_crop.PruningError, match=message):
            rl_crop.export_actor(model, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_report_is_a_table_and_a_dictionary(tmp_path):
    report = rl_crop.export_actor(AGENTS["ppo_parts_normalized"](), tmp_path / "policy.c")
    text = str(report)
    assert f"{report.n_bytes:,} bytes" in text and "VecNormalize" in text and "float[8]" in text
    assert report.to_dict()["path"] == str(tmp_path / "policy.c")


def test_importing_the_package_imports_no_extras():
    extras = "onnx", "onnxruntime", "onnxscript", "sb3_contrib"
    code = f"import sys, rl_crop; print([name for name in {extras} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_comparison_is_in_single_precision():
    cudnn = th.backends.cudnn
    before = cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, cudnn.enabled
    with full_precision():
        assert not cudnn.allow_tf32
        assert (cudnn.benchmark, cudnn.deterministic, cudnn.enabled) == before[1:]
    assert (cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, cudnn.enabled) == before
