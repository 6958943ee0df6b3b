"""When events come: times, bounds, and what decided."""

import pytest

from rl_crop.core.errors import PruningError
from rl_crop.core.recipes.timetable import Limits, Timetable
from rl_crop.core.recipes.triggers import TRIGGERS, TriggerOptions, Watched


class Rule:
    """A trigger that fires at given checks."""

    def __init__(self, *fires):
        self.fires = list(fires)

    def look(self, propose):
        return self.fires.pop(0) if self.fires else False


def timetable(when="lazy", earliest=0.1, latest=0.5, n_events=1, until=0.9, fires=(), in_time=False, **limits):
    given = Limits(**{"length": 1000, "untrained_until": -1} | limits)
    table = Timetable(when, until, n_events, in_time, TriggerOptions(earliest, latest), given)
    if when == "lazy":
        table.trigger = Rule(*fires)
    elif isinstance(when, str):
        table.trigger = TRIGGERS[when](Watched({}, {}))
    return table


def first_time(table, times):
    return next((now for now in times if table.begins(now, lambda: {"layer": 4})), None)


def event_times(table, times):
    found = []
    for now in times:
        if table.n_done < table.n_events and table.begins(now, dict) and table.due(now):
            found.append(now)
            table.n_done = table.event + 1
    return found


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


@pytest.mark.parametrize(("learnt_at", "fires", "time"), [(0, [], 500), (600, [1] * 20, 600), (600, [], 600), (950, [], 800)])
def test_a_trigger_waits_until_something_is_learnt(learnt_at, fires, time):
    now = [0]
    table = timetable(fires=[bool(fire) for fire in fires], learnt=lambda: now[0] >= learnt_at, unlearnt_until=800)
    for now[0] in TIMES:
        if table.begins(now[0], dict):
            break
    assert now[0] == time and table.deadline() == 800


@pytest.mark.parametrize(("when", "time"), [(0.0, 0), (0.33, 350), (350, 350), (1, 50), (0.999, 1000)])
def test_a_fixed_time(when, time):
    table = timetable(when)
    assert first_time(table, TIMES) == time and table.decided_by == "fixed"


def test_times_are_shares_of_a_loop_that_counts_nothing():
    table = timetable(0.3, length=1.0)
    assert first_time(table, [0.1, 0.2, 0.3, 0.4]) == 0.3


@pytest.mark.parametrize("time", [1.5, -1, True, float("nan"), None])
def test_what_is_no_time_is_refused(time):
    with pytest.raises(PruningError, match="must be a float in"):
        timetable("lazy", latest=time)
    with pytest.raises(PruningError, match="must be a float in"):
        timetable(0.1, until=time)


def test_bounds_must_be_in_order():
    with pytest.raises(PruningError, match="earliest .600. is after latest .500."):
        timetable(earliest=0.6)
    for n_events in (2, 3):
        with pytest.raises(PruningError, match="until .200. is before when .300."):
            timetable(300, until=200, n_events=n_events)
    assert timetable(300, until=200).last == 200
    with pytest.raises(PruningError, match="when='soon' is not one of"):
        timetable("soon")


def test_gradual_events_lie_at_equal_distances():
    assert event_times(timetable(0.1, n_events=5, until=0.3), range(0, 1000, 10)) == [100, 150, 200, 250, 300]


def test_an_event_that_was_missed_is_made_up_for():
    """Rollouts are longer than the distance of two events: there is training between them all the same."""
    assert event_times(timetable(0.1, n_events=5, until=0.3), range(0, 1000, 100)) == [100, 200, 300, 400, 500]


def test_phases_that_were_missed_are_left_out():
    assert event_times(timetable(0.1, n_events=5, until=0.3, in_time=True), range(0, 1000, 100)) == [100, 200, 300]


def test_gradual_events_of_a_late_trigger_still_have_training_between_them():
    table = timetable(n_events=3, until=0.2, check_every=250)  # fires at latest, after until
    assert event_times(table, range(0, 1300, 50)) == [500, 750, 1000]


def test_nothing_before_there_is_data():
    assert first_time(timetable(0.1, data_from=250), TIMES) == 250
    table = timetable(fires=[True] * 20, data_from=250)
    assert first_time(table, TIMES) == 250 and table.decided_by == "earliest"
    assert first_time(timetable(data_from=700), TIMES) == 700


def test_proposals_of_what_is_not_trained_yet_do_not_count():
    table = timetable("epi", data_from=500, untrained_until=500, latest=1.0)
    fired = next(now for now in range(0, 1000, 10) if table.begins(now, lambda: {"layer": 4}))
    assert (fired, table.decided_by) == (610, "epi")  # five proposals, five values, and the one


def test_checks_lie_at_equal_distances_however_often_one_asks():
    asked = []
    table = timetable("epi", latest=1.0, check_every=100)
    for now in range(0, 1000, 10):
        table.begins(now, lambda: asked.append(1) or {"layer": len(asked)})
    assert len(asked) == 10


def test_a_later_part_of_a_run_goes_on_with_what_has_been_seen():
    """The trigger's fires and the interval are the run's; bounds are shares of the length of the part."""
    first = timetable("epi", n_events=3, length=100_000)
    assert first_time(first, range(500, 3000, 500)) is None
    later = timetable("epi", n_events=3, length=200_000)
    later.load_state_dict(first.state_dict())
    assert later.every == first.every == 500
    assert (later.begun, later.earliest, later.latest) == (None, 20_000, 100_000)
    first.begins(60_000, lambda: {"layer": 4})
    again = timetable("epi", n_events=3, length=200_000)
    again.load_state_dict(first.state_dict())
    assert (again.begun, again.decided_by) == (60_000, "latest") and "trigger" not in again.state_dict()
    fixed = timetable(0.3, length=200_000)
    fixed.load_state_dict(timetable(0.3, length=100_000).state_dict())
    assert fixed.first == 60_000


def test_a_failed_event_is_tried_again_until_its_deadline():
    assert timetable(0.2).deadline() == 500  # latest
    assert timetable(0.7).deadline() == 1000  # it was meant for later than latest
    table = timetable(0.2, n_events=3)
    table.n_done = 1
    assert table.deadline() == 1000


def test_at_the_end_all_that_is_left_happens_at_once():
    table = timetable(0.5, n_events=4, until=0.9)
    table.end()
    assert table.begins(300, dict) and table.due(300) and (table.event, table.decided_by) == (3, "end")
    assert table.share(300) == 1.0
