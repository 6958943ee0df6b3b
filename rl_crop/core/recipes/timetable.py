"""When the events of a run come: at fixed times, or when a trigger fires between bounds."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rl_crop.core.errors import PruningError
from rl_crop.core.recipes.triggers import TRIGGERS, Propose, Trigger, TriggerOptions

CHECKS = 200
"""Checks of a trigger in a run, at most."""


@dataclass(frozen=True)
class Limits:
    """
    What the loop that trains says of its own time. Times are in its own unit (timesteps of an agent; shares of the run).

    :param length: where the run ends.
    :param data_from: before, there is nothing to score on.
    :param untrained_until: up to this time nothing has been trained, so that a trigger has nothing to look at.
    :param check_every: least time between two checks of a trigger.
    :param steps_between: optimizer steps between two moves of masks, at least.
    :param running: whether the loop still goes on; what acts at optimizer steps does so only then.
    :param learnt: whether anything has been learnt that a size could be found for; a trigger waits for it,
    :param unlearnt_until: but no longer than until this time.
    """

    length: float = 1.0
    data_from: float = 0.0
    untrained_until: float = 0.0
    check_every: float = 0.0
    steps_between: int = 1
    running: Callable[[], bool] = lambda: True
    learnt: Callable[[], bool] = lambda: True
    unlearnt_until: float = 0.0

    def time(self, name: str, time: Any) -> float:
        """
        :param name: of an argument, for errors.
        :param time: a float in [0, 1], a share of the run, or an int of at least 0, in the loop's own unit.
        :return: in the loop's own unit.
        :raises PruningError: it is neither.
        """
        number = isinstance(time, (int, float)) and not isinstance(time, bool) and math.isfinite(time)
        if not number or time < 0 or (isinstance(time, float) and time > 1):
            raise PruningError(
                f"{name}={time!r} must be a float in [0, 1] (a share of the run) or an int (timesteps of an agent)."
            )
        if isinstance(time, int):
            return time
        return round(time * self.length) if isinstance(self.length, int) else time * self.length


class Timetable:
    """
    The times of one or several events.

    :param when: the name of a trigger, or a time (see :meth:`Limits.time`).
    :param until: when the last of several events comes, or what moves comes to rest.
    :param n_events: number of events; 1 where masks move all the time, from the first time until ``until``.
    :param in_time: whether an event whose time has passed is left out for the next one.
    :param options: bounds of a trigger.
    :param limits: of the loop.
    :raises PruningError: a time is none, or bounds contradict each other.
    """

    def __init__(
        self,
        when: str | float,
        until: float,
        n_events: int = 1,
        in_time: bool = False,
        options: TriggerOptions = TriggerOptions(),  # noqa: B008
        limits: Limits = Limits(),  # noqa: B008
    ) -> None:
        self.limits, self.n_events, self.in_time = limits, n_events, in_time
        self.rule = when if isinstance(when, str) else "fixed"
        if isinstance(when, str) and when not in TRIGGERS:
            raise PruningError(f"when={when!r} is not one of {list(TRIGGERS)}, nor a time.")
        earliest, latest = limits.time("earliest", options.earliest), limits.time("latest", options.latest)
        if earliest > latest:
            raise PruningError(f"earliest ({earliest:,}) is after latest ({latest:,}).")
        self.earliest, self.latest = max(earliest, limits.data_from), max(latest, limits.data_from)
        self.first = None if isinstance(when, str) else limits.time("when", when)
        self.last = limits.time("until", until)
        if n_events > 1 and self.first is not None and self.last < self.first:
            raise PruningError(f"until ({self.last:,}) is before when ({self.first:,}).")
        self.every = max(limits.length / CHECKS, limits.check_every)
        self.trigger: Trigger | None = None
        self.begun: float | None = None
        self.n_done = 0
        self.decided_by = "fixed"
        self.at_end = False
        self._next_check = 0.0
        self._fired_early = False

    @property
    def event(self) -> int:
        """Number of the next event; the last one where the run ends."""
        return self.n_events - 1 if self.at_end else self.n_done

    def begins(self, now: float, propose: Propose) -> bool:
        """
        Whether pruning has begun, or begins now.

        :param now: the time.
        :param propose: what a trigger may compare.
        """
        if self.begun is not None:
            return True
        if self.at_end:
            decided_by: str | None = "end"
        elif self.first is not None:
            decided_by = "fixed" if now >= max(self.first, self.limits.data_from) else None
        else:
            decided_by = self._decided(now, propose)
        if decided_by is not None:
            self.begun, self.decided_by = now, decided_by
        return decided_by is not None

    def _decided(self, now: float, propose: Propose) -> str | None:
        assert self.trigger is not None
        fires = False
        if now >= self._next_check - 1e-9 and now > self.limits.untrained_until:  # the trigger compares equal intervals
            self._next_check = now + self.every
            fires = self.trigger.look(propose)
        early = now < self.earliest or (not fires and now < self.latest)
        if early or (now < self.limits.unlearnt_until and not self.limits.learnt()):
            self._fired_early = fires
            return None
        return "latest" if not fires else "earliest" if self._fired_early else self.rule

    def due(self, now: float) -> bool:
        """:return: whether the next event is due, of a run in which pruning has begun."""
        assert self.begun is not None
        if self.at_end:
            return True
        gap = (self.last - self.begun) / max(self.n_events - 1, 1)
        if gap <= 0:  # the trigger has fired after ``until``: training goes on between the events all the same
            gap = self.every
        if self.in_time:
            self.n_done = max(self.n_done, min(int((now - self.begun) / gap + 1e-9), self.n_events - 1))
        return now >= self.begun + gap * self.n_done - 1e-9

    def share(self, now: float) -> float:
        """:return: how much has passed of the time from the beginning until ``until``, in [0, 1]."""
        assert self.begun is not None
        if self.at_end or now >= max(self.last, self.begun):
            return 1.0
        return (now - self.begun) / (self.last - self.begun)

    def deadline(self) -> float:
        """:return: until when a failed event can be tried again: the latest time, or the end where it was meant for later."""
        later = self.n_done > 0 or (self.first is not None and self.first > self.latest)
        return self.limits.length if later else max(self.latest, self.limits.unlearnt_until)

    def readings(self) -> dict[str, float]:
        """:return: what the trigger sees, for a log."""
        return {} if self.trigger is None else self.trigger.readings()

    def end(self) -> None:
        """Training ends: what is left happens at once."""
        self.at_end = True

    _STATE = ("begun", "n_done", "decided_by", "every", "_next_check", "_fired_early")

    def state_dict(self) -> dict[str, Any]:
        """
        :return: what a later part of the run has to know: plain values, and tensors where a trigger still watches weights.
            Times given in the arguments are not in it: they follow from the length of that part.
        """
        state: dict[str, Any] = {name.lstrip("_"): getattr(self, name) for name in self._STATE}
        return state | ({"trigger": self.trigger.state_dict()} if self.trigger is not None and self.begun is None else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Go on from the state of an earlier part of the run, under the same rule.

        :param state: its :meth:`state_dict`.
        :raises PruningError: a trigger watched other networks or shapes; nothing was changed.
        """
        if "trigger" in state and self.trigger is not None:
            self.trigger.load_state_dict(state["trigger"])
        for name in self._STATE:
            setattr(self, name, state[name.lstrip("_")])
