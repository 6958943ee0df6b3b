"""ONNX files in ONNX Runtime against ``predict``, on what the environment gave before any wrapper."""

import numpy as np
import onnxruntime
import pytest
import torch as th

import rl_crop
from tests.zoo.exported import AGENTS, RECURRENT, WITH_IMAGES
from tests.zoo.long import and_long
from tests.zoo.worlds import given

STATES = ("hidden_state", "cell_state")


def load(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def as_inputs(observation):
    parts = observation if isinstance(observation, dict) else {"observation": observation}
    return {key: part.astype(np.float32) if part.dtype == np.float64 else part for key, part in parts.items()}


def assert_same(found, wanted):
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    # Of an action space 30 wide.
    np.testing.assert_allclose(found, wanted, atol=1e-4 if wanted.dtype.kind == "f" else 0)


@pytest.mark.parametrize("name", and_long(AGENTS, WITH_IMAGES))
def test_the_file_acts_as_predict_does(name, tmp_path):
    model = (AGENTS | WITH_IMAGES)[name]()
    report = rl_crop.export_actor(model, tmp_path / "policy.onnx")
    assert report.largest_difference <= 1e-5
    assert report.n_bytes == (tmp_path / "policy.onnx").stat().st_size
    session, env = load(tmp_path / "policy.onnx"), model.get_env()
    observation, seen = env.reset(), []
    for _ in range(6):
        wanted, _ = model.predict(observation, deterministic=True)
        (found,) = session.run(None, as_inputs(given(env)))
        assert_same(found, wanted)
        seen.append(wanted)
        observation, *_ = env.step(wanted)
    assert len(np.unique(np.concatenate(seen), axis=0)) > 1, "the agent always does the same: nothing was tested"


@pytest.mark.parametrize("name", ["maskable", "maskable_binary"])
def test_masks_forbid(name, tmp_path):
    model = AGENTS[name]()
    rl_crop.export_actor(model, tmp_path / "policy.onnx")
    session, env = load(tmp_path / "policy.onnx"), model.get_env()
    observation, changed = env.reset(), 0
    for _ in range(10):
        masks = np.stack(env.env_method("action_masks"))
        wanted, _ = model.predict(observation, deterministic=True, action_masks=masks)
        (found,) = session.run(None, {"observation": given(env), "action_masks": masks})
        assert_same(found, wanted)
        (free,) = session.run(None, {"observation": given(env), "action_masks": np.ones_like(masks)})
        (left_out,) = session.run(None, {"observation": given(env)})
        np.testing.assert_array_equal(free, left_out)
        changed += int((free != found).sum())
        observation, *_ = env.step(wanted)
    assert changed > 0


@pytest.mark.parametrize("name", RECURRENT)
def test_states_go_round_and_start_again(name, tmp_path):
    model = RECURRENT[name]()
    rl_crop.export_actor(model, tmp_path / "policy.onnx")
    session, env = load(tmp_path / "policy.onnx"), model.get_env()
    assert [output.name for output in session.get_outputs()] == ["action", *(f"next_{state}" for state in STATES)]
    layers = model.policy.lstm_actor.num_layers
    observation, states, starts = env.reset(), None, np.ones(2, dtype=bool)
    own = [np.ones((layers, 2, 6), np.float32)] * 2  # not zero: the start of an episode has to see to that
    for step in range(8):
        wanted, states = model.predict(observation, state=states, episode_start=starts, deterministic=True)
        found, *own = session.run(None, as_inputs(given(env)) | dict(zip(STATES, own)) | {"episode_start": starts})
        assert_same(found, wanted)
        for mine, theirs in zip(own, states):
            np.testing.assert_allclose(mine, theirs, atol=1e-5)
        observation, *_ = env.step(wanted)
        starts = np.array([step == 3, step == 5])


def test_a_loaded_agent_needs_its_normalisation_back(tmp_path):
    model = AGENTS["ppo_normalized"]()
    model.save(tmp_path / "model.zip")
    loaded = type(model).load(tmp_path / "model.zip", device="cpu")
    bare = rl_crop.export_actor(loaded, tmp_path / "bare.onnx")
    assert bare.folded == () and bare.origin == "the space" and "give it by env=" in bare.notes[0]
    report = rl_crop.export_actor(loaded, tmp_path / "policy.onnx", env=model.get_env())
    assert report.folded == ("VecNormalize",) and report.origin == "the environment" and report.notes == ()
    env = model.get_env()
    wanted, _ = model.predict(env.reset(), deterministic=True)
    inputs = as_inputs(given(env))
    assert_same(load(tmp_path / "policy.onnx").run(None, inputs)[0], wanted)
    assert np.abs(load(tmp_path / "bare.onnx").run(None, inputs)[0] - wanted).max() > 0.01


def test_images_of_a_loaded_agent_have_the_channels_of_its_policy(tmp_path):
    model = WITH_IMAGES["dqn_own_cnn"]()
    first = rl_crop.export_actor(model, tmp_path / "first.onnx")
    assert first.inputs == {"observation": "uint8 (batch, 36, 38, 1)"} and first.folded == ("VecTransposeImage",)
    model.env = None
    second = rl_crop.export_actor(model, tmp_path / "second.onnx")
    assert second.inputs == {"observation": "uint8 (batch, 1, 36, 38)"} and second.folded == ()
    image = np.random.default_rng(0).integers(0, 256, (5, 36, 38, 1), dtype=np.uint8)
    (one,) = load(tmp_path / "first.onnx").run(None, {"observation": image})
    (two,) = load(tmp_path / "second.onnx").run(None, {"observation": np.moveaxis(image, -1, 1)})
    np.testing.assert_array_equal(one, two)


def test_a_pruned_agent_and_a_bare_policy(tmp_path):
    model = AGENTS["ppo_sde_squashed"](n_steps=16)
    before = rl_crop.export_actor(model, tmp_path / "before.onnx").n_bytes
    model.learn(32)
    rl_crop.prune_policy(model, sparsity=0.8, criterion="magnitude")
    report = rl_crop.export_actor(model, tmp_path / "policy.onnx")
    assert report.n_bytes < before
    assert report.origin == "the agent's buffer and the space" and report.n_observations == 256 + 32
    rl_crop.export_actor(model.policy, tmp_path / "bare.onnx")
    observation = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    wanted, _ = model.predict(observation, deterministic=True)
    for path in (tmp_path / "policy.onnx", tmp_path / "bare.onnx"):
        assert_same(load(path).run(None, {"observation": observation})[0], wanted)


def test_opset(tmp_path):
    import onnx

    rl_crop.export_actor(AGENTS["ppo"](), tmp_path / "policy.onnx", opset=18)
    (operators,) = (item.version for item in onnx.load(tmp_path / "policy.onnx").opset_import if item.domain == "")
    assert operators == 18


def test_an_opset_that_cannot_be_written_is_refused_without_noise(tmp_path, caplog):
    with pytest.raises(rl_crop.PruningError, match="cannot write opset 11"):
        rl_crop.export_actor(AGENTS["ppo"](), tmp_path / "policy.onnx", opset=11)
    assert all(record.levelname == "DEBUG" for record in caplog.records) and list(tmp_path.iterdir()) == []


def test_what_cannot_be_followed_is_refused(tmp_path):
    model = AGENTS["ppo"]()
    extractor = model.policy.features_extractor
    extractor.forward = lambda x: x if float(x.sum()) > 0 else -x
    with pytest.raises(rl_crop.PruningError, match="FlattenExtractor"):
        rl_crop.export_actor(model, tmp_path / "policy.onnx")
    assert list(tmp_path.iterdir()) == []
    assert th.equal(extractor.forward(th.ones(1)), th.ones(1))
