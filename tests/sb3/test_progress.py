"""A size is found once returns have moved away from those of the beginning."""

import pytest

import rl_crop
from rl_crop.sb3.progress import EPISODES, Progress
from tests.zoo.agents import ppo

FIRST, FLAT = [-1400.0, -1200.0, -1500.0, -1300.0, -1450.0], [-1250.0, -1500.0, -1350.0, -1400.0, -1300.0]


@pytest.mark.parametrize(
    ("later", "moved"),
    [
        ([], False),
        (FLAT, False),
        (FLAT * 5, False),
        (FLAT + [-300.0, -500.0, -200.0, -900.0, -150.0], True),
        ([-2500.0] * 5, True),  # worse is no longer the beginning either
        ([-300.0] * (EPISODES - 1), False),  # too few
    ],
)
def test_returns_move_or_not(later, moved):
    progress = Progress()
    for value in FIRST + later:
        progress.look([{}, {"episode": {"r": value}}])
    assert progress.moved is moved
    resumed = Progress()
    resumed.go_on(progress.seen)
    assert resumed.moved is moved and resumed.seen == progress.seen


@pytest.mark.parametrize(
    ("settings", "moved", "before", "after"),
    [
        ({}, False, 0.6, 0.7),  # in doubt, later
        ({}, True, 0.3, 0.4),
        ({"latest": 0.4}, False, 0.4, 0.5),  # who gives the time has it
        ({"sparsity": 0.5, "criterion": "magnitude"}, False, 0.3, 0.4),
    ],
)
def test_a_callback_waits_for_them_where_it_finds_the_size(monkeypatch, settings, moved, before, after):
    monkeypatch.setattr(Progress, "moved", moved)
    model = ppo(net_arch=[8])
    model.learn(640, callback=rl_crop.PruningCallback(verbose=0, n_batches=1, batch_size=32, **settings))
    [event] = model.pruning_history
    assert before * 640 <= event["timesteps"] < after * 640
