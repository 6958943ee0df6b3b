"""What a cut leaves behind: moments, twins and targets of the kept units, compensated on their own activations."""

import copy

import pytest
import torch as th

import rl_crop
from rl_crop.sb3.subject import algorithm_optimizers
from tests.zoo.agents import AGENTS, SCORING, sac
from tests.zoo.snapshots import same, tensors


def moments(model):
    """By parameter, one of the tensors of its shape that its optimizer keeps."""
    found = {}
    for optimizer in algorithm_optimizers(model):
        for parameter, slot in optimizer.state.items():
            shaped = [value for value in slot.values() if isinstance(value, th.Tensor) and value.shape == parameter.shape]
            if shaped:
                found[id(parameter)] = shaped[0].clone()
    return found


CASES = [
    (name, "crop") for name in ("dqn", "qrdqn", "td3", "ddpg", "tqc", "crossq", "a2c", "maskable", "recurrent", "ppo_images")
]
CASES += [(name, criterion) for name in ("ppo_discrete", "sac") for criterion in ("crop", "random", "span_crop")]


@pytest.mark.parametrize(("name", "criterion"), CASES)
def test_optimizer_moments_are_those_of_the_kept_units(name, criterion):
    model = AGENTS[name]().learn(64)
    plan = rl_crop.plan_policy_pruning(model, 0.5, criterion=criterion, compensation="none", **SCORING)
    before, checked = moments(model), 0
    plan.apply()
    after = moments(model)
    for layer, rows in plan.keep.items():
        module, gates = model.policy.get_submodule(layer), 1
        if isinstance(module, th.nn.LSTM):  # a hidden unit has a row in each of four gates
            module, gates = module.weight_ih_l0, 4
        weight = id(getattr(module, "weight", module))
        if before[weight].shape[1:] == after[weight].shape[1:]:  # what it reads is not cut: observations
            kept = before[weight].unflatten(0, (gates, -1))[:, th.as_tensor(rows)].flatten(0, 1)
            assert th.equal(after[weight], kept), layer
            checked += 1
    assert checked


@pytest.mark.parametrize("compensation", ["none", "bias", "least_squares"])
@pytest.mark.parametrize("n_critics", [1, 2, 3])
def test_twins_and_targets_lose_the_same_units(n_critics, compensation):
    model = sac(policy_kwargs={"n_critics": n_critics}, tau=1.0).learn(64)  # with tau = 1 every target equals its critic
    before = tensors(model)
    plan = rl_crop.plan_policy_pruning(model, {"critic": 0.6}, compensation=compensation, **SCORING)
    plan.apply()
    after = tensors(model)
    rows = th.as_tensor(plan.keep["critic.qf0.0"])
    for twin in range(n_critics):
        for owner in ("critic", "critic_target"):
            name = f"{owner}.qf{twin}.0.weight"
            assert th.equal(after[name], before[name][rows]), name
    targets = {name: tensor for name, tensor in after.items() if name.startswith("critic_target.")}
    assert same(targets, {name: after[name.replace("critic_target.", "critic.")] for name in targets})
    model.learn(32, reset_num_timesteps=False)
    for critic, target in zip(model.critic.parameters(), model.critic_target.parameters(), strict=True):
        assert th.equal(critic, target)


def test_random_search_goes_on_from_its_policy(tmp_path):
    """Its vector of weights is the policy again after a cut, also where loading has lost it."""
    model = AGENTS["ars"]().learn(64)
    model.save(tmp_path / "agent")
    loaded = type(model).load(tmp_path / "agent", env=model.get_env())
    rl_crop.prune_policy(loaded, 0.6, criterion="span", **SCORING)
    assert th.equal(loaded.weights, th.nn.utils.parameters_to_vector(loaded.policy.parameters()))
    assert loaded.n_params == len(loaded.weights) < model.n_params
    assert all(p.untyped_storage().nbytes() == 4 * p.numel() for p in loaded.policy.parameters())  # no views of the old one


def test_targets_are_compensated_on_their_own_activations():
    model = sac(tau=1e-3).learn(128)
    data = [model.replay_buffer.sample(256)]
    errors = {}
    for compensation in ("none", "least_squares"):
        policy = copy.deepcopy(model.policy)
        rl_crop.prune_policy(policy, {"critic": 0.7}, batches=data, compensation=compensation)
        with th.no_grad():
            errors[compensation] = {
                owner: (_values(policy, owner, data[0]) - _values(model.policy, owner, data[0])).var()
                for owner in ("critic", "critic_target")
            }
    for owner, plain in errors["none"].items():
        assert errors["least_squares"][owner] < 0.2 * plain


def _values(policy, owner, data):
    return th.cat(getattr(policy, owner)(data.observations, data.actions))
