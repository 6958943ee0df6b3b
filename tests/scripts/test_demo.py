"""What the demonstration says in its last lines follows from the figures."""

import numpy as np
import pytest

from scripts.demo import DENSE, EARLY, SMALL, TRAINED, Row, against, verdict

RETURNS = np.random.default_rng(0).normal(-150, 80, 100)
NOISE = np.random.default_rng(1).normal(0, 1, 100)


def row(shift=0.0, seconds=10.0, n_params=1_000, held=4_000, n_bytes=2_000):
    return Row("8-8 / 8-8", n_params, n_bytes, held, list(RETURNS + shift + NOISE - NOISE.mean()), seconds)


DENSE_ROW = Row("8-8 / 8-8", 1_000, 2_000, 4_000, list(RETURNS), 10.0)


@pytest.mark.parametrize("shift, word", [(2.0, "ahead"), (-2.0, "behind"), (0.0, "level")])
def test_returns_are_compared_on_the_same_starts(shift, word):
    text, good = against(row(shift), DENSE_ROW)
    assert text.startswith(f"{word}, {shift:+.1f}") and good == (word != "behind")


def test_gains_are_won_and_losses_are_not():
    rows = {
        DENSE: DENSE_ROW, TRAINED: row(n_params=100, n_bytes=500), EARLY: row(-9, seconds=15, held=1_000),
        SMALL: row(seconds=2),
    }  # fmt: skip
    won, not_won = verdict(rows).split("NOT WON")
    assert "90% of the parameters gone" in won and "level" in won and "4.0 times smaller" in won
    assert "4.0 times less memory" in won and "MORE" not in won and "behind" not in won
    assert "50% MORE" in not_won and not_won.count("behind, -9.0") == 2 and "2 s" in not_won
