"""Whether an agent has learnt anything yet: returns of training episodes, now and at the beginning."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from rl_crop.core.recipes.timetable import Limits

EPISODES = 5
"""Episodes at the beginning, and latest ones, that are compared."""
UNLEARNT_UNTIL = 0.6
"""Share of the run after which a size is found in any case."""
ERRORS = 3.0
"""Standard errors of the difference by which returns must have moved."""


class Progress:
    """
    Compares the latest returns of training episodes with the first ones (``Monitor`` reports them).

    A network that has learnt nothing yet computes little, and needs few units: a size that is found then is that of what it
    does not know. (rl_crop's own.)
    """

    def __init__(self) -> None:
        self.first: list[float] = []
        self.latest: deque[float] = deque(maxlen=EPISODES)

    def look(self, infos: Iterable[Mapping[str, Any]]) -> None:
        """:param infos: of one step, by environment."""
        for info in infos:
            if "episode" in info:
                value = float(info["episode"]["r"])
                if len(self.first) < EPISODES:
                    self.first.append(value)
                else:
                    self.latest.append(value)

    @property
    def moved(self) -> bool:
        """Whether returns are no longer those of the beginning."""
        if len(self.latest) < EPISODES:
            return False
        first, latest = np.array(self.first), np.array(self.latest)
        error = np.sqrt((first.var(ddof=1) + latest.var(ddof=1)) / EPISODES)
        return bool(abs(latest.mean() - first.mean()) > ERRORS * error)

    @property
    def seen(self) -> dict[str, list[float]]:
        """What a resumed run has to know."""
        return {"first": list(self.first), "latest": list(self.latest)}

    def go_on(self, seen: Mapping[str, Iterable[float]]) -> None:
        """:param seen: by an earlier part of the run."""
        self.first, self.latest = list(seen.get("first", ())), deque(seen.get("latest", ()), maxlen=EPISODES)


def until_learnt(limits: Limits, progress: Progress) -> Limits:
    """:return: the limits of a run in which a size is found once returns have moved."""
    until = limits.time("unlearnt_until", UNLEARNT_UNTIL)
    return replace(limits, learnt=lambda: progress.moved, unlearnt_until=until)
