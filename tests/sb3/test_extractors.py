"""Pruned features extractors: the same function as the dense ones masked, and agents that load, train on and are cut again."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.pruning.surgery import Transaction
from rl_crop.sb3.extractors import PrunedExtractor, ShapesInTurn, correct_features_dim, rewrite_extractors
from rl_crop.sb3.subject import algorithm_optimizers
from tests.sb3.extractor_cuts import NAMES, cut_extractors, extractors, make, networks, observe, outputs, trace
from tests.zoo.agents import AGENTS
from tests.zoo.extractors import OwnExtractor
from tests.zoo.snapshots import same, tensors

ROOT = Path(__file__).parents[2]
IMAGE = spaces.Box(0, 255, (1, 44, 44), np.uint8)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def whole(name):
    """Separate extractors of one MlpExtractor must keep equal lengths."""
    return ("linear",) if name == "ppo_images_separate" else ()


def test_a_cut_agent_computes_what_the_dense_one_does_masked(name):
    model = make(name).learn(16)
    x, ids = observe(model), [id(p) for p in model.policy.parameters()]
    masked = make(name).policy
    masked.load_state_dict(model.policy.state_dict())
    norm = (*whole(name), *(("linear",) if name.endswith(("own", "own_shared")) else ()))  # a LayerNorm over the units
    graph, _, own = trace(masked, x)
    kept = cut_extractors(model, norm)
    assert kept
    with th.no_grad():
        for group, units in kept.items():
            removed = np.setdiff1d(np.arange(graph.groups[group].n_units), units)
            for slot in graph.groups[group].slots:
                if slot.role == "in":
                    own[slot.tensor].index_fill_(slot.axis, th.as_tensor(slot.index[removed].ravel()), 0.0)
    dense, pruned = outputs(masked, x), outputs(model.policy, x)
    assert all(th.allclose(one, other, atol=1e-5, rtol=1e-5) for one, other in zip(dense, pruned, strict=True))
    assert [id(p) for p in model.policy.parameters()] == ids
    agrees(model)


def agrees(model):
    """Sizes, targets, optimizer state and running statistics agree with the parameters."""
    for module in model.policy.modules():
        if isinstance(module, nn.Linear):
            assert tuple(module.weight.shape) == (module.out_features, module.in_features)
        if isinstance(module, nn.Conv2d):
            assert tuple(module.weight.shape[:2]) == (module.out_channels, module.in_channels // module.groups)
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_features == len(module.running_mean)
        own = getattr(module, "features_extractor", None)
        if "features_dim" in vars(module) and own is not None:
            assert module.features_dim == own.features_dim
    for optimizer in algorithm_optimizers(model):
        for parameter, slot in optimizer.state.items():
            assert all(value.shape == parameter.shape for value in slot.values() if value.dim())
    if hasattr(model.policy, "mlp_extractor"):
        assert model.policy.mlp_extractor.latent_dim_pi == model.policy.action_net.in_features
        assert model.policy.mlp_extractor.latent_dim_vf == model.policy.value_net.in_features
    pairs = [pair for _, *pair in networks(model.policy).values() if pair[1] is not None]
    live = {buffer.data_ptr() for pair in pairs for module in pair for buffer in module.buffers() if buffer.dim()}
    assert {tensor.data_ptr() for key in vars(model) if "batch_norm_stats" in key for tensor in getattr(model, key)} == live


def test_saved_agents_load_train_on_and_are_cut_again(name, tmp_path):
    model = make(name).learn(16)
    cut_extractors(model, whole(name))
    x = observe(model)
    for round_ in range(2):
        model.save(tmp_path / "agent.zip")
        for loaded in (type(model).load(tmp_path / "agent.zip"), type(model).load(tmp_path / "agent.zip", env=model.env)):
            assert same(tensors(loaded), tensors(model))
            assert same(outputs(loaded.policy, x), outputs(model.policy, x))
            agrees(loaded)
        assert [type(extractor) for extractor in extractors(loaded.policy)] == [type(e) for e in extractors(model.policy)]
        trained = [
            p for optimizer in algorithm_optimizers(loaded) for group in optimizer.param_groups for p in group["params"]
        ]
        before = [parameter.detach().clone() for parameter in trained]
        loaded.learn(32, reset_num_timesteps=False)
        assert not any(th.equal(old, parameter) for old, parameter in zip(before, trained, strict=True))
        agrees(loaded)
        model = loaded
        if round_ == 0:
            cut_extractors(model, whole(name), share=0.3)
            assert model.policy_kwargs["features_extractor_kwargs"]["extractor"] is not PrunedExtractor


@pytest.mark.long
def test_agents_load_in_a_new_process(tmp_path):
    for name in NAMES:
        model = make(name).learn(16)
        cut_extractors(model, whole(name))
        model.save(tmp_path / name)
        th.save([observe(model), outputs(model.policy, observe(model)), model.policy.state_dict()], tmp_path / f"{name}.pt")
    code = """
import sys, pathlib, torch as th
from tests.sb3.extractor_cuts import NAMES, make, outputs
from tests.zoo.snapshots import same
th.set_num_threads(1)
for name in NAMES:
    path = pathlib.Path(sys.argv[1]) / name
    x, expected, state = th.load(f"{path}.pt")
    policy = type(make(name)).load(path, device="cpu").policy
    assert same(policy.state_dict(), state) and same(outputs(policy, x), expected), name
print("all", len(NAMES))
"""
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.split() == ["all", str(len(NAMES))], result.stderr


# policy.save of Stable-Baselines3 forgets share_features_extractor.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "ppo_images_separate"])
def test_policies_save_and_load(name, tmp_path):
    model = make(name)
    cut_extractors(model, whole(name))
    model.policy.save(tmp_path / "policy.pt")
    for _ in range(2):
        assert same(type(model.policy).load(tmp_path / "policy.pt").state_dict(), model.policy.state_dict())


def test_the_turn_starts_over_and_copies_start_at_the_first(name):
    model = make(name)
    cut_extractors(model, whole(name))
    kwargs, policy = model.policy_kwargs, model.policy
    in_turn = isinstance(kwargs["features_extractor_kwargs"]["shapes"], ShapesInTurn)
    assert in_turn == (name in ("ppo_images_separate", "sac_images", "sac_own", "td3_images"))

    def rebuilt(keywords):
        return type(policy)(policy.observation_space, policy.action_space, lr_schedule=lambda _: 0.1, **keywords)

    shapes = {key: value.shape for key, value in policy.state_dict().items()}
    for _ in range(2):
        assert {key: value.shape for key, value in rebuilt(kwargs).state_dict().items()} == shapes
    if in_turn:
        kwargs["features_extractor_kwargs"]["shapes"].take()
    for copied in (copy.deepcopy(kwargs), pickle.loads(pickle.dumps(kwargs["features_extractor_kwargs"]))):
        keywords = copied if "net_arch" in copied else {**kwargs, "features_extractor_kwargs": copied}
        assert {key: value.shape for key, value in rebuilt(keywords).state_dict().items()} == shapes
    assert copy.deepcopy(kwargs) == kwargs
    assert same(outputs(copy.deepcopy(policy), observe(model)), outputs(policy, observe(model)))


def test_a_construction_that_fails_restarts_the_turn():
    turn = ShapesInTurn([{}, {"nothing": [1]}])
    for _ in range(2):
        PrunedExtractor(IMAGE, NatureCNN, turn)
        with pytest.raises(PruningError, match="nothing"):
            PrunedExtractor(IMAGE, NatureCNN, turn)


def test_nothing_changes_where_no_extractor_was_cut(name):
    model = make(name)
    policy, kwargs, space = model.policy, model.policy_kwargs, model.observation_space
    space.seed(0)
    modes, before = [module.training for module in policy.modules()], dict(vars(policy))
    numbers, drawn = th.get_rng_state(), copy.deepcopy(space).sample()
    with Transaction() as transaction:
        rewrite_extractors(transaction, policy, model, extractors(policy))
        rewrite_extractors(transaction, policy, model, [])  # a policy that has none
    assert model.policy_kwargs is kwargs and all(vars(policy)[key] is value for key, value in before.items())
    assert th.equal(th.get_rng_state(), numbers) and same(copy.deepcopy(space).sample(), drawn)
    assert [module.training for module in policy.modules()] == modes


def test_an_error_puts_everything_back(name):
    mine = AGENTS[name].keywords["policy_kwargs"].get("features_extractor_kwargs", {})
    model = make(name).learn(16)
    untouched = copy.deepcopy(mine)

    def facts():
        kept = {key: value for key, value in vars(model).items() if "batch_norm_stats" in key}
        sizes = [(vars(m).get("features_dim"), vars(m).get("_features_dim")) for m in model.policy.modules()]
        described = model.policy.features_extractor_class, model.policy.features_extractor_kwargs
        return {"stats": kept, "sizes": sizes, "policy": described, "kwargs": model.policy_kwargs, "state": tensors(model)}

    before = facts()
    with pytest.raises(RuntimeError, match="late"), Transaction() as transaction:
        cut_extractors(model, whole(name), transaction)
        assert facts()["policy"][0] is PrunedExtractor
        raise RuntimeError("late")
    assert same(facts(), before) and mine == untouched
    agrees(model)
    cut_extractors(model, whole(name))
    assert mine == untouched


def test_separate_extractors_of_ppo_must_return_equal_numbers():
    model = make("ppo_images_separate")
    before = tensors(model)
    with pytest.raises(PruningError, match="leave the extractors' last layers whole"):
        cut_extractors(model)
    assert same(tensors(model), before) and "features_extractor_class" not in model.policy_kwargs


def test_pruned_extractors_are_of_the_original_class():
    shapes = {"cnn.0.weight": [5, 1, 8, 8], "cnn.0.bias": [5], "cnn.2.weight": [64, 5, 4, 4]}
    built = PrunedExtractor(IMAGE, NatureCNN, shapes, {"features_dim": 7})
    dense = NatureCNN(IMAGE, 7)
    assert type(built) is NatureCNN and list(built.state_dict()) == list(dense.state_dict())
    assert built.cnn[0].out_channels == built.cnn[2].in_channels == 5 and built.features_dim == 7
    assert issubclass(PrunedExtractor, BaseFeaturesExtractor)
    assert built(th.zeros(2, 1, 44, 44)).shape == (2, 7)


def test_extractors_within_extractors_know_their_length():
    model = make("ppo_mixed")
    cut_extractors(model)
    extractor = model.policy.features_extractor
    inner = extractor.extractors["image"]
    assert inner.features_dim == inner.linear[0].out_features < 16
    assert extractor.features_dim == inner.features_dim + 3 + 4 == model.policy.mlp_extractor.policy_net[0].in_features


@pytest.mark.parametrize("shape", [[33, 1, 8, 8], [5, 1, 8], [5]])
def test_shapes_that_do_not_fit_are_named(shape):
    with pytest.raises(PruningError, match="cnn.0.weight"):
        PrunedExtractor(IMAGE, NatureCNN, {"cnn.0.weight": shape})


def test_an_extractor_that_keeps_its_length_elsewhere():
    class Plain(nn.Sequential):
        features_dim = 5

    module = Plain(nn.Flatten(), nn.Linear(3, 4))
    with Transaction() as transaction, pytest.raises(PruningError, match="_features_dim"):
        correct_features_dim(transaction, module, spaces.Box(-1, 1, (3,)))
    module.features_dim = 5
    with Transaction() as transaction:
        correct_features_dim(transaction, module, spaces.Box(-1, 1, (3,)))
    assert module.features_dim == 4


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_images_that_are_normalised_already(algorithm, tmp_path):
    """Stable-Baselines3 then adds an argument of NatureCNN by itself."""
    env = FakeImageEnv(screen_height=44, screen_width=44, channel_first=True)
    env.observation_space = spaces.Box(0, 1, env.observation_space.shape, np.float32)
    model = algorithm("CnnPolicy", env, policy_kwargs={"normalize_images": False}, device="cpu", seed=0)
    cut_extractors(model)
    model.save(tmp_path / "agent.zip")
    loaded = algorithm.load(tmp_path / "agent.zip", device="cpu")
    assert same(tensors(loaded), tensors(model)) and loaded.policy.net_arch == model.policy.net_arch


def test_the_own_extractor_is_cut_everywhere():
    model = make("dqn_own")
    kept = cut_extractors(model)
    prefix = "q_net.features_extractor."
    assert list(kept) == [prefix + part for part in ("stem.0", "inner.0", "linear")]
    assert type(model.q_net.features_extractor) is OwnExtractor
    assert model.q_net.features_extractor.depthwise.groups == len(kept[prefix + "stem.0"])
    assert model.q_net.features_extractor.norm.normalized_shape == (len(kept[prefix + "linear"]),)
