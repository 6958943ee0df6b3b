"""C files, compiled with every warning an error, against ``predict``."""

import ctypes
import subprocess

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO, TD3
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

import rl_crop
from rl_crop.export.c_functions import ACTIVATIONS
from tests.zoo.exported import AGENTS, RECURRENT, WITH_IMAGES, toy_agent
from tests.zoo.worlds import PARTS, TORQUES, given

STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1"]


class Library:
    """``act`` of a C file, one observation a call."""

    def __init__(self, path, model, masked=False):
        library = path.with_suffix(".so")
        subprocess.run(["cc", *STRICT, "-shared", "-fPIC", str(path), "-o", str(library), "-lm"], check=True)
        self.library, self.space, self.masked = ctypes.CDLL(str(library)), model.action_space, masked

    def __call__(self, observation, mask=None):
        parts = observation.values() if isinstance(observation, dict) else [observation]
        x = np.concatenate([np.ravel(part).astype(np.float32) for part in parts])
        action = np.zeros(self.space.shape, np.float32 if isinstance(self.space, spaces.Box) else np.intc)
        masks = [mask if mask is None else np.ascontiguousarray(mask, np.uint8).ctypes] if self.masked else []
        self.library.act(*(None if a is None else ctypes.c_void_p(a.data) for a in (x.ctypes, *masks, action.ctypes)))
        return action


def rows(observation, n):
    for i in range(n):
        yield {key: value[i] for key, value in observation.items()} if isinstance(observation, dict) else observation[i]


@pytest.mark.parametrize("name", AGENTS)
def test_the_file_acts_as_predict_does(name, tmp_path):
    model = AGENTS[name]()
    report = rl_crop.export_actor(model, tmp_path / "policy.c")
    assert report.largest_difference <= 1e-5 and report.notes == ()
    act = Library(tmp_path / "policy.c", model, masked=name.startswith("maskable"))
    env = model.get_env()
    observation = env.reset()
    for _ in range(4):
        keywords = {"action_masks": np.stack(env.env_method("action_masks"))} if act.masked else {}
        wanted, _ = model.predict(observation, deterministic=True, **keywords)
        for i, row in enumerate(rows(given(env), env.num_envs)):
            found = act(row, *(masks[i] for masks in keywords.values()))
            np.testing.assert_allclose(found, wanted[i], atol=1e-4 if isinstance(act.space, spaces.Box) else 0)
            if act.masked:
                free, _ = model.predict(np.asarray(row), deterministic=True)
                np.testing.assert_array_equal(act(row), free)
        observation, *_ = env.step(wanted)


class Chain(nn.Module):
    """Every activation on numbers of its own."""

    def __init__(self, activations):
        super().__init__()
        self.activations = nn.ModuleList(activations)

    def forward(self, x):
        return th.cat([activation(x) for activation in self.activations], 1)


def test_activations(tmp_path):
    kinds = [kind() for kind in ACTIVATIONS if kind is not nn.Hardtanh]
    kinds += [nn.ELU(0.3), nn.CELU(2.0), nn.LeakyReLU(0.2), nn.Softplus(3.0, 5.0), nn.Hardtanh(-0.5, 0.25)]
    kinds += [nn.GELU(), nn.GELU("tanh"), nn.Identity()]
    wide = spaces.Box(-1e6, 1e6, (len(kinds),), np.float32)
    model = toy_agent(PPO, spaces.Box(-np.inf, np.inf, (1,)), wide, net_arch=[])
    model.policy.features_extractor.flatten = Chain(kinds)
    model.policy.action_net = nn.Identity()
    model.env = None
    rl_crop.export_actor(model, tmp_path / "policy.c")
    act = Library(tmp_path / "policy.c", model)
    for x in (-100.0, -21.0, -4.0, -0.9, -0.01, 0.0, 0.3, 2.0, 19.0, 25.0, 100.0):
        wanted = [kind(th.tensor(x)).item() for kind in kinds]
        np.testing.assert_allclose(act(np.float32([x])), wanted, rtol=1e-5, atol=1e-6)


def test_constants_are_those_of_the_weights(tmp_path):
    model = toy_agent(TD3, net_arch=[])
    layer = model.policy.actor.mu[0]
    with th.no_grad():
        layer.weight.copy_(th.tensor([[1e-30, 1.0, -1 / 3], [16777216.0, 1e20, 7.0]]))
    rl_crop.export_actor(model, tmp_path / "policy.c")
    text = (tmp_path / "policy.c").read_text()
    values = text.split("weight0[3 * 2] = {")[1].split("}")[0].replace("f", "").split(",")
    np.testing.assert_array_equal(np.float32(values).reshape(3, 2).T, layer.weight.detach().numpy())


def test_a_pruned_agent_is_a_smaller_file(tmp_path):
    model = AGENTS["ppo_clipped_separate"]()
    before = rl_crop.export_actor(model, tmp_path / "policy.c").n_bytes
    model.learn(32)
    rl_crop.prune_policy(model, sparsity=0.7, criterion="magnitude")
    assert rl_crop.export_actor(model, tmp_path / "policy.c").n_bytes < before
    act = Library(tmp_path / "policy.c", model)
    observation = np.float32([0.5, -1.0, 2.0])
    np.testing.assert_allclose(act(observation), model.predict(observation, deterministic=True)[0], atol=1e-5)


@pytest.mark.parametrize("name", ["dqn_own_cnn", "td3_seen_normalized", "recurrent"])
def test_what_c_is_not_written_for_is_refused(name, tmp_path):
    with pytest.raises(rl_crop.PruningError, match=".onnx"):
        rl_crop.export_actor((WITH_IMAGES | RECURRENT)[name](), tmp_path / "policy.c")
    assert list(tmp_path.iterdir()) == []


class Squared(nn.Module):
    def forward(self, x):
        return x**2


def test_unknown_calls_are_named(tmp_path):
    model = toy_agent(PPO, policy_kwargs={"activation_fn": Squared})
    with pytest.raises(rl_crop.PruningError, match="pow"):
        rl_crop.export_actor(model, tmp_path / "policy.c")


def test_without_a_compiler_the_report_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", str(tmp_path / "none"))
    report = rl_crop.export_actor(AGENTS["ppo"](), tmp_path / "policy.c")
    assert report.largest_difference is None and "no C compiler" in report.notes[0]
    assert "not compared" in str(report)


class Twice(BaseFeaturesExtractor):
    """Reads a part under two names, and changes one."""

    def __init__(self, space):
        super().__init__(space, 8)

    def forward(self, parts):
        return th.cat([th.tanh(parts["gear"]), parts["gear"]], dim=-1)


def test_what_is_read_twice_is_not_overwritten(tmp_path):
    model = toy_agent(PPO, PARTS, TORQUES, policy_kwargs={"features_extractor_class": Twice})
    rl_crop.export_actor(model, tmp_path / "policy.c")
    act, observation = Library(tmp_path / "policy.c", model), model.observation_space.sample()
    wanted, _ = model.predict(observation, deterministic=True)
    np.testing.assert_allclose(act(observation), wanted, atol=1e-4)


class Stacked(Twice):
    """Puts rows below each other, which looks like a concatenation."""

    def forward(self, parts):
        return th.cat([parts["gear"], parts["gear"]]).reshape(-1, 8)


def test_a_concatenation_of_rows_is_refused(tmp_path):
    model = toy_agent(PPO, PARTS, n_envs=1, policy_kwargs={"features_extractor_class": Stacked})
    with pytest.raises(rl_crop.PruningError, match="cat"):
        rl_crop.export_actor(model, tmp_path / "policy.c")
