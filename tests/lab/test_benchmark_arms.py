"""What the benchmark compares: rivals are what they are said to be, and other ways to train give the same weights."""

from dataclasses import replace

import pytest
import torch as th
from torch import nn

from lab.performance import memory, parts, update
from lab.performance.learners import build_agent, gradient_steps
from lab.performance.rivals import torch_pruning
from lab.performance.training import build_arms
from lab.performance.variants import VARIANTS, stacked
from rl_crop.evaluation.networks import count_parameters, read_widths
from tests.lab.benchmarks import CPU, TINY
from tests.zoo.long import all_in_long

ALGOS = ("sac", "ppo")
TARGET = "critic_target"


@pytest.fixture(scope="module", params=ALGOS)
def arms(request):
    pytest.importorskip("torch_pruning")
    return request.param, build_arms(request.param, 8, 0.5, TINY, CPU)


def linear_layers(model):
    return [module for module in model.policy.modules() if isinstance(module, nn.Linear)]


def test_the_one_built_small_is_the_pruned_one(arms):
    algo, models = arms
    pruned, native = models["pruned"], models["native"]
    states = [model.policy.state_dict() for model in (pruned, native)]
    assert (
        all(th.equal(states[0][name], tensor) for name, tensor in states[1].items()) and states[0].keys() == states[1].keys()
    )
    assert read_widths(pruned) == read_widths(native) and read_widths(pruned) != read_widths(models["dense"])
    observations = pruned.observation_space.sample()
    assert (pruned.predict(observations, deterministic=True)[0] == native.predict(observations, deterministic=True)[0]).all()
    if algo == "sac":
        inputs = th.randn(3, 3), th.randn(3, 1)
        assert all(map(th.equal, pruned.critic(*inputs), native.critic(*inputs)))
        assert all(map(th.equal, pruned.critic_target(*inputs), native.critic_target(*inputs)))


def test_torch_pruning_ends_with_the_same_widths(arms):
    algo, models = arms
    model = models["torch_pruning"]
    assert read_widths(model) == read_widths(models["pruned"])
    assert count_parameters(model) == count_parameters(models["pruned"])
    if algo == "sac":
        assert model.critic_target is model.policy.critic_target
        shapes = [[p.shape for p in critic.parameters()] for critic in (model.critic, model.critic_target)]
        assert shapes[0] == shapes[1]


def test_masks_hold_through_training_and_every_arm_learns(arms):
    algo, models = arms
    for model in models.values():
        before = [parameter.detach().clone() for parameter in model.policy.parameters()]
        gradient_steps(model, TINY.batch_size)(TINY.steps)
        assert all(not th.equal(a, b) for a, b in zip(before, model.policy.parameters()) if a.dim() > 1)
    for layer in linear_layers(models["masks"]):
        assert int((layer.weight == 0).sum()) == round(0.5 * layer.weight.numel())
    assert read_widths(models["masks"]) == read_widths(models["dense"])
    assert count_parameters(models["masks"]) == count_parameters(models["dense"])
    if algo == "sac":
        policy = models["masks"].policy
        for first, second in zip(policy.critic.modules(), policy.critic_target.modules()):
            if isinstance(first, nn.Linear):
                assert th.equal(first.weight_mask, second.weight_mask)


def test_torch_pruning_names_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_pruning", None)
    with pytest.raises(ImportError, match="extra 'benchmark'"):
        torch_pruning(build_agent("ppo", [4, 4], TINY, CPU), {"pi": [2, 2], "vf": [2, 2]})


def test_rows_of_training_hold_every_arm():
    pytest.importorskip("torch_pruning")
    said = []
    (row,) = parts.run(replace(TINY, part=("training",), agents=("sac",)), said.append)
    assert list(row["arms"]) == ["dense", "pruned", "masks", "torch_pruning", "native"]
    for arm in row["arms"].values():
        assert arm["gradient_step_ms"] > 0 and arm["steps_per_second"] > 0
    assert row["arms"]["dense"]["times_faster"] == row["arms"]["dense"]["learns_times_faster"] == 1.0
    # One round: a ratio of pairs is the ratio of the times.
    step = {name: arm["gradient_step_ms"] for name, arm in row["arms"].items()}
    assert row["pruned_to_native"] == pytest.approx(step["pruned"] / step["native"])
    assert row["arms"]["native"]["parameters"] == row["arms"]["pruned"]["parameters"] < row["arms"]["masks"]["parameters"]
    assert "torch_pruning" in said[-1]


@pytest.mark.parametrize("algo", all_in_long(ALGOS, ["ppo"]))
def test_other_ways_to_train_give_the_same_weights(algo):
    (row,) = parts.run(replace(TINY, part=("update",), agents=(algo,)), lambda text: None)
    assert set(row["arms"]) == {"stock", *VARIANTS[algo]}
    for name in VARIANTS[algo]:
        assert row["arms"][name]["equal"] and row["arms"][name]["times_faster"] > 0, name
    assert 0 < row["rounding"] < 1e-2


def test_a_way_that_cannot_be_taken_is_told(monkeypatch):
    def broken(model, backend):
        raise RuntimeError("no compiler")

    def otherwise(model, backend):
        for group in model.policy.optimizer.param_groups:
            group["betas"] = (0.5, 0.9)

    monkeypatch.setattr(update, "VARIANTS", {"ppo": {"broken": broken, "otherwise": otherwise}})
    (row,) = parts.run(replace(TINY, part=("update",), agents=("ppo",)), lambda text: None)
    assert row["arms"]["broken"] == {"error": "RuntimeError: no compiler"}
    assert not row["arms"]["otherwise"]["equal"]


def test_stacked_critics_compute_the_same():
    model = build_agent("sac", [5, 4], TINY, CPU)
    inputs = th.randn(7, 3), th.randn(7, 1)
    wanted = model.critic(*inputs)
    gradients = [th.autograd.grad(sum(v.square().sum() for v in wanted), list(model.critic.parameters()))]
    stacked(model)
    found = model.critic(*inputs)
    gradients.append(th.autograd.grad(sum(v.square().sum() for v in found), list(model.critic.parameters())))
    for first, second in [*zip(wanted, found), *zip(*gradients)]:
        th.testing.assert_close(first, second)


def test_memory_of_a_small_agent(monkeypatch):
    jobs = []

    def measured(algo, arch, budget, options):
        jobs.append((arch, budget))
        return {"peak_bytes": 1000 if arch == [8, 8] else 100, "fits": arch != [8, 8]}

    monkeypatch.setattr(memory, "in_process", measured)
    (row,) = parts.run(replace(TINY, part=("memory",), agents=("sac",)), lambda text: None)
    budget = round(100 * memory.MARGIN) + memory.ROOM
    assert row["budget_bytes"] == budget and row["widths"] == jobs[1][0]
    assert {given for _, given in jobs} <= {None, budget}
    for size in ("parameters_bytes", "optimizer_bytes", "targets_bytes"):
        assert row["arms"]["dense"][size] > row["arms"]["pruned"][size] > 0


@pytest.mark.long
def test_a_process_of_its_own_trains_and_runs_out_of_memory():
    wide = memory.in_process("ppo", [1024, 1024], None, TINY)
    assert wide["fits"] and wide["peak_bytes"] > 4 * 1024**2
    if memory.sys.platform == "linux":
        assert memory.in_process("ppo", [1024, 1024], 8 * 1024**2, TINY) == {"fits": False}


@pytest.mark.long
def test_acting_has_every_way_and_batch_size(monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("lab.performance.acting.BLOCKS_A_ROUND", 1)
    said = []
    (row,) = parts.run(replace(TINY, part=("acting",), agents=("ppo",)), said.append)
    assert {(way["agent"], way["batch_size"]) for way in row["ways"]} == {
        (agent, size) for agent in ("dense", "pruned") for size in (1, 256)
    }
    assert {"predict", "torch", "ONNX Runtime"} <= {way["way"] for way in row["ways"]}
    assert "× dense" in said[-1]
