"""Masks of agents: every algorithm, exact counts, through training, targets, saving, resuming and other processes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th

import rl_crop
from rl_crop.core.graph.groups import named_tensors
from rl_crop.core.masking.distributions import n_kept
from rl_crop.core.masking.masks import attached_masks, pack, unpack
from rl_crop.core.pruning.surgery import Transaction
from rl_crop.sb3.masks import drop_masks, restore_masks
from rl_crop.sb3.subject import algorithm_optimizers
from tests.zoo.agents import AGENTS, SCORING
from tests.zoo.callbacks import Watch
from tests.zoo.long import and_long
from tests.zoo.snapshots import consistent, same, targets, tensors, unmoved

ROOT = Path(__file__).parents[2]
MASKS = {"structured": False, **SCORING}
NAMES = (
    "ppo_discrete", "ppo_sde", "ppo_linear_actor", "ppo_images_separate", "a2c", "trpo", "maskable", "recurrent", "dqn",
    "qrdqn", "sac", "sac_sde", "sac_three_critics", "sac_images_shared", "sac_momentum", "td3", "ddpg", "tqc", "crossq", "ars",
)  # fmt: skip


def held(model):
    return attached_masks(named_tensors(model.policy))


def criterion(name):
    return "magnitude" if name == "ars" else "crop"


def assert_held(model, masks):
    """Weights, moments and targets are zero where they are masked, and not everywhere."""
    state = named_tensors(model.policy)
    for name, mask in masks.items():
        moments = [
            value
            for optimizer in algorithm_optimizers(model)
            for value in optimizer.state.get(state[name], {}).values()
            if isinstance(value, th.Tensor) and value.shape == mask.shape
        ]
        for tensor in (state[name], *moments):
            assert not tensor[~mask].any(), name
        assert state[name][mask].any() or not mask.any(), name


@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm(name, tmp_path):
    share = 0.6 if name == "ppo_linear_actor" else 0.7  # of three weights one stays
    callback = rl_crop.PruningCallback(share, criterion(name), when=64, verbose=0, **MASKS)
    model = AGENTS[name]().learn(160, callback=callback)
    masks = {key: mask.clone() for key, mask in held(model).items()}
    [event] = model.pruning_history
    assert event["structured"] is False and same(unpack(event["masks"]), masks)
    parameters = dict(model.policy.named_parameters())
    assert all(share <= reached < share + 0.07 for reached in event["reached"].values())
    elements, kept = np.array(list(event["widths"].values())).sum(0)
    assert event["sparsity"]["total"] == pytest.approx(1 - kept / elements, rel=1e-12)
    assert all(int(masks[key].sum()) == n for key, (_, n) in event["widths"].items())
    if name == "ars":  # between two updates masks hold when the policy is called, or saved
        model.policy.state_dict()
    assert all(parameters[key].dim() > 1 for key in event["widths"])
    assert_held(model, masks)
    for network, target in targets(model.policy):  # masked along
        for one, other in zip(network.parameters(), target.parameters(), strict=True):
            assert same(*(attached_masks({"": tensor}).get("") for tensor in (one, other)))
    loaded = consistent(model)
    assert held(loaded) == {} and loaded.pruning_history == model.pruning_history
    assert restore_masks(loaded) and not restore_masks(loaded)
    assert same(held(loaded), masks)
    before = tensors(loaded)
    loaded.learn(96, reset_num_timesteps=False)
    assert_held(consistent(loaded), masks)  # what is saved, too
    assert_held(loaded, masks)
    assert not same(before, tensors(loaded))


@pytest.mark.parametrize("name", ["ppo_discrete", "sac", "td3"])
def test_exactly_as_many_a_network_as_asked(name):
    model = AGENTS[name]().learn(64)
    plan = rl_crop.plan_policy_pruning(model, {"actor": 0.9, "critic": 0.5}, **MASKS)
    assert held(model) == {}
    report = plan.apply()
    for network, asked in {"actor": 0.9, "critic": 0.5}.items():
        own = [key for net in plan.subject.networks if net.name == network for key in plan.keep if key in net.parameters]
        total = sum(plan.keep[key].size for key in own)
        assert sum(int(plan.keep[key].sum()) for key in own) == n_kept(total, asked)
        assert report.sparsity[network] == pytest.approx(1 - n_kept(total, asked) / total, rel=1e-12)
    [event] = model.pruning_history
    assert event["source"] == "plan_policy_pruning" and json.loads(json.dumps(model.pruning_history)) == model.pruning_history
    assert_held(model, held(model))


def test_heads_are_masked_and_biases_and_log_std_are_not():
    model = AGENTS["ppo_box"]().learn(64)
    before = tensors(model)
    report = rl_crop.prune_policy(model, 0.8, **MASKS)
    assert {"action_net.weight", "value_net.weight"} <= report.widths.keys()
    assert all(key.endswith("weight") for key in report.widths)
    after = tensors(model)
    assert all(same(after[key], before[key]) for key in before if key not in report.widths)


@pytest.mark.parametrize("schedule", ["iterative", "gradual"])
@pytest.mark.parametrize("name", ["ppo_discrete", "sac"])
def test_schedules_end_exactly_and_bring_nothing_back(name, schedule):
    masks = []

    def look(model):
        now = held(model)
        if now and (not masks or not same(now, masks[-1])):
            masks.append({key: mask.clone() for key, mask in now.items()})

    events = {"n_events": 3, "until": 256} if schedule == "gradual" else {}
    callback = rl_crop.PruningCallback(0.9, when=64, schedule=schedule, verbose=0, **events, **MASKS)
    model = AGENTS[name]().learn(384, callback=[callback, Watch(step=look)])
    history = model.pruning_history
    assert len(history) == len(masks) == (3 if schedule == "gradual" else 1)
    assert [("masks" in event) for event in history] == [False] * (len(history) - 1) + [True]
    for earlier, later in zip(masks, masks[1:], strict=False):
        assert all(not later[key][~mask].any() for key, mask in earlier.items())
    assert history[-1]["reached"]["critic"] == pytest.approx(0.9, abs=0.01) and history[-1]["reached"]["critic"] >= 0.9
    if schedule == "gradual":
        shares = [event["reached"]["critic"] for event in history]
        assert shares == pytest.approx([1 - 0.1 ** (n / 3) for n in (1, 2, 3)], abs=0.01)
    assert_held(model, masks[-1])


@pytest.mark.parametrize("when", ["lazy", "epi"])
def test_triggers_watch_weights(when):
    callback = rl_crop.PruningCallback(0.7, when=when, latest=128, verbose=0, **MASKS)
    model = AGENTS["ppo_discrete"]().learn(192, callback=callback)
    assert len(model.pruning_history) == 1 and held(model)


def test_two_callbacks_one_a_network():
    callbacks = [
        rl_crop.PruningCallback({"actor": 0.6}, when=64, verbose=0, **MASKS),
        rl_crop.PruningCallback({"critic": 0.8}, when=128, verbose=0, **MASKS),
    ]
    model = AGENTS["sac"]().learn(192, callback=callbacks)
    first, second = model.pruning_history
    assert first["sparsity"]["critic"] == 0 and first["sparsity"]["actor"] == second["sparsity"]["actor"] >= 0.6
    assert second["sparsity"]["critic"] >= 0.8 and same(unpack(second["masks"]), held(model))


RESUMED = """
import json, sys
import torch as th
import rl_crop
from rl_crop.core.masking.masks import attached_masks, pack
from rl_crop.core.graph.groups import named_tensors
from tests.zoo.agents import AGENTS
th.set_num_threads(1)
name, path, masks = sys.argv[1:]
env = AGENTS[name]().get_env()
model = type(AGENTS[name]()).load(path, env=env)
before = len(model.pruning_history)
model.learn(96, reset_num_timesteps=False, callback=rl_crop.PruningCallback(0.7, when=64, verbose=0, **json.loads(masks)))
zeros = {key: int((value == 0).sum()) for key, value in named_tensors(model.policy).items()}
print(json.dumps([pack(attached_masks(named_tensors(model.policy))), zeros, len(model.pruning_history) - before]))
"""


@pytest.mark.parametrize("name", and_long(["ppo_discrete"], ["sac"]))
def test_a_run_resumed_in_another_process_has_the_same_masks(name, tmp_path):
    model = AGENTS[name]().learn(128, callback=rl_crop.PruningCallback(0.7, when=64, verbose=0, **MASKS))
    model.save(tmp_path / "agent.zip")
    command = [sys.executable, "-c", RESUMED, name, str(tmp_path / "agent.zip"), json.dumps(MASKS)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    packed, zeros, more = json.loads(result.stdout.splitlines()[-1])
    assert packed == pack(held(model)) and more == 0
    assert all(zeros[key] >= int((~mask).sum()) > 0 for key, mask in held(model).items())


STOCK = """
import json, pathlib, sys
sys.modules["rl_crop"] = None
import stable_baselines3 as sb3
import torch as th
th.set_num_threads(1)
found = {}
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.zip")):
    model = getattr(sb3, path.stem.split("_")[0].upper()).load(path, device="cpu")
    found[path.stem] = {key: int((value == 0).sum()) for key, value in model.policy.state_dict().items()}
print(json.dumps(found))
"""


@pytest.mark.long
def test_stock_stable_baselines3_loads_masked_agents_and_their_convolutions(tmp_path):
    expected = {}
    for name in ("ppo_discrete", "sac_sde", "td3", "ppo_images_separate"):
        model = AGENTS[name]().learn(96)
        kwargs = model.policy_kwargs
        rl_crop.prune_policy(model, 0.8, **MASKS)
        assert model.policy_kwargs == kwargs | {"net_arch": model.policy.net_arch}  # no extractor of ours
        model.save(tmp_path / f"{name}.zip")
        expected[name] = {key: int((value == 0).sum()) for key, value in tensors(model).items()}
    result = subprocess.run([sys.executable, "-c", STOCK, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == expected


@pytest.mark.parametrize(("method", "k"), [("set_data", 1), ("set_data", 4), ("set_item", 3), ("call", 2)])
@pytest.mark.parametrize("name", ["ppo_sde", "sac", "ars"])
def test_a_failure_leaves_everything_as_it_was(name, method, k, monkeypatch):
    if name == "ars" and method == "set_item":
        pytest.skip("it has no optimizer")
    model, calls, original = AGENTS[name]().learn(96), [], getattr(Transaction, method)

    def failing(self, *args):
        calls.append(method)
        original(self, *args)
        if len(calls) == k:
            raise RuntimeError("injected")

    with monkeypatch.context() as patch, unmoved(model):
        patch.setattr(Transaction, method, failing)
        with pytest.raises(rl_crop.PruningError, match="injected"):
            rl_crop.prune_policy(model, 0.6, criterion=criterion(name), **MASKS)
    assert held(model) == {}
    rl_crop.prune_policy(model, 0.6, criterion=criterion(name), **MASKS)


def test_units_are_not_cut_out_of_a_masked_agent_until_it_lets_go():
    model = AGENTS["sac"]().learn(96)
    rl_crop.prune_policy(model, 0.6, **MASKS)
    with unmoved(model), pytest.raises(rl_crop.PruningError, match="drop_masks"):
        rl_crop.prune_policy(model, 0.5, **SCORING)
    drop_masks(model)
    assert held(model) == {} and not restore_masks(model)
    rl_crop.prune_policy(model, 0.5, **SCORING)
    consistent(model)


def test_a_bare_policy_in_a_loop_of_ones_own():
    model = AGENTS["ppo_discrete"]().learn(64)
    policy, batches = model.policy, list(model.rollout_buffer.get(32))
    report = rl_crop.prune_policy(policy, 0.8, batches=batches, structured=False, schedule="iterative")
    masks = attached_masks(named_tensors(policy))
    for _ in range(3):
        policy.optimizer.zero_grad()
        policy.predict_values(batches[0].observations).mean().backward()
        policy.optimizer.step()
    assert report.sparsity["total"] == pytest.approx(0.8, abs=0.01) and report.sparsity["total"] >= 0.8
    assert all(not policy.get_parameter(key)[~mask].any() for key, mask in masks.items())


def test_masks_of_zips_that_do_not_fit_are_refused():
    model = AGENTS["ppo_discrete"]().learn(64)
    rl_crop.prune_policy(model, 0.6, **MASKS)
    loaded = consistent(model)
    loaded.pruning_history[-1]["masks"]["action_net.weight"] = pack({"": th.ones(3, 3, dtype=th.bool)})[""]
    with pytest.raises(rl_crop.PruningError, match="mask of 'action_net.weight' must be"):
        restore_masks(loaded)


def test_the_log_and_the_printed_report_count_weights(capsys):
    from stable_baselines3.common.logger import Logger

    model, seen = AGENTS["ppo_discrete"](), {}
    model.set_logger(Logger(None, []))
    record = model.logger.record
    model.logger.record = lambda key, value, **rest: (seen.update({key: value}), record(key, value, **rest))
    model.learn(128, callback=rl_crop.PruningCallback(0.7, when=64, **MASKS))
    [event] = model.pruning_history
    assert seen["pruning/weights/action_net.weight"] == event["widths"]["action_net.weight"][1]
    assert seen["pruning/sparsity"] == event["sparsity"]["total"]
    assert "parameter" in (printed := capsys.readouterr().out) and "make nothing faster" in printed


def test_an_agent_without_an_optimizer_is_exported_as_it_acts(tmp_path):
    model = AGENTS["ars"]().learn(64)
    rl_crop.prune_policy(model, 0.7, criterion="magnitude", **MASKS)
    model.learn(64, reset_num_timesteps=False)
    assert rl_crop.export_actor(model, tmp_path / "actor.onnx").path.exists()  # compared with predict
