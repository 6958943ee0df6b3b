"""Agents of users' own, by kind: what is cut trains on, saves and loads; what cannot be is refused before anything trains."""

import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import TQC, TRPO, CrossQ, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

import rl_crop
from tests.zoo.agents import CART, SCORING, build
from tests.zoo.own_agents import (
    HOLDING,
    AutoEncoder,
    AuxiliaryHead,
    Cards,
    Decoding,
    DeepHeads,
    Drawn,
    Extractor,
    FixedSoft,
    FixedWidths,
    Given,
    HeadTraining,
    Listing,
    Logarithms,
    Noisy,
    OtherTraining,
    OwnHidden,
    OwnHiddenRecurrent,
    Present,
    Scaled,
    Simulator,
    TrainingBranch,
    own,
)

ENCODER = Extractor(spaces.Box(-1, 1, (3,))).net
GIVEN = {"policy_kwargs": {"features_extractor_kwargs": {"encoder": ENCODER}}}
LOADING = {
    "fixed widths": own(policy=FixedWidths),
    "fixed widths of A2C": own(algorithm=A2C, policy=FixedWidths),
    "fixed widths of TRPO": own(algorithm=TRPO, policy=FixedWidths),
    "fixed widths of SAC": own(algorithm=SAC, policy=FixedSoft),
    "deep heads": own(policy=DeepHeads),
    "hidden layers": own(policy=OwnHidden),
    "hidden layers behind an extractor": own(Extractor, policy=OwnHidden),
    "hidden layers behind an LSTM": own(algorithm=RecurrentPPO, policy=OwnHiddenRecurrent),
    "an encoder as an object": own(Given, **GIVEN),
    "a function that builds the extractor": own(lambda space: Extractor(space, 12)),
    "a buffer that is not saved": own(Scaled),
    "layers that only training runs": own(TrainingBranch),
    "noise in training": own(Noisy),
    "a decoder": own(AutoEncoder, Decoding),
}


@pytest.mark.parametrize("kind", LOADING)
def test_a_cut_agent_trains_saves_and_loads(kind, tmp_path):
    model = LOADING[kind]().learn(64)
    dense = sum(p.numel() for p in model.policy.parameters())
    rl_crop.prune_policy(model, 0.5, **SCORING)
    assert sum(p.numel() for p in model.policy.parameters()) < dense
    model.learn(64)
    model.save(tmp_path / "cut")
    loaded = type(model).load(tmp_path / "cut", env=model.get_env())
    observations = np.random.default_rng(0).uniform(-1, 1, (20, 3)).astype(np.float32)
    assert np.allclose(*(agent.predict(observations, deterministic=True)[0] for agent in (model, loaded)), atol=1e-6)
    loaded.learn(64)
    rl_crop.prune_policy(loaded, 0.2, criterion="magnitude", compensation="none", min_units=2)
    loaded.save(tmp_path / "again")
    type(model).load(tmp_path / "again")


def test_an_encoder_that_was_handed_over_stays_as_it_was():
    before = copy.deepcopy(ENCODER.state_dict())
    model = own(Given, **GIVEN)()
    rl_crop.prune_policy(model, 0.5, compensation="none", criterion="magnitude")
    assert {name: tensor.shape for name, tensor in ENCODER.state_dict().items()} == {k: v.shape for k, v in before.items()}


@pytest.mark.parametrize("kind", HOLDING)
def test_what_an_algorithm_holds_is_cut_along(kind):
    algorithm = HOLDING[kind]
    env = CART if issubclass(algorithm, DQN) else "Pendulum-v1"
    build(algorithm, env).learn(256, callback=rl_crop.PruningCallback(0.5, when=0.5, verbose=0, **SCORING))


def test_a_vector_of_all_parameters_is_refused_at_the_start():
    model = own()()
    model.flat = th.nn.utils.parameters_to_vector(model.policy.parameters()).detach()
    with pytest.raises(rl_crop.PruningError, match="model.flat"):
        model.learn(64, callback=rl_crop.PruningCallback(0.5, verbose=0))
    assert model.num_timesteps == 0
    model.learn(64, callback=rl_crop.PruningCallback(0.5, ignore="flat", verbose=0, **SCORING))


def test_an_optimizer_whose_history_cannot_be_cut_is_refused_at_the_start():
    model = own()()
    model.own = th.optim.LBFGS(model.policy.value_net.parameters())
    with pytest.raises(rl_crop.PruningError, match="LBFGS"):
        model.learn(64, callback=rl_crop.PruningCallback(0.5, verbose=0))
    assert model.num_timesteps == 0


@pytest.mark.parametrize("how", ["a name", "a function"])
def test_names_and_functions_say_what_is_cut_along(how):
    model = own()()
    model.critic_copy = [copy.deepcopy(model.policy.value_net).state_dict()]
    mirrors = "policy_copy" if how == "a name" else lambda model: [model.policy_copy]
    model.policy_copy = copy.deepcopy(model.policy)
    model.learn(128, callback=rl_crop.PruningCallback(0.5, mirrors=mirrors, when=0.5, verbose=0, **SCORING))
    shapes = [[p.shape for p in policy.parameters()] for policy in (model.policy, model.policy_copy)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("policy", [AuxiliaryHead])
def test_what_a_head_may_read_stays_whole(policy):
    with pytest.raises(rl_crop.PruningError, match="may be read by head"):
        own(policy=policy, algorithm=HeadTraining)().learn(64, callback=rl_crop.PruningCallback(0.5, verbose=0))


def test_another_function_of_training_is_refused_at_the_start():
    model = own(policy=OtherTraining)()
    with pytest.raises(rl_crop.PruningError, match="trained values"):
        model.learn(64, callback=rl_crop.PruningCallback(0.5, verbose=0))
    assert model.num_timesteps == 0


@pytest.mark.parametrize("algorithm", [SAC, TQC, CrossQ])
def test_actors_that_are_sure_of_themselves_are_not_taken_for_others(algorithm):
    model = build(algorithm).learn(64)
    with th.no_grad():
        model.actor.mu.bias.fill_(8.0)  # before tanh
        model.actor.log_std.bias.fill_(-25.0)
    assert rl_crop.plan_policy_pruning(model, 0.5, **SCORING).sparsity["actor"] >= 0.5


def frozen(*parts):
    def build_frozen():
        model = own(Extractor)()
        for part in parts:
            model.policy.get_submodule(part).requires_grad_(False)
        return model

    return build_frozen


FROZEN = {
    "extractor": frozen("features_extractor"),
    "layer": frozen("features_extractor.net.2"),
    "critic": frozen("mlp_extractor.value_net", "value_net"),
}


@pytest.mark.parametrize("criterion", ["crop", "snip", "taylor", "grasp", "obs", "obs_crop", "span_crop"])
@pytest.mark.parametrize("kind", FROZEN)
def test_frozen_units_are_ranked_and_not_used_up(kind, criterion):
    model = FROZEN[kind]().learn(64)
    plan = rl_crop.plan_policy_pruning(model, 0.5, criterion=criterion, **SCORING)
    for name, scores in plan.scores.items():
        assert len(np.unique(scores)) > len(scores) / 2 and plan.widths_after[name] > 1


SEEN = {
    "a mean over what is present": (Present, spaces.Box(0.1, 1, (6,))),
    "codes of cards": (Cards, spaces.Box(1, 5, (2,), np.int64)),
    "logarithms": (Logarithms, spaces.Box(0.1, 2, (4,))),
}


@pytest.mark.parametrize("kind", SEEN)
def test_policies_are_run_on_observations_that_occur(kind):
    extractor, space = SEEN[kind]
    build(PPO, Drawn(space), policy_kwargs={"features_extractor_class": extractor}).learn(
        192, callback=rl_crop.PruningCallback(0.5, when=0.5, verbose=0, **SCORING)
    )


@pytest.mark.parametrize("algorithm", [PPO, A2C, TRPO, SAC])
def test_actions_of_two_axes(algorithm):
    model = build(algorithm, Drawn(spaces.Box(-1, 1, (4,)), spaces.Box(-1, 1, (2, 3)))).learn(64)
    assert rl_crop.prune_policy(model, 0.5, **SCORING).sparsity["actor"] >= 0.5
    model.learn(64)


ACTIVATIONS = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU,
    nn.LogSigmoid, nn.Mish, nn.RReLU, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink,
    nn.Softsign, nn.Tanh, nn.Tanhshrink,
)  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation):
    model = own(policy_kwargs={"activation_fn": activation})()
    report = rl_crop.prune_policy(model, 0.5, criterion="magnitude", compensation="none")
    assert report.sparsity["total"] >= 0.5


@pytest.mark.parametrize(("algorithm", "env"), [(TD3, "Pendulum-v1"), (DQN, CART)])
def test_an_encoder_that_online_and_target_networks_share(algorithm, env):
    size = 3 if algorithm is TD3 else 4
    encoder = Extractor(spaces.Box(-1, 1, (size,))).net.requires_grad_(False)
    kwargs = {"features_extractor_class": Given, "features_extractor_kwargs": {"encoder": encoder}}
    model = build(algorithm, env, policy_kwargs=kwargs).learn(64)
    rl_crop.prune_policy(model, 0.5, **SCORING)
    model.learn(64)


def test_replay_data_without_the_normalization_of_training(tmp_path):
    def env():
        return DummyVecEnv([lambda: Drawn(spaces.Box(-100, 100, (3,)))])

    model = build(SAC, VecNormalize(env())).learn(128)
    model.save(tmp_path / "agent")
    model.save_replay_buffer(tmp_path / "replay")
    loaded = SAC.load(tmp_path / "agent")
    loaded.load_replay_buffer(tmp_path / "replay")
    with pytest.raises(rl_crop.PruningError, match="VecNormalize"):
        rl_crop.prune_policy(loaded, 0.5, **SCORING)
    report = rl_crop.prune_policy(loaded, 0.5, compensation="none", **SCORING)
    assert any("VecNormalize" in note for note in report.notes)


@pytest.mark.parametrize("simulator", [Simulator, Listing])
def test_exports_from_simulators(simulator, tmp_path):
    rl_crop.export_actor(build(PPO, simulator()).learn(128), tmp_path / "policy.c")


def test_the_agent_of_a_policy_is_found_and_saved_as_cut(tmp_path):
    model = own()().learn(64)
    rl_crop.prune_policy(model.policy, 0.5, **SCORING)
    assert len(model.pruning_history) == 1
    model.save(tmp_path / "cut")
    PPO.load(tmp_path / "cut", env=model.get_env()).learn(64)
