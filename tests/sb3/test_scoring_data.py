"""Scoring data: an agent's own rollouts or replay samples, normalised as in training, as much as was asked for."""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.type_aliases import RolloutBufferSamples

import rl_crop
from rl_crop.sb3.adapters import describe
from rl_crop.sb3.data import RolloutMemory, agent_batches, collect, replay_batches, rollout_samples
from tests.zoo.agents import AGENTS, SCORING, ppo, sac
from tests.zoo.snapshots import last_observation, same, unmoved


def rows(samples):
    """Transitions as a sorted array, so that only what they are counts, not their order."""
    parts = list(samples.observations.values()) if isinstance(samples.observations, dict) else [samples.observations]
    names = [*RolloutBufferSamples._fields[1:], *(["action_masks"] if hasattr(samples, "action_masks") else [])]
    others = [getattr(samples, name) for name in names]
    columns = [np.asarray(part).reshape(len(part), -1) for part in (*parts, *others)]
    return np.unique(np.concatenate(columns, axis=1).round(6), axis=0)


@pytest.mark.parametrize(
    "name", ["ppo_discrete", "ppo_box", "ppo_sde", "ppo_normalized", "ppo_dict", "ppo_mixed", "a2c", "trpo", "maskable"]
)
def test_rollout_samples_are_those_that_ppo_trains_on(name):
    model = AGENTS[name]()
    buffer = collect(model, 96, seed=0)
    found = rollout_samples(buffer, 10**6, seed=1)  # before the buffer is flattened
    [expected] = buffer.get()
    assert np.allclose(rows(found), rows(expected), atol=1e-5)
    assert np.allclose(rows(rollout_samples(buffer, 10**6, seed=2)), rows(expected), atol=1e-5)  # and after
    assert set(vars(found)) == set(expected._fields)
    for name, theirs in expected._asdict().items():
        mine = getattr(found, name)
        if not isinstance(mine, dict):
            assert mine.shape == theirs.shape
            assert mine.dtype == theirs.dtype or hasattr(found, "action_masks")  # whose buffer leaves actions as they are
    assert len(rollout_samples(buffer, 10, seed=1).advantages) == 10


@pytest.mark.parametrize("name", ["recurrent", "recurrent_without_critic", "recurrent_mixed"])
def test_recurrent_samples_carry_the_states_that_the_policy_had(name):
    """Acting again from the state before each step gives the log-probability that was recorded with it."""
    model = AGENTS[name]()
    buffer = collect(model, 96, seed=0)
    parts = describe(model.policy)
    expected = np.sort(buffer.log_probs.flatten())
    for _ in range(2):  # before the buffer is flattened, and after
        found = rollout_samples(buffer, 10**6, seed=1)
        head, values = parts.forwards[0](parts.prepare(found).observations, None)
        assert th.allclose(values.flatten(), found.old_values, atol=1e-5)
        if not model.use_sde:
            again = head.log_softmax(dim=1).gather(1, found.actions.long().reshape(-1, 1)).flatten()
            assert th.allclose(again, found.old_log_prob, atol=1e-5)
        assert np.allclose(np.sort(found.old_log_prob.numpy()), expected, atol=1e-6)
        next(buffer.get(32))


def test_masks_are_those_of_the_environment():
    """Actions that were masked have no weight in the loss, and none of them was taken."""
    found = rollout_samples(collect(AGENTS["maskable"](), 96, seed=0), 10**6, seed=1)
    assert (found.action_masks.sum(dim=1) == 5).all()  # 3 of 8 are invalid
    assert (found.action_masks.gather(1, found.actions.long()) == 1).all()


@pytest.mark.parametrize("name", ["sac_hindsight", "dqn_hindsight"])
def test_no_rollout_is_collected_for_hindsight_replay(name):
    model = AGENTS[name]()
    with unmoved(model), pytest.raises(rl_crop.PruningError, match="hindsight.*train first"):
        rl_crop.prune_policy(model, 0.5, **SCORING)


def test_memory_of_several_short_rollouts():
    memory, model, everything = RolloutMemory(100), ppo(n_steps=16, batch_size=16), []
    with pytest.raises(rl_crop.PruningError, match="nothing to score on"):
        memory.batches(50)
    for seed in range(9):
        buffer = collect(model, 16, seed)
        everything.append(rollout_samples(buffer, 16, seed=0))
        memory.add(buffer, seed=0)
    assert len(memory.parts) == 7  # 6 hold 96 transitions
    batches = memory.batches(50)
    assert [len(batch.advantages) for batch in batches] == [50, 50]
    latest = th.cat([part.observations for part in everything])[-100:]
    assert th.equal(th.cat([batch.observations for batch in batches]), latest)
    memory.clear()
    assert memory.parts == []


def test_the_callback_scores_on_several_short_rollouts():
    seen = []

    def criterion(context):
        seen.append([len(batch.advantages) for batch in context.batches])
        return {name: tensor.abs() for name, tensor in context.parameters.items()}

    callback = rl_crop.PruningCallback(0.5, criterion, when=200, latest=0.9, verbose=0, n_batches=3, batch_size=40)
    ppo(n_steps=16, batch_size=16).learn(256, callback=callback)
    assert seen == [[1]] * 2 + [[40, 40, 40]] * 2  # actor and critic, tried before training and scored
    early = rl_crop.PruningCallback(0.5, when=0.0, verbose=0, n_batches=3, batch_size=40)
    model = ppo(n_steps=16, batch_size=16).learn(64, callback=early)  # all there is: one rollout of 16
    assert model.pruning_history[0]["timesteps"] == 16


@pytest.mark.parametrize("n_envs", [1, 3])
def test_replay_samples(n_envs):
    model = sac(n_steps=3, env={"n_envs": n_envs, "normalize": True}).learn(120)
    batches = replay_batches(model, 2, 50, seed=0)
    assert [len(batch.rewards) for batch in batches] == [50, 50] and not same(batches[0].rewards, batches[1].rewards)
    assert {round(discount, 4) for discount in batches[0].discounts.flatten().tolist()} <= {0.99, 0.9801, 0.9703}
    normalize = model.get_vec_normalize_env()
    raw = model.replay_buffer.observations[: model.replay_buffer.size()].reshape(-1, 3)
    known = {tuple(row) for row in normalize.normalize_obs(raw).astype(np.float32).round(4).tolist()}
    assert {tuple(row) for row in batches[0].observations.numpy().round(4).tolist()} <= known
    assert not {tuple(row) for row in batches[0].observations.numpy().round(4).tolist()} <= {
        tuple(row) for row in raw.round(4).tolist()
    }
    again = replay_batches(model, 2, 50, seed=0)
    assert all(same(list(one), list(other)) for one, other in zip(batches, again, strict=True))


@pytest.mark.parametrize(
    "keywords",
    [
        {"n_steps": 3},
        {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}},
        {"buffer_size": 64},
    ],
    ids=str,
)
def test_kinds_of_replay_buffers(keywords):
    model = sac(**keywords)
    rl_crop.prune_policy(model, 0.3, **SCORING)  # on a rollout collected for it
    model.learn(96, callback=rl_crop.PruningCallback(0.4, when=48, verbose=0, **SCORING))
    rl_crop.prune_policy(model, 0.3, **SCORING)  # on its own
    model.learn(32, reset_num_timesteps=False)
    assert [event["source"] for event in model.pruning_history] == ["prune_policy", "PruningCallback", "prune_policy"]


def test_own_data_is_preferred_to_a_new_rollout(make_plain):
    model = make_plain().learn(64)
    last = last_observation(model)
    batches = agent_batches(model, 2, 32, seed=0)
    assert [len(batch.actions) for batch in batches] == [32, 32] and same(last, last_observation(model))
    [larger] = agent_batches(model, 1, 300, seed=0)
    assert not same(last, last_observation(model)) and len(larger.actions) == 300  # not one batch: a rollout instead


def test_the_same_seed_scores_on_the_same_data(make_plain):
    model = make_plain().learn(64)
    plans = [rl_crop.plan_policy_pruning(model, 0.5, seed=seed, n_batches=1, batch_size=32) for seed in (1, 1, 2)]
    assert same(plans[0].scores, plans[1].scores) and not same(plans[0].scores, plans[2].scores)
