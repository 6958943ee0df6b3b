"""What training takes: bytes against tensors counted by hand, phases of a run, and runs under a limit."""

import json
import sys

import pytest
import torch as th
from torch import nn

from lab.performance.wide_arms import arm_job, in_process, table, telling_limit, with_width
from lab.performance.wide_networks import Meter, configured, held_bytes, train_agent, train_network
from rl_crop.core.errors import PruningError

CUT = {"sparsity": 0.8, "criterion": "random", "when": 0.0, "n_batches": 1}
NETWORK = {
    "data": {"name": "friedman", "n": 200}, "network": {"name": "mlp", "widths": [12, 8]}, "n_epochs": 2, "batch_size": 20,
}  # fmt: skip
AGENT = {
    "env": "Pendulum-v1", "algo": "sac", "n_timesteps": 120, "learning_starts": 60, "batch_size": 16, "buffer_size": 200,
    "policy_kwargs": {"net_arch": [12, 8]}, "evaluation": {"final_episodes": 1},
}  # fmt: skip


def n_mlp(n_inputs, widths, n_outputs=1):
    sizes = [n_inputs, *widths, n_outputs]
    return sum((before + 1) * after for before, after in zip(sizes, sizes[1:], strict=False))


@pytest.mark.parametrize("optimizer, moments", [(th.optim.Adam, 2), (th.optim.SGD, 0)])
def test_held_bytes_are_those_of_the_tensors(optimizer, moments):
    network = nn.Linear(3, 5)  # 20 parameters
    optimizer = optimizer(network.parameters(), lr=0.1)
    assert held_bytes(network.parameters(), [optimizer]) == {"parameters": 80, "gradients": 0, "optimizer": 0}
    network(th.ones(1, 3)).sum().backward()
    optimizer.step()
    counters = 2 * 4 if moments else 0  # the number of steps, for weight and bias
    found = held_bytes([*network.parameters(), *network.parameters()], [optimizer])  # shared ones count once
    assert found == {"parameters": 80, "gradients": 80, "optimizer": 80 * moments + counters}


def test_a_network_in_phases():
    meter = Meter()
    found = train_network(configured(NETWORK, pruning={**CUT, "when": 0.5}), 0, meter)
    assert found["cut_at"] == 6 and found["n_steps"] == 12
    assert list(meter.peaks) == list(meter.seconds) == ["build", "before", "event", "after"]
    widths = list(found["widths"].values())[:-1]
    n_params = n_mlp(10, widths)
    assert found["n_params"] == n_params < 0.3 * n_mlp(10, [12, 8])
    counters = 6 * 4  # of three weights and three biases
    assert found["held"] == {"parameters": 4 * n_params, "gradients": 4 * n_params, "optimizer": 8 * n_params + counters}


def test_a_network_cut_at_once_has_not_trained_before_and_a_dense_one_has_no_event():
    meters = Meter(), Meter()
    at_once = train_network(configured(NETWORK, pruning=CUT), 0, meters[0])
    dense = train_network(configured(NETWORK), 0, meters[1])
    assert at_once["cut_at"] == 0 and dense["cut_at"] is None
    assert dense["n_params"] == n_mlp(10, [12, 8]) and list(meters[1].peaks) == ["build", "after"]


def test_an_agent_in_phases():
    meter = Meter()
    found = train_agent(configured(AGENT, pruning={**CUT, "batch_size": 16}), 0, meter)
    assert found["cut_at"] == 60 and list(meter.peaks) == ["build", "before", "event", "after"]
    pi, qf = found["widths"]["pi"], found["widths"]["qf"]
    actor, critic = n_mlp(3, pi, 2), 2 * n_mlp(4, qf)
    assert found["n_params"] == actor + 2 * critic  # critics and their targets
    assert found["held"]["parameters"] == 4 * found["n_params"] and found["held"]["gradients"] == 4 * (actor + critic)
    counters = (8 + 12 + 1) * 4 + 2 * 4  # steps of every tensor and of the entropy coefficient, which has moments too
    assert found["held"]["optimizer"] == 8 * (actor + critic) + counters


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a peak cannot begin anew")
def test_a_phase_has_its_own_peak():
    meter = Meter()
    large = th.ones(64 * 2**20 // 4)  # so large that it is never served from memory freed before
    meter.lap("large")
    del large
    meter.lap("nothing")
    meter.lap("later")
    assert meter.peaks["large"] >= 60 * 2**20 > 2 * meter.peaks["later"]


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_under_a_limit_the_wide_network_fails_and_the_pruned_one_is_done():
    # 2048 squared weights are 16.8 MB: dense training holds six copies at once, a cut at random about three.
    wide = {**with_width(NETWORK, 2048), "n_epochs": 1}
    dense, pruned = (in_process(arm_job(wide, arm, {}, 0, 76_000_000)) for arm in ({}, {"pruning": CUT}))
    assert not dense["fits"] and dense["failed_after"] == ["build"] and "memory" in dense["error"]
    assert pruned["fits"] and pruned["cut_at"] == 0
    assert pruned["peaks"]["build"] > 4 * n_mlp(10, [2048, 2048]) * 0.9


@pytest.mark.long
def test_a_mistake_is_not_taken_for_want_of_memory():
    with pytest.raises(PruningError, match="no class of torch.nn"):
        in_process(arm_job({**NETWORK, "network": {"name": "mlp", "activation": "Relu"}}, {}, {}, 0, 10**10))


def test_jobs_of_arms():
    results = {"cut": {"fits": True, "widths": {"1": 5, "3": 4, "5": 1}}}
    assert arm_job(NETWORK, {"like": "cut"}, results, 3, None) == {
        "config": {**NETWORK, "pruning": None}, "widths": [5, 4], "seed": 3, "limit": None,
    }  # fmt: skip
    small = configured(NETWORK, [5, 4])
    assert with_width(AGENT, 7)["policy_kwargs"] == {"net_arch": [7, 7]}
    assert small.network == {"name": "mlp", "widths": [5, 4]} and small.pruning is None
    agent = configured(AGENT, {"pi": [3, 2], "qf": [5, 4]})
    assert agent.policy_kwargs["net_arch"] == {"pi": [3, 2], "qf": [5, 4]}
    with pytest.raises(PruningError, match="has not run before"):
        arm_job(NETWORK, {"like": "other"}, results, 0, None)
    json.dumps(arm_job(NETWORK, {"pruning": CUT}, results, 0, 1))


def made(peak, cut_at=None):
    held = {"parameters": 1_000_000, "gradients": 1_000_000, "optimizer": 2_000_000}
    facts = {"peaks": {"build": 1, "after": peak}, "cpu_seconds": {"before": 1.0, "after": 2.0}, "held": held, "fits": True}
    return {**facts, "metric": 0.5, "n_params": 1234, "cut_at": cut_at}


def test_the_limit_is_between_dense_training_and_the_pruned_arm_next_below_it():
    free = {"dense": made(1000), "a": made(400, 0), "b": made(600, 0), "early": made(2000, 7), "small": made(900)}
    assert telling_limit(free) == 800
    assert telling_limit({"dense": made(1000), "early": made(2000, 7)}) is None
    assert telling_limit({"a": made(400, 0)}) is None


def test_the_table():
    results = {
        "free": {"dense": made(5_000_000), "a": made(3_000_000, 0)},
        "limited": {"dense": {"fits": False}},
        "limit": None,
    }
    lines = table(results | {"limit": 4_000_000}).splitlines()
    assert lines[0].endswith("| within 4 MB |") and lines[0].count("|") == lines[1].count("|") == lines[2].count("|")
    assert lines[2].startswith("| dense | 5.0 | – | 5.0 | 4.0 | – | 3.0 | 0.500 | 1,234 |") and lines[2].endswith(
        "out of memory |"
    )
    assert lines[3].endswith("– |")
