"""RecurrentPPO: hidden units are pruned, states that are kept anywhere follow, actor and critic end with one width."""

import numpy as np
import pytest
import torch as th

import rl_crop
from rl_crop.core.errors import PruningError
from tests.zoo.agents import AGENTS
from tests.zoo.snapshots import consistent

SCORING = {"n_batches": 2, "batch_size": 32, "criterion": "magnitude"}
KINDS = ("recurrent", "recurrent_shared", "recurrent_without_critic")


def hold_at_zero(policy, plan):
    """Everything of the units that go, in a dense policy."""
    parameters = dict(policy.named_parameters())
    for name, group in plan.graph.groups.items():
        removed = np.setdiff1d(np.arange(group.n_units), plan.kept_units.get(name, np.arange(group.n_units)))
        for slot in group.slots:
            if slot.tensor in parameters:
                parameters[slot.tensor].data.index_fill_(slot.axis, th.as_tensor(slot.index[removed].ravel()), 0.0)


def run(policy, states, observations):
    """Actions and values of the steps of an episode that goes on."""
    found = []
    for observation in observations:
        starts = th.zeros(len(observation))
        with th.no_grad():
            actions, values, _, states = policy(observation, states, starts, deterministic=True)
        found += [actions, values]
    return found


@pytest.mark.parametrize("name", KINDS)
def test_a_cut_agent_goes_on_as_its_masked_twin(name):
    model = AGENTS[name]().learn(96)
    plan = rl_crop.plan_policy_pruning(model, 0.5, compensation="none", **SCORING)
    dense, states = AGENTS[name]().policy, model._last_lstm_states
    dense.load_state_dict(model.policy.state_dict())
    hold_at_zero(dense, plan)
    plan.apply()
    hidden = plan.widths_after["lstm_actor"]
    assert model.policy.lstm_actor.hidden_size == hidden < 8 and states.pi[0].abs().sum() > 0
    assert model.policy_kwargs["lstm_hidden_size"] == model.policy.lstm_output_dim == hidden
    observations = th.randn(4, model.n_envs, *model.observation_space.shape)
    dense.set_training_mode(False), model.policy.set_training_mode(False)
    ours, theirs = run(model.policy, model._last_lstm_states, observations), run(dense, states, observations)
    assert all(th.allclose(one.double(), other.double(), atol=1e-5) for one, other in zip(ours, theirs, strict=True))
    buffer = model.rollout_buffer
    assert buffer.hidden_state_shape[-1] == buffer.cell_states_vf.shape[-1] == buffer.hidden_states_pi.shape[-1] == hidden
    consistent(model)


@pytest.mark.parametrize("shares", [{"actor": 0.7, "critic": 0.5}, {"actor": 0.3, "critic": 0.45}])
@pytest.mark.parametrize("scope", ["network", "layer", "isomorphic"])
def test_actor_and_critic_end_with_one_width(shares, scope):
    model = AGENTS["recurrent"]()
    report = rl_crop.prune_policy(model, shares, scope=scope, compensation="none", **SCORING)
    assert all(report.sparsity[name] >= share for name, share in shares.items())
    assert report.widths["lstm_actor"] == report.widths["lstm_critic"] == (8, model.policy.lstm_actor.hidden_size)
    consistent(model)


def test_shares_that_no_one_width_meets_are_refused():
    model = AGENTS["recurrent"]()
    with pytest.raises(PruningError, match="must end with one width .sb3-contrib has one lstm_hidden_size"):
        rl_crop.plan_policy_pruning(model, {"actor": 0.95, "critic": 0.05}, **SCORING)
    with pytest.raises(PruningError, match="none meets 0.9 of actor: .* stay whole; give alike shares by sparsity= for both"):
        rl_crop.plan_policy_pruning(model, 0.9, networks="actor", **SCORING)


@pytest.mark.parametrize("name", ["actor", "critic"])
def test_where_one_network_stays_whole_the_lstm_of_the_other_does_too(name):
    model = AGENTS["recurrent"]()
    report = rl_crop.prune_policy(model, 0.3, networks=name, **SCORING)
    assert report.sparsity[name] >= 0.3 and model.policy.lstm_actor.hidden_size == model.policy.lstm_critic.hidden_size == 8
    assert rl_crop.prune_policy(AGENTS["recurrent"](), 0.3, ignore=["lstm_critic"], **SCORING).untouched.keys() >= {
        "lstm_actor",
        "lstm_critic",
    }


def test_a_common_budget_and_a_size_of_its_own():
    for arguments in (
        {"max_params": 600},
        {"sparsity": 0.6, "scope": "global"},
        {"sparsity": "auto", "tolerance": 0.5, "scope": "layer"},
    ):
        model = AGENTS["recurrent"]()
        plan = rl_crop.plan_policy_pruning(model, **arguments, **SCORING)
        assert plan.widths_after["lstm_actor"] == plan.widths_after["lstm_critic"] < 8
        plan.apply()
        consistent(model)


def test_steps_within_an_event_and_events_while_it_trains():
    model = AGENTS["recurrent"]().learn(64)
    rl_crop.prune_policy(model, 0.6, schedule="iterative", **SCORING)
    assert model.policy.lstm_actor.hidden_size == model.policy.lstm_critic.hidden_size < 8
    options = SCORING | {"n_batches": 4}
    callback = rl_crop.PruningCallback(0.6, schedule="gradual", n_events=2, when=64, verbose=0, **options)
    model = AGENTS["recurrent"]().learn(320, callback=callback)
    widths = [event["widths"]["lstm_actor"] for event in model.pruning_history]
    assert len(widths) == 2 and widths[0][1] == widths[1][0] > widths[1][1] == model.policy.lstm_critic.hidden_size
    consistent(model)


def test_batches_of_before_a_cut_are_named():
    model = AGENTS["recurrent"]().learn(64)
    model.rollout_buffer.full = True
    batch = next(model.rollout_buffer.get(32))
    rl_crop.prune_policy(model, 0.5, **SCORING)
    with pytest.raises(PruningError, match="hold states of 8 hidden units, and the LSTM has"):
        rl_crop.plan_policy_pruning(model.policy, 0.5, batches=[batch], criterion="magnitude")


@pytest.mark.parametrize("name", KINDS)
def test_a_cut_agent_is_exported(name, tmp_path):
    model = AGENTS[name]()
    rl_crop.prune_policy(model, 0.5, **SCORING)
    rl_crop.export_actor(model, tmp_path / "policy.onnx")
