"""Every cell of the support matrix: pruned, trained on, saved, loaded, resumed and pruned again, here and elsewhere."""

import json
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch as th
from sb3_contrib import ARS
from stable_baselines3.common.vec_env import VecNormalize

import rl_crop
from tests.zoo.agents import AGENTS, TYPICAL, VECTORS
from tests.zoo.long import all_in_long, and_long
from tests.zoo.snapshots import all_but_the_environment, consistent, everything, same, targets, tensors, unmoved
from tests.zoo.worlds import ENVS

ROOT = Path(__file__).parents[2]
SPARSITY = 0.9
SCORING = {"n_batches": 2, "batch_size": 32, "min_units": 2}
"""Two units in every layer: a single one of ReLU can be dead, and then nothing before it learns."""

EVERY_TIME = (
    *TYPICAL, "ppo_dict", "ppo_own", "recurrent_mixed", "dqn_images", "sac_mixed", "td3_own_shared", "crossq_normed", "ars",
)  # fmt: skip
"""One of every algorithm, of every kind of extractor and of observations; the long run has the whole matrix."""
CELLS = all_in_long(AGENTS, EVERY_TIME)
BY_CALLBACK = (
    "ppo_normalized", "ppo_images_separate", "a2c", "trpo", "maskable", "recurrent", "dqn", "qrdqn", "sac_sde",
    "sac_images_shared", "td3", "ddpg", "tqc", "crossq", "ars",
)  # fmt: skip
"""One of every algorithm, which a callback prunes and other processes load."""

SATURATED = (
    "a2c_images", "ddpg_images", "ddpg_mixed", "maskable_images", "maskable_mixed", "ppo_images_separate", "ppo_mixed",
    "recurrent_images", "trpo_mixed",
)  # fmt: skip
"""Least squares on 64 pictures of noise can saturate what follows, so that gradients are exactly zero."""


def options(name):
    """Gradient flow where there is a gradient, in every third cell with redundancy."""
    criterion = "span" if name.startswith("ars") else "span_crop" if list(AGENTS).index(name) % 3 == 0 else "crop"
    return SCORING | {"criterion": criterion, "compensation": "bias" if name in SATURATED else "least_squares"}


def trained(name, callback=None, steps=96):
    """An agent with data, optimizer state and targets of its own."""
    return AGENTS[name]().learn(steps, callback=callback)


def standing_still(model, before):
    """Names of tensors that further training has not moved; the counter of a target's BatchNorm never moves."""
    after = tensors(model)
    assert [tensor.shape for tensor in after.values()] == [tensor.shape for tensor in before.values()]
    still = [name for name, tensor in after.items() if tensor.numel() and th.equal(tensor, before[name])]
    return [name for name in still if not name.endswith("num_batches_tracked")]


def assert_trains(model):
    before = tensors(model)
    model.learn(64, reset_num_timesteps=False)
    assert standing_still(model, before) == []


@pytest.mark.parametrize("name", CELLS)
def test_prune_policy(name):
    model = trained(name)
    model.policy.set_training_mode(True)
    collected = isinstance(model, ARS)  # it keeps no data
    with unmoved(model, all_but_the_environment if collected else everything):
        plan = rl_crop.plan_policy_pruning(model, SPARSITY, **options(name))
    ids = [id(parameter) for parameter in model.policy.parameters()]
    report = plan.apply()
    shares = {network: share for network, share in report.sparsity.items() if network != "total"}
    assert shares and min(shares.values()) >= SPARSITY  # of each network; heads of one without hidden layers are in the total
    assert [id(parameter) for parameter in model.policy.parameters()] == ids
    consistent(model)
    assert_trains(model)
    loaded = consistent(model)
    assert_trains(loaded)
    for network, target in targets(loaded.policy):
        target.load_state_dict(network.state_dict())
    rl_crop.prune_policy(loaded, 0.3, **options(name) | {"min_units": 1})
    assert len(loaded.pruning_history) == 2
    for network, target in targets(loaded.policy):  # cut at the same units, and compensated alike
        assert same(target.state_dict(), network.state_dict())
    loaded.learn(64, reset_num_timesteps=False)
    consistent(loaded)


@cache
def by_callback(name):
    callback = rl_crop.PruningCallback(SPARSITY, when=64, verbose=0, **options(name))
    return trained(name, callback, steps=128)


@pytest.mark.parametrize("name", all_in_long(AGENTS, BY_CALLBACK))
def test_the_callback(name):
    model = by_callback(name)
    [event] = model.pruning_history
    assert event["source"] == "PruningCallback" and min(event["reached"].values()) >= SPARSITY
    consistent(model)
    assert_trains(model)


ELSEWHERE = """
import json, pathlib, sys
stock = sys.argv[1] == "stock"
if stock:
    sys.modules["rl_crop"] = None
import cloudpickle, numpy as np, torch as th

try:
    import rl_crop
    assert not stock
except ImportError:
    assert stock
th.set_num_threads(1)
found = {}
for path in sorted(pathlib.Path(sys.argv[2]).glob("*.pkl")):
    algorithm, env, observations, actions = cloudpickle.loads(path.read_bytes())
    env = env()
    model = algorithm.load(path.with_suffix(".zip"), env=env, device="cpu")
    same = all(np.array_equal(model.predict(x, deterministic=True)[0], action) for x, action in zip(observations, actions))
    before, history = {k: v.clone() for k, v in model.policy.state_dict().items()}, model.pruning_history
    model.learn(64 * model.n_envs, reset_num_timesteps=False)
    after = model.policy.state_dict()
    still = [k for k, v in after.items() if v.numel() and th.equal(v, before[k]) and not k.endswith("num_batches_tracked")]
    model.save(path.with_suffix(".zip"))
    found[path.stem] = [same, still, history == model.pruning_history]
print(json.dumps(found))
"""


def environment(name):
    """A function that gives this agent's environment in another process, which does not know the table of agents."""
    if name == "ppo_frames":  # which cannot be pickled
        return ENVS["frames"]
    env = AGENTS[name]().get_env()
    env = env.venv if isinstance(env, VecNormalize) else env
    return lambda: env


def write(name, directory):
    model = by_callback(name)
    model.save(directory / f"{name}.zip")
    observations = [model.observation_space.sample() for _ in range(5)]
    actions = [model.predict(observation, deterministic=True)[0] for observation in observations]
    env = environment(name) if name in VECTORS else cloudpickle.loads(cloudpickle.dumps(_from_table(name)))
    (directory / f"{name}.pkl").write_bytes(cloudpickle.dumps((type(model), env, observations, actions)))


def _from_table(name):
    def env():
        from tests.zoo.agents import AGENTS

        return AGENTS[name]().get_env()

    return env


@pytest.mark.parametrize("table", and_long(["every time"], ["whole"]))
@pytest.mark.parametrize("where", ["stock", "with rl_crop"])
def test_in_another_process(where, table, tmp_path):
    table = AGENTS if table == "whole" else BY_CALLBACK
    names = [name for name in table if (name in VECTORS) == (where == "stock")]
    for name in names:
        write(name, tmp_path)
    result = subprocess.run([sys.executable, "-c", ELSEWHERE, where, tmp_path], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found == {name: [True, [], True] for name in names}
    for name in names:  # trained on there, and saved again
        consistent(type(by_callback(name)).load(tmp_path / f"{name}.zip", env=by_callback(name).get_env()))


WIDE = {"net_arch": [256, 256]}
WIDE_AGENTS = dict.fromkeys(
    ("ppo_box", "a2c", "trpo", "maskable", "recurrent", "dqn", "qrdqn", "sac", "td3", "ddpg", "tqc", "crossq", "ars"), WIDE
) | dict.fromkeys(("ppo_images", "dqn_images", "sac_images_shared"), {"policy_kwargs": {}})


@pytest.mark.parametrize("name", all_in_long(WIDE_AGENTS, EVERY_TIME))
def test_the_zip_is_smaller_in_proportion(name, tmp_path):
    model = AGENTS[name](**WIDE_AGENTS[name]).learn(64)
    measured = []
    for path in (tmp_path / "dense.zip", tmp_path / "pruned.zip"):
        if measured:
            rl_crop.prune_policy(model, SPARSITY, criterion="magnitude", compensation="none")
        model.save(path)
        count = sum(tensor.numel() for tensor in model.policy.state_dict().values())
        parts = [info for info in zipfile.ZipFile(path).infolist() if info.filename.endswith(".pth")]
        optimizers = sum(info.file_size for info in parts if "optimizer" in info.filename)
        [policy] = [info.file_size for info in parts if info.filename == "policy.pth"]
        measured.append(np.array([count, policy, optimizers]))
    share = measured[1] / np.maximum(measured[0], 1)
    assert share[0] < 0.2
    assert share[1] < 2 * share[0] and share[2] < 2 * share[0]
