"""When events come: times, bounds, what decided, and on whose data a pruned policy trains."""

import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

import rl_crop
from rl_crop.core.pruning.schedules import gradual_sparsities
from rl_crop.core.recipes.recipe import Recipe
from rl_crop.sb3.timing import Timetable
from tests.zoo.agents import AGENTS, SCORING, equal, ppo, sac


class Rule:
    """A trigger that fires at given checks."""

    def __init__(self, *fires):
        self.fires, self.distance, self.ratio = list(fires), {}, {}

    def check(self):
        return self.fires.pop(0) if self.fires else False


def timetable(when="lazy", earliest=0.1, latest=0.5, n_events=1, until=0.9, fires=(), **keywords):
    table = Timetable(when, until, earliest, latest, n_events, 1000, **keywords)
    table._weights = Rule(*fires) if when == "lazy" else None
    return table


def first_time(table, times):
    return next((now for now in times if table.check(now, lambda: {"layer": 4})), None)


TIMES = range(0, 1001, 50)


@pytest.mark.parametrize(
    ("fires", "time", "decided_by"),
    [
        ([0, 0, 0, 0, 1], 200, "lazy"),
        ([1] * 9, 100, "earliest"),
        ([0, 0, 1, 1], 100, "lazy"),
        ([1, 1, 0, 0, 0, 1], 250, "lazy"),
        ([], 500, "latest"),
    ],
)
def test_a_trigger_between_its_bounds(fires, time, decided_by):
    table = timetable(fires=[bool(fire) for fire in fires])
    assert first_time(table, TIMES) == time and table.decided_by == decided_by
    assert table.deadline() == 500


@pytest.mark.parametrize(("when", "time"), [(0.0, 0), (0.33, 350), (350, 350), (1, 50), (0.999, 1000)])
def test_a_fixed_time(when, time):
    table = timetable(when)
    assert first_time(table, TIMES) == time and table.decided_by == "fixed"


def test_gradual_events_lie_at_equal_distances():
    table, times = timetable(0.1, n_events=5, until=0.3), []
    for now in range(0, 1000, 10):
        while not table.finished and table.check(now, dict):
            times.append(now)
            table.done()
    assert times == [100, 150, 200, 250, 300] and table.finished


def test_gradual_events_of_a_late_trigger_still_have_training_between_them():
    table, times = timetable(n_events=3, until=0.2), []  # fires at latest, after until
    for now in range(0, 1300, 50):
        if not table.finished and table.check(now, dict):
            times.append(now)
            table.done()
    assert times == [500, 750, 1000]


def test_nothing_before_there_is_data():
    assert first_time(timetable(0.1, not_before=250), TIMES) == 250
    table = timetable(fires=[True] * 20, not_before=250)
    assert first_time(table, TIMES) == 250 and table.decided_by == "earliest"
    assert first_time(timetable(not_before=700), TIMES) == 700


def test_proposals_of_an_agent_that_is_not_trained_yet_do_not_count():
    table = timetable("epi", not_before=500, latest=1.0)
    fired = next(now for now in range(0, 1000, 10) if table.check(now, lambda: {"layer": 4}))
    assert (fired, table.decided_by) == (610, "epi")  # five proposals, five values, and the one


def test_a_later_part_of_a_run_goes_on_with_what_has_been_seen():
    """The trigger's fires and the interval are the run's; bounds are shares of the budget of the part."""
    first = Timetable("epi", 0.9, 0.1, 0.5, 3, budget=100_000)
    assert first_time(first, range(500, 3000, 500)) is None
    later = Timetable("epi", 0.9, 0.1, 0.5, 3, budget=200_000)
    later.load_state_dict(first.state_dict())
    assert later.interval(on_policy=False) == first.interval(on_policy=False) == 500
    assert (later.first, later.earliest, later.latest) == (None, 20_000, 100_000)
    first.check(60_000, lambda: {"layer": 4})
    again = Timetable("epi", 0.9, 0.1, 0.5, 3, budget=200_000)
    again.load_state_dict(first.state_dict())
    assert (again.first, again.decided_by) == (60_000, "latest") and "trigger" not in again.state_dict()
    fixed = Timetable(0.3, 0.9, 0.1, 0.5, 3, budget=200_000)
    fixed.load_state_dict(Timetable(0.3, 0.9, 0.1, 0.5, 3, budget=100_000).state_dict())
    assert fixed.first == 60_000


def test_a_failed_event_is_tried_again_until_its_deadline():
    assert timetable(0.2).deadline() == 500  # latest
    assert timetable(0.7).deadline() == 1000  # it was meant for later than latest
    table = timetable(0.2, n_events=3)
    table.done()
    assert table.deadline() == 1000


def test_what_is_gone_shrinks_by_the_same_factor():
    table = timetable(0.1, n_events=4)
    reached = 0.0
    for event, total in enumerate(gradual_sparsities(0.95, 4)):
        share = table.share(event, 0.95, reached)
        reached = 1 - (1 - reached) * (1 - share)
        assert reached == pytest.approx(total) and share == pytest.approx(1 - 0.05**0.25)
    assert table.share(3, 0.95, 0.97) == 0.0  # an overshoot left nothing to do


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
    callback = rl_crop.PruningCallback(0.5, when="lazy", earliest=0.9, latest=0.9, verbose=0, **SCORING)
    model = AGENTS[name]().learn(640, callback=callback)
    [event] = model.pruning_history
    assert 576 <= event["timesteps"] <= 576 + 128 and event["decided_by"] in ("latest", "earliest")


@pytest.mark.parametrize(
    "recipe", [None, Recipe(when="lazy", schedule="cubic", fate="growing_l2", until=0.9)], ids=["", "engine"]
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
    model.learn(64 * 20, callback=rl_crop.PruningCallback(0.5, when="epi", latest=0.9, verbose=0, **SCORING))
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


class Watch(BaseCallback):
    """At the end of every rollout: whether the log-probabilities in the buffer are those of the policy of this moment."""

    def __init__(self):
        super().__init__()
        self.own = []

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        observations, actions, found = (th.as_tensor(x[:, 0]) for x in (buffer.observations, buffer.actions, buffer.log_probs))
        with th.no_grad():
            _, log_prob, _ = self.model.policy.evaluate_actions(observations, actions.flatten())
        self.own.append(th.allclose(log_prob, found, atol=1e-5))

    def _on_step(self):
        return True


def test_a_pruned_policy_trains_on_its_own_data_alone():
    watch = Watch()
    callback = rl_crop.PruningCallback(0.8, schedule="gradual", when=64, until=0.6, compensation="none", verbose=0, **SCORING)
    model = ppo(n_epochs=1).learn(640, callback=[watch, callback])
    assert len(model.pruning_history) == 4 and len(watch.own) == 10 and all(watch.own)


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

    assert equal(cut(1), cut(1)) and not equal(cut(1), cut(2))
    assert equal(cut(None), cut(0))  # the model's own
