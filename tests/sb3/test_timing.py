"""When an agent is cut: what decided, and on whose data a pruned policy trains."""

import pytest
import torch as th

import rl_crop
from rl_crop.core.pruning.schedules import gradual_sparsities
from rl_crop.core.recipes.recipe import Recipe
from tests.zoo.agents import AGENTS, SCORING, ppo, sac
from tests.zoo.callbacks import Watch
from tests.zoo.snapshots import same


@pytest.mark.parametrize(("when", "time"), [(0.0, 64), (0.25, 128), (100, 128), (0.5, 192), (256, 256)])
def test_ppo_is_cut_at_the_next_rollout(when, time):
    model = ppo().learn(384, callback=rl_crop.PruningCallback(0.5, when=when, latest=1.0, verbose=0, **SCORING))
    [event] = model.pruning_history
    assert (event["timesteps"], event["decided_by"], event["event"]) == (time, "fixed", 0)


@pytest.mark.parametrize(("when", "time"), [(0.0, 32), (0.25, 64), (100, 100), (0.5, 128)])
def test_sac_is_cut_at_that_step_and_never_before_learning_starts(when, time):
    model = sac().learn(256, callback=rl_crop.PruningCallback(0.5, when=when, latest=1.0, verbose=0, **SCORING))
    [event] = model.pruning_history
    assert (event["timesteps"], event["decided_by"]) == (time, "fixed")


@pytest.mark.parametrize("name", ["ppo_discrete", "ppo_sde", "sac"])
def test_latest_is_met_where_the_weights_do_not_settle(name):
    callback = rl_crop.PruningCallback(0.5, when="lazy", earliest=0.75, latest=0.75, verbose=0, **SCORING)
    model = AGENTS[name]().learn(640, callback=callback)
    [event] = model.pruning_history
    assert 480 <= event["timesteps"] <= 480 + 128 and event["decided_by"] in ("latest", "earliest")


@pytest.mark.parametrize(
    "recipe", [None, Recipe(when="lazy", schedule="cubic", strategy="growing_l2", until=0.9)], ids=["", "engine"]
)
def test_kappa_says_how_slow_is_settled(recipe):
    decided = {}
    for kappa in (0.9, 1e-9):
        model = ppo(learning_rate=lambda left: 1e-3 * left**8)
        bounds = {"earliest": 0.0, "latest": 0.5, "when": "lazy", "kappa": kappa}
        model.learn(64 * 20, callback=rl_crop.PruningCallback(0.5, recipe=recipe, verbose=0, **bounds, **SCORING))
        decided[kappa] = model.pruning_history[-1]["decided_by"]
    assert decided == {0.9: "lazy", 1e-9: "latest"}


def test_epi_fires_on_stable_proposals():
    model = ppo(learning_rate=0.0)  # whose magnitudes never change
    model.learn(64 * 20, callback=rl_crop.PruningCallback(0.5, "magnitude", when="epi", latest=0.9, verbose=0, **SCORING))
    [event] = model.pruning_history
    assert event["decided_by"] == "epi" and event["timesteps"] == 64 * 11  # five proposals, five values, and the one


@pytest.mark.parametrize("make", [ppo, sac])
def test_gradual_widths(make):
    callback = rl_crop.PruningCallback(0.9, schedule="gradual", when=64, until=0.5, n_events=3, verbose=0, **SCORING)
    model = make(net_arch=[32, 32]).learn(512, callback=callback)
    times = [event["timesteps"] for event in model.pruning_history]
    assert times == ([64, 192, 256] if make is ppo else [64, 160, 256])
    for event, total in zip(model.pruning_history, gradual_sparsities(0.9, 3), strict=True):
        for network, share in event["reached"].items():
            assert total <= share <= total + 0.05, (network, event["event"])


@pytest.mark.parametrize("name", ["ppo_discrete", "sac"])
def test_what_is_pending_at_the_end_happens_then(name):
    one = rl_crop.PruningCallback(0.5, when=10_000, verbose=0, **SCORING)
    model = AGENTS[name]().learn(128, callback=one)
    assert [(e["timesteps"], e["decided_by"]) for e in model.pruning_history] == [(128, "end")]
    many = rl_crop.PruningCallback(0.9, schedule="gradual", when=64, until=10_000, n_events=4, verbose=0, **SCORING)
    model = AGENTS[name]().learn(128, callback=many)
    assert [e["event"] for e in model.pruning_history] == [0, 3]
    assert all(share >= 0.9 for share in model.pruning_history[-1]["reached"].values())
    model.learn(64, reset_num_timesteps=False, callback=many)
    assert len(model.pruning_history) == 2


def test_an_event_of_a_gradual_schedule_that_is_planned_at_the_end_takes_the_rest_along():
    callback = rl_crop.PruningCallback(0.9, schedule="gradual", when=64, until=500, n_events=4, verbose=0, **SCORING)
    model = ppo().learn(64, callback=callback)  # planned after the only rollout, never cut before the next
    assert [e["event"] for e in model.pruning_history] == [3]
    assert all(share >= 0.9 for share in model.pruning_history[-1]["reached"].values())


def test_a_pruned_policy_trains_on_its_own_data_alone():
    own = []

    def look(model):
        """Whether the log-probabilities in the buffer are those of the policy of this moment."""
        buffer = model.rollout_buffer
        observations, actions, found = (th.as_tensor(x[:, 0]) for x in (buffer.observations, buffer.actions, buffer.log_probs))
        with th.no_grad():
            _, log_prob, _ = model.policy.evaluate_actions(observations, actions.flatten())
        own.append(th.allclose(log_prob, found, atol=1e-5))

    callback = rl_crop.PruningCallback(0.8, schedule="gradual", when=64, until=0.6, compensation="none", verbose=0, **SCORING)
    model = ppo(n_epochs=1).learn(640, callback=[Watch(end=look), callback])
    assert len(model.pruning_history) == 4 and len(own) == 10 and all(own)


@pytest.mark.parametrize("unit", [(1, "step"), (40, "step"), (1, "episode")])
def test_off_policy_by_steps_and_by_episodes(unit):
    model = sac(train_freq=unit, gradient_steps=2)
    model.learn(210, callback=rl_crop.PruningCallback(0.5, when=90, verbose=0, **SCORING))
    [event] = model.pruning_history
    assert event["timesteps"] == {(1, "step"): 90, (40, "step"): 120, (1, "episode"): 200}[unit]


def test_seeds_decide_and_nothing_else():
    def cut(seed):
        callback = rl_crop.PruningCallback(0.5, criterion="random", when=64, seed=seed, verbose=0, **SCORING)
        model = ppo().learn(128, callback=callback)
        return {name: tensor for name, tensor in model.policy.state_dict().items() if name.endswith("net.0.weight")}

    assert same(cut(1), cut(1)) and not same(cut(1), cut(2))
    assert same(cut(None), cut(0))  # the model's own
