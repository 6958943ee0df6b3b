"""An agent that falls behind after its cut is told of."""

import warnings

import pytest

import rl_crop
from rl_crop.sb3.guard import ReturnGuard
from tests.zoo.agents import SCORING, ppo


class Agent:
    def __init__(self, returns):
        self.ep_info_buffer = [{"r": value} for value in returns]


def watched(before, after, length=1000):
    guard = ReturnGuard(length)
    guard.begin(Agent(before))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step, value in enumerate(after):
            guard.look([{"episode": {"r": value}}, {}], 500 + 10 * step)
    return [str(warning.message) for warning in caught]


UP, DOWN = [100.0, 90.0] * 10, [40.0, 60.0] * 10


@pytest.mark.parametrize(
    ("before", "after", "n_warnings"),
    [
        (UP, DOWN, 1),  # once only
        (UP, UP, 0),
        (UP, DOWN[:15], 0),  # not for long enough
        (UP, [50.0] * 10 + [200.0] * 50, 0),  # it came back
        ([-100.0, -110.0] * 10, [-200.0] * 40, 1),
        ([-100.0, -110.0] * 10, [-50.0] * 40, 0),
        (UP[:4], DOWN, 0),  # too few to compare with
        ([], DOWN, 0),  # no monitor
        ([-500.0, 500.0] * 10, [-100.0] * 40, 0),  # within the noise
    ],
)
def test_it_warns_once_where_returns_stay_behind(before, after, n_warnings):
    said = watched(before, after)
    assert len(said) == n_warnings
    assert all("falls behind" in text and "tolerance=" in text for text in said)


def test_a_callback_has_a_guard(monkeypatch):
    monkeypatch.setattr("rl_crop.sb3.guard.EPISODES", 1)
    model = ppo().learn(256)
    for episode in model.ep_info_buffer:
        episode["r"] = 10_000.0
    callback = rl_crop.PruningCallback(0.5, criterion="magnitude", when=300, verbose=0, **SCORING)
    with pytest.warns(UserWarning, match="falls behind"):
        model.learn(800, reset_num_timesteps=False, callback=callback)
    assert model.pruning_history
