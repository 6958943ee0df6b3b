"""The trigger of a size that is found."""

import pytest

from rl_crop.core.recipes.stable_size import CHECKS_BETWEEN, StableSize
from rl_crop.core.recipes.triggers import TRIGGERS, Watched


def verdicts(trigger, proposals):
    """What it says after each search."""
    found = []
    for widths in proposals:
        for _ in range(CHECKS_BETWEEN):
            last = trigger.look(lambda widths=widths: {"first": widths[0], "second": widths[1]})
        found.append(last)
    return found


@pytest.mark.parametrize(
    ("proposals", "expected"),
    [
        ([(10, 10)], [False]),  # nothing to compare with
        ([(10, 10), (10, 10)], [False, True]),
        ([(2, 2), (10, 12), (20, 24), (21, 24)], [False, False, False, True]),  # it grows while anything is learnt
        ([(40, 40), (20, 20), (19, 20)], [False, False, True]),
        ([(10, 30), (30, 10)], [False, False]),  # as many units, elsewhere
        ([(100, 100), (112, 112)], [False, False]),  # similar, but grown
        ([(10, 10), (10, 10), (30, 30), (30, 30)], [False, True, False, True]),
    ],
)
def test_it_fires_when_two_sizes_running_agree(proposals, expected):
    assert verdicts(StableSize(), proposals) == expected


def test_between_two_searches_nothing_is_asked_and_the_verdict_stands():
    trigger, asked = StableSize(), []

    def propose():
        asked.append(1)
        return {"layer": 5}

    said = [trigger.look(propose) for _ in range(3 * CHECKS_BETWEEN)]
    assert len(asked) == 3 and said.index(True) == 2 * CHECKS_BETWEEN - 1 and all(said[2 * CHECKS_BETWEEN - 1 :])
    assert trigger.readings() == {"units": 5.0, "agreement": 1.0}


def test_it_goes_on_from_its_state():
    one, other = TRIGGERS["stable"](Watched({}, {})), StableSize()
    assert verdicts(one, [(8, 8)]) == [False] and one.readings()["units"] == 16
    state = one.state_dict()
    other.load_state_dict(state)
    one.widths["first"] = 100  # a state is a copy
    assert verdicts(other, [(8, 8)]) == [True]
