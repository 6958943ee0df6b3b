import copy

import pytest
import torch as th
from stable_baselines3 import SAC

import rl_crop
from tests.sb3.agents import SCORING, consistent, equal, sac, tensors


def assert_all_move(model, before):
    for name, tensor in tensors(model).items():
        assert tensor.shape == before[name].shape, name
        assert tensor.numel() == 0 or not th.equal(tensor, before[name]), f"{name} stands still"


def test_every_tensor_moves_after_prune_policy(make_agent):
    model = make_agent().learn(64)
    report = rl_crop.prune_policy(model, 0.6, seed=1, **SCORING)
    assert all(share == 0 or 0.6 <= share for share in report.sparsity.values()) and report.sparsity["total"] > 0.5
    consistent(model)
    before = tensors(model)
    model.learn(64, reset_num_timesteps=False)
    assert_all_move(model, before)
    consistent(model)


def test_every_tensor_moves_after_the_callback(make_agent):
    model = make_agent().learn(192, callback=rl_crop.PruningCallback(0.6, when=64, verbose=0, **SCORING))
    [event] = model.pruning_history
    assert event["decided_by"] == "fixed" and 64 <= event["timesteps"] <= 192
    consistent(model)
    before = tensors(model)
    model.learn(64, reset_num_timesteps=False)
    assert_all_move(model, before)


def test_parameters_stay_the_same_objects(make_plain):
    model = make_plain().learn(64)
    before = list(model.policy.parameters())
    trained = [p for optimizer in _optimizers(model) for group in optimizer.param_groups for p in group["params"]]
    rl_crop.prune_policy(model, 0.6, **SCORING)
    assert [id(p) for p in model.policy.parameters()] == [id(p) for p in before]
    now = [p for optimizer in _optimizers(model) for group in optimizer.param_groups for p in group["params"]]
    assert [id(p) for p in now] == [id(p) for p in trained]


def _optimizers(model):
    return [model.actor.optimizer, model.critic.optimizer] if isinstance(model, SAC) else [model.policy.optimizer]


@pytest.mark.parametrize("criterion", ["crop", "random", "span_crop"])
def test_optimizer_moments_are_those_of_the_kept_units(make_plain, criterion):
    model = make_plain().learn(64)
    plan = rl_crop.plan_policy_pruning(model, 0.5, criterion=criterion, compensation="none", **SCORING)
    kept = {name: (index, model.policy.get_submodule(name).weight) for name, index in plan.keep.items()}
    moments = {id(p): slot["exp_avg"].clone() for opt in _optimizers(model) for p, slot in opt.state.items()}
    names = {id(p): name for name, p in model.policy.named_parameters()}
    plan.apply()
    now = {id(p): slot["exp_avg"] for opt in _optimizers(model) for p, slot in opt.state.items()}
    for name, (rows, weight) in kept.items():
        first_layer = names[id(weight)].rsplit(".", 2)[1] == "0"
        if first_layer:  # its columns are the observations, which stay
            assert th.equal(now[id(weight)], moments[id(weight)][th.as_tensor(rows)]), name


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
    assert equal(targets, {name: after[name.replace("critic_target.", "critic.")] for name in targets})
    model.learn(32, reset_num_timesteps=False)
    for critic, target in zip(model.critic.parameters(), model.critic_target.parameters(), strict=True):
        assert th.equal(critic, target)


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
