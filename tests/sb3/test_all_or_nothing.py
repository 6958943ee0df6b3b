"""A failure at any point of a cut leaves the agent bit for bit as it was, and it trains on as if nothing had happened."""

import pytest

import rl_crop
from rl_crop.core.pruning.surgery import Transaction
from rl_crop.sb3 import rebuilding
from tests.zoo.agents import AGENTS, SCORING
from tests.zoo.callbacks import Watch
from tests.zoo.snapshots import agent_state, same, tensors, unmoved

NAMES = ["ppo_discrete", "ppo_sde", "sac_sde", "sac_three_critics", "dqn", "td3_own_shared", "dqn_images", "recurrent_mixed"]


class Injected(Exception):
    """Not an error that anything in the package raises or expects."""


def fail_at(monkeypatch, method, k):
    """The k-th call of a method of a transaction does its work and then fails."""
    calls, original = [], getattr(Transaction, method)

    def wrapped(self, *args):
        calls.append(method)
        original(self, *args)
        if len(calls) == k:
            raise Injected

    monkeypatch.setattr(Transaction, method, wrapped)
    return calls


@pytest.mark.parametrize(("method", "k"), [("set_data", 1), ("set_data", 9), ("set_item", 3), ("set_attribute", 5)])
@pytest.mark.parametrize("name", NAMES)
def test_a_failure_while_cutting(name, method, k, monkeypatch):
    model, twin = AGENTS[name]().learn(64), AGENTS[name]().learn(64)
    with monkeypatch.context() as patch, unmoved(model):
        calls = fail_at(patch, method, k)
        with pytest.raises(rl_crop.PruningError, match="Injected"):
            rl_crop.prune_policy(model, 0.6, **SCORING)
        assert len(calls) == k
    for agent in (model, twin):
        agent.set_random_seed(1)
        agent.learn(32, reset_num_timesteps=False)
    assert same(tensors(model), tensors(twin))


CASES = [
    (name, keywords)
    for name in ("ppo_sde", "sac_sde")
    for keywords in ({"schedule": "iterative"}, {"compensation": "distill"})
]
CASES += [(name, {"compensation": "least_squares"}) for name in ("dqn", "td3", "recurrent", "ppo_images_separate", "sac_own")]
CASES += [("ars", {"criterion": "span"}), ("crossq_sde", {"schedule": "iterative"})]


@pytest.mark.parametrize(("name", "keywords"), CASES, ids=str)
def test_a_failure_at_the_very_end(name, keywords, monkeypatch):
    model = AGENTS[name]().learn(64)
    monkeypatch.setattr("rl_crop.core.pruning.distillation.STEPS", 10)
    calls, original = [], rebuilding.rewrite_sizes
    last = 4 if "schedule" in keywords else 1

    def rewrite_and_fail(*args):
        original(*args)
        calls.append(args)
        if len(calls) == last:
            raise Injected

    monkeypatch.setattr(rebuilding, "rewrite_sizes", rewrite_and_fail)
    with unmoved(model), pytest.raises(rl_crop.PruningError, match="Injected"):
        rl_crop.prune_policy(model, 0.7, **keywords, **SCORING)
    assert len(calls) == last


@pytest.mark.parametrize("name", ["ppo_sde", "sac_sde"])
def test_a_failure_in_the_callback_is_tried_again(name, monkeypatch):
    states, armed = [], []

    def look(model):
        if not armed:  # the cut that is tried at the start of training has been undone
            armed.append(fail_at(monkeypatch, "set_data", 5))
        states.append((model.num_timesteps, len(armed[0]), agent_state(model)))

    callback = rl_crop.PruningCallback(0.6, when=64, latest=400, verbose=0, **SCORING)
    with pytest.warns(UserWarning, match="No pruning at .* steps: .*Injected"):
        model = AGENTS[name]().learn(384, callback=[Watch(look), callback, Watch(look)])
    [event] = model.pruning_history
    attempts = [(before, after) for before, after in zip(states[::2], states[1::2], strict=True) if before[1] < after[1]]
    [((failed, *_, before), (_, n_calls, after)), ((again, *_), _)] = attempts
    assert same(before, after) and n_calls == 5 and failed < again == event["timesteps"]


def test_a_size_written_into_forward_leaves_its_layer_whole():
    model = AGENTS["ppo_discrete"]().learn(64)
    forward = model.policy.mlp_extractor.forward_critic
    model.policy.mlp_extractor.forward_critic = lambda features: forward(features).reshape(-1, 16)
    last = model.policy.mlp_extractor.value_net[2]
    report = rl_crop.prune_policy(model, {"critic": 0.6}, **SCORING)
    assert "width" in report.untouched["mlp_extractor.value_net.2"] and last.out_features == 16 > last.in_features
    model.learn(64)
