"""Recipes carried through an agent's training by the callback, and whole runs by drivers."""

import copy
import dataclasses

import gymnasium as gym
import pytest
import torch as th
from stable_baselines3.common.monitor import Monitor

import rl_crop
from rl_crop.core.errors import PruningError
from rl_crop.core.masking.masks import attached_masks
from rl_crop.core.recipes.recipe import ScoringOptions
from rl_crop.sb3.task import AgentTask
from tests.zoo.agents import ppo
from tests.zoo.agents import sac as frequent_sac
from tests.zoo.callbacks import Watch
from tests.zoo.long import and_long
from tests.zoo.snapshots import same

SMALL = {"n_batches": 2, "batch_size": 32, "verbose": 0}


def sac():
    """Few rollouts, each followed by a few optimizer steps."""
    return frequent_sac(train_freq=32, gradient_steps=4)


def weights(model):
    return {name: p.detach().clone() for name, p in model.policy.named_parameters() if name in held(model)}


def held(model):
    return attached_masks(dict(model.policy.named_parameters()))


def frequent(name, **parts):
    recipe = rl_crop.recipes[name]
    return dataclasses.replace(recipe, **parts, options={**recipe.options, "every": 1})


@pytest.fixture
def often(monkeypatch):
    """Masks may move at every rollout."""
    monkeypatch.setattr("rl_crop.sb3.between_rollouts.STEPS_BETWEEN", {True: 1, False: 1})


@pytest.mark.parametrize("make", [ppo, sac], ids=["ppo", "sac"])
@pytest.mark.parametrize("name", ["rigl", "acdc", "greg_1", "iss_p", "bridgeout"])
def test_a_moving_recipe_ends_at_the_asked_sparsity_and_holds_it(make, name, often):
    model = make()
    model.learn(256, callback=rl_crop.PruningCallback(0.8, recipe=frequent(name), **SMALL))
    [event] = model.pruning_history
    assert event["finished"] and not hasattr(model, "pruning_state")
    if rl_crop.recipes[name].structured:
        assert event["n_params_after"] < event["n_params_before"] and min(event["sparsity"].values()) >= 0.8
        assert all(int((p == 0).sum()) == 0 for p in model.policy.parameters() if p.dim() > 1)
    else:
        for network in ("actor", "critic"):
            assert event["sparsity"][network] == pytest.approx(0.8, abs=0.002)
        zeros = {n: int((w == 0).sum()) for n, w in weights(model).items()}
        assert zeros == {n: int((~mask).sum()) for n, mask in held(model).items()}
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(64, reset_num_timesteps=False)
    assert any(not th.equal(p, old) for p, old in zip(model.policy.parameters(), before, strict=True))
    assert all(th.equal(p == 0, old == 0) for p, old in zip(model.policy.parameters(), before, strict=True) if p.dim() > 1)


def test_the_masks_of_rigl_move_and_their_counts_stay(often):
    model, seen = ppo(), []
    callback = rl_crop.PruningCallback(0.8, recipe=frequent("rigl"), **SMALL)
    model.learn(512, callback=[callback, Watch(end=lambda _: seen.append(held(model)))])
    counts = [{name: int(mask.sum()) for name, mask in masks.items()} for masks in seen]
    assert all(count == counts[0] for count in counts)
    moves = [not same(first, second) for first, second in zip(seen, seen[1:], strict=False)]
    assert sum(moves) >= 3 and len(model.pruning_history) == 1


def test_mask_changes_keep_their_distance_in_optimizer_steps():
    """A rollout of PPO has 4 optimizer steps here, so that 250 are never reached."""
    model, seen = ppo(), []
    callback = rl_crop.PruningCallback(0.8, recipe="rigl", when=0, **SMALL)
    model.learn(512, callback=[callback, Watch(end=lambda _: seen.append(held(model)))])
    assert all(same(seen[0], masks) for masks in seen)


def resolved(*args, **keywords):
    return rl_crop.PruningCallback(*args, **keywords).resolved


def test_given_arguments_win_over_the_recipe():
    own = resolved(0.9, recipe="efficient_convnets", scope="network", compensation="least_squares", when=64)
    assert (own.criterion, own.scope, own.compensation, own.when) == ("filter_l1", "network", "least_squares", 64)
    plain = resolved(0.9, recipe="efficient_convnets")
    assert plain == rl_crop.recipes["efficient_convnets"]
    moving = resolved(0.9, recipe="gmp", criterion="snip")
    assert moving.criterion == "snip" and moving.schedule == "cubic"
    floor = dataclasses.replace(rl_crop.recipes["earlycrop_s"], options={"min_units": 4})
    found = [resolved(recipe=floor, **own).of(ScoringOptions).min_units for own in ({}, {"min_units": 2})]
    assert found == [4, 2]
    assert resolved(recipe="earlycrop_s").when == "distance"  # as the paper has it
    assert resolved(recipe="earlycrop_s", when="lazy").when == "lazy"
    assert (resolved(0.9).criterion, resolved(0.9).when, resolved(0.9).compensation) == ("obs_crop", "lazy", "least_squares")
    assert resolved().criterion == "obs_crop"  # what is repaired is ranked by what the repair can do
    assert [resolved(0.9, **own).criterion for own in ({"compensation": "none"}, {"structured": False})] == ["crop", "crop"]
    assert [resolved(0.9, recipe=name).criterion for name in ("earlycrop_s", "crop_s")] == ["crop_gate", "crop"]


def test_a_given_schedule_wins_where_the_recipe_has_no_course_of_its_own():
    one = resolved(0.9, recipe="pat_magnitude", schedule="gradual", n_events=3)
    assert (one.schedule, one.n_events, one.criterion) == ("gradual", 3, "unit_norm")
    assert resolved(0.9, recipe="pat_magnitude", schedule="iterative").inner == "halving"
    with pytest.raises(PruningError, match="a course of its own"):
        rl_crop.PruningCallback(0.9, recipe="rigl", schedule="one_shot")
    with pytest.raises(PruningError, match="schedule='twice' is not one of"):
        rl_crop.PruningCallback(0.9, recipe="pat_taylor", schedule="twice")
    own = resolved(0.9, recipe=rl_crop.recipes["snap"], criterion="magnitude", scope="layer")
    assert own.criterion == "magnitude" and own.scope == "layer"


def test_every_cut_of_a_gradual_recipe_is_in_the_history(often):
    model, seen = ppo(), []
    recipe = dataclasses.replace(rl_crop.recipes["pat_magnitude"], schedule="gradual", until=0.8)

    def look(model):
        seen.append((sum(p.numel() for p in model.policy.parameters()), *getattr(model, "pruning_history", [])))

    model.learn(1024, callback=[rl_crop.PruningCallback(0.8, recipe=recipe, **SMALL), Watch(end=look)])
    before = seen[0][0]
    for size, *events in seen:
        assert (size < before) == bool(events) and all(event["n_params_after"] == size for event in events[-1:])
    assert len({size for size, *_ in seen}) >= 3 and model.pruning_history[-1]["finished"]


def test_what_does_not_fit_is_refused():
    for name in ("ltr", "random_candidates", "gbn", "stamp", "hydra", "early_exits"):
        with pytest.raises(PruningError, match=r"rl_crop\.run_recipe"):
            rl_crop.PruningCallback(recipe=name)
    with pytest.raises(PruningError, match="Unknown recipe 'rigel'"):
        rl_crop.PruningCallback(recipe="rigel")
    with pytest.raises(PruningError, match="units only go for good"):
        rl_crop.PruningCallback(recipe="rigl", structured=True)
    with pytest.raises(PruningError, match="sparsity names"):
        ppo().learn(64, callback=rl_crop.PruningCallback({"critics": 0.5}, recipe="rigl", **SMALL))


@pytest.mark.parametrize("make", [ppo, sac], ids=["ppo", "sac"])
@pytest.mark.parametrize("name", ["granet", "greg_1"])
def test_a_resumed_run_goes_on_with_the_recipe(make, name, often, tmp_path):
    def callback():
        return rl_crop.PruningCallback(0.8, recipe=frequent(name), **SMALL)

    model = make()
    stop = 128
    model.learn(
        256, callback=[callback(), Watch(end=lambda _: model.num_timesteps == stop and model.save(tmp_path / "agent"))]
    )
    loaded = type(model).load(tmp_path / "agent", env=model.get_env())
    assert loaded.num_timesteps == stop and loaded.pruning_state
    resumed = callback()
    loaded.learn(256 - stop, reset_num_timesteps=False, callback=resumed)
    [event] = loaded.pruning_history
    assert event["finished"] and event["sparsity"]["total"] >= 0.8
    assert resumed.engine.timetable.begun == pytest.approx(0.0 if name == "granet" else 128, abs=64)  # as before the stop
    loaded.learn(64, reset_num_timesteps=False, callback=callback())
    assert len(loaded.pruning_history) == 1  # and is not pruned again


def test_networks_have_sparsities_of_their_own(often):
    model = sac()
    model.learn(256, callback=rl_crop.PruningCallback({"critic": 0.6}, recipe=frequent("set"), **SMALL))
    [event] = model.pruning_history
    assert event["sparsity"]["actor"] == 0.0 and event["sparsity"]["critic"] == pytest.approx(0.6, abs=0.002)
    assert all(name.startswith("critic") for name in held(model))


@pytest.mark.parametrize("name", ["greg_2", "bridgeout"])
def test_networks_that_are_not_named_stay_as_they_are(name, often):
    """Nothing trains (the learning rate is zero), so that only the recipe moves weights."""
    model = ppo(learning_rate=0.0)
    actor = {n: p.detach().clone() for n, p in model.policy.named_parameters() if "value" not in n}
    quiet = []

    def look(model):
        model.policy.set_training_mode(True)
        extractor, x = model.policy.mlp_extractor, th.ones(1, 4)
        quiet.append([th.equal(net(x), net(x)) for net in (extractor.policy_net, extractor.value_net)])

    callback = rl_crop.PruningCallback({"critic": 0.5}, recipe=frequent(name), **SMALL)
    model.learn(512, callback=[callback, Watch(end=look)])
    assert same(actor, {n: p.detach() for n, p in model.policy.named_parameters() if "value" not in n})
    assert model.pruning_history[-1]["sparsity"]["critic"] >= 0.5
    assert all(actor_quiet for actor_quiet, _ in quiet)
    assert quiet[0] == [True, name != "bridgeout"] and quiet[-1] == [True, True]


def test_bridgeout_collects_without_noise(often):
    """Actions, and the log-probabilities that are compared with later, are those of the weights as they are."""
    model, differences = ppo(), []

    def look(model):
        buffer = model.rollout_buffer
        observations = th.as_tensor(buffer.observations.reshape(-1, 4))
        with th.no_grad():
            model.policy.set_training_mode(False)
            distribution = model.policy.get_distribution(observations)
            now = distribution.log_prob(th.as_tensor(buffer.actions.reshape(-1)))
        differences.append(float((now - th.as_tensor(buffer.log_probs.reshape(-1))).abs().max()))

    model.learn(256, callback=[rl_crop.PruningCallback(0.5, recipe="bridgeout", when=0.9, **SMALL), Watch(end=look)])
    assert max(differences) < 1e-5


def test_pat_is_carried_out_as_the_recipe_says():
    model = ppo()
    recipe = dataclasses.replace(rl_crop.recipes["pat_magnitude"], options={"threshold": 0.1, "n_batches": 3})
    callback = rl_crop.PruningCallback(0.5, recipe=recipe, batch_size=32, earliest=0.1, latest=1.0, verbose=0)
    model.learn(1024, callback=callback)
    assert callback.engine.timetable.trigger.threshold == 0.1 and callback.resolved.of(ScoringOptions).n_batches == 3
    [event] = model.pruning_history
    assert event["criterion"] == "unit_norm" and event["decided_by"] == "epi"


def test_two_recipes_side_by_side_leave_each_other_alone(often):
    model, seen = ppo(), []
    callbacks = [
        rl_crop.PruningCallback(0.8, recipe=frequent("rigl"), networks="actor", **SMALL),
        rl_crop.PruningCallback(0.6, recipe=frequent("gmp", when=0.0), networks="critic", **SMALL),
    ]
    model.learn(512, callback=[*callbacks, Watch(end=lambda _: seen.append(held(model)))])
    events = {tuple(event["networks"]): event for event in model.pruning_history}
    assert len(model.pruning_history) == 2 and all(event["finished"] for event in events.values())
    masks = held(model)
    own = {"actor": lambda name: "policy_net" in name or "action_net" in name}
    own["critic"] = lambda name: not own["actor"](name)
    for network, sparsity in (("actor", 0.8), ("critic", 0.6)):
        flat = th.cat([mask.flatten() for name, mask in masks.items() if own[network](name)])
        assert float((~flat).double().mean()) == pytest.approx(sparsity, abs=0.005)
    counts = [sum(int(mask.sum()) for name, mask in masks.items() if own["actor"](name)) for masks in seen]
    assert len(set(counts)) == 1 and all(
        (p[~masks[name]] == 0).all() for name, p in model.policy.named_parameters() if name in masks
    )


def task(make=ppo, steps=192):
    env = Monitor(gym.make("CartPole-v1" if make is ppo else "Pendulum-v1"))
    return AgentTask(make(), steps, eval_env=env, n_eval_episodes=1, batch_size=32)


@pytest.mark.parametrize("make", [ppo, sac], ids=["ppo", "sac"])
def test_a_snapshot_brings_back_everything_that_training_moves(make):
    played = task(make)
    played.train(0.5)
    state, before = played.snapshot(), {n: t.clone() for n, t in played.model.state_dict().items()}
    moments = copy.deepcopy([optimizer.state_dict() for optimizer in played.optimizers])
    played.train(0.5)
    assert not same(before, dict(played.model.state_dict()))
    played.restore(state)
    assert same(before, dict(played.model.state_dict())) and played.agent.num_timesteps == (96 if make is sac else 128)
    assert same(moments, [optimizer.state_dict() for optimizer in played.optimizers])
    if make is sac:
        assert played.agent.replay_buffer.size() == state["buffer"].size()


@pytest.mark.parametrize("name", ["ltr", "random_candidates", "rigl", "span_gradual"])
def test_whole_runs_by_drivers(name):
    played = task()
    recipe = rl_crop.recipes[name]
    few = {"rate": 0.5, "n_candidates": 2}
    report = rl_crop.run_recipe(played, dataclasses.replace(recipe, options={**recipe.options, **few}), 0.7)
    assert report.sparsity["total"] >= 0.7 and played.agent.num_timesteps >= 192
    if not recipe.structured:
        zeros = sum(int((p == 0).sum()) for name, p in played.model.named_parameters() if name in held(played.agent))
        assert zeros == report.n_params_before - report.n_params_after


@pytest.mark.parametrize("make", and_long([ppo], [sac]))
def test_learning_rates_follow_the_whole_run_in_its_parts(make, tmp_path):
    env = Monitor(gym.make("CartPole-v1" if make is ppo else "Pendulum-v1"))
    agent = (ppo if make is ppo else frequent_sac)(learning_rate=lambda left: left)
    saved = Watch(end=lambda _: agent.save(tmp_path / "agent"))
    played, rates = AgentTask(agent, 640, eval_env=env, batch_size=32, callback=[saved]), []
    for _ in range(5):
        played.train(0.2)
        rates.append(played.optimizers[0].param_groups[0]["lr"])
    assert rates == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0], abs=0.02)
    again = type(agent).load(tmp_path / "agent", env=agent.get_env())
    again.learn(256)
    assert AgentTask(again, 256).optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0, abs=0.02)


def test_candidates_need_somewhere_to_play():
    with pytest.raises(PruningError, match="eval_env"):
        rl_crop.run_recipe(AgentTask(ppo(), 64, batch_size=32), "random_candidates", 0.5)
