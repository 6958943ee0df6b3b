"""When the events of a run come: fixed times, or a trigger between bounds."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.pruning.plan import PruningPlan
from rl_crop.core.pruning.schedules import gradual_sparsities, relative_sparsity
from rl_crop.core.pruning.settings import Target
from rl_crop.core.recipes.triggers import (
    SETTLED,
    DistanceTrigger,
    EarlyPruningIndicator,
    LazyTrigger,
    check_kappa,
    weight_trigger,
)

TRIGGERS = ("lazy", "epi", "distance", "distance_released")
CHECKS = 200
"""Checks of an off-policy run; an on-policy run is checked after every rollout."""
MIN_INTERVAL = 250


def structure(plan: PruningPlan) -> dict[str, int]:
    """:return: what a plan keeps of every layer it was to choose from: outputs, or weights."""
    return {name: int(kept.sum()) if kept.dtype == bool else len(kept) for name, kept in plan.keep.items()}


class Timetable:
    """
    The times of one or several events.

    :param when: the name of a trigger, a share of the budget (float in [0, 1)) or timesteps (int of at least 1).
    :param until: time of the last of several events.
    :param earliest: no event before.
    :param latest: a trigger fires at this time at the latest.
    :param n_events: number of events.
    :param budget: timesteps at which training ends.
    :param not_before: there is no data before this time; bounds that lie earlier are moved to it.
    :param kappa: what a network's step has to stay below where ``when`` is ``"lazy"``.
    :param past: events that have happened already, as they are recorded in ``model.pruning_history``.
    :raises PruningError: a time is none of these.
    """

    def __init__(
        self,
        when: str | float,
        until: float,
        earliest: float,
        latest: float,
        n_events: int,
        budget: int,
        not_before: int = 0,
        past: Sequence[Mapping[str, Any]] = (),
        kappa: float = SETTLED,
    ) -> None:
        self.kappa = check_kappa(kappa)  # also where a fixed time needs none: a typing error is said at the start
        self.n_events, self.budget, self.not_before = n_events, budget, not_before
        self.rule = when if isinstance(when, str) else "fixed"
        if isinstance(when, str) and when not in TRIGGERS:
            raise PruningError(f"when={when!r} is not one of {list(TRIGGERS)}, a share of the budget or timesteps.")
        self.earliest, self.latest = self.steps("earliest", earliest), self.steps("latest", latest)
        if self.earliest > self.latest:
            raise PruningError(f"earliest ({self.earliest:,} steps) is after latest ({self.latest:,} steps).")
        self.earliest, self.latest = max(self.earliest, not_before), max(self.latest, not_before)
        self.first: int | None = None if isinstance(when, str) else self.steps("when", when)
        if isinstance(when, float) and when >= 1:
            raise PruningError(f"when={when!r} must be below 1: a float is a share of the budget; timesteps are an int.")
        self.last = self.steps("until", until)
        if n_events > 1 and self.first is not None and self.last < self.first:
            raise PruningError(f"until ({self.last:,} steps) is before when ({self.first:,} steps).")
        self.n_done = max((event["event"] + 1 for event in past), default=0)
        self.decided_by = "fixed"
        if past and self.first is None:  # the trigger has fired in an earlier part of the run
            self.first, self.decided_by = past[0]["timesteps"], past[-1]["decided_by"]
        self._every = max(MIN_INTERVAL, budget // CHECKS)
        self._given_up = False
        self._settled_early = False
        self._at_end = False
        self._weights: LazyTrigger | DistanceTrigger | None = None
        self._indicator = EarlyPruningIndicator()

    def steps(self, name: str, time: float) -> int:
        """:return: a time in timesteps: a float in [0, 1] is a share of the budget, an int is timesteps."""
        number = isinstance(time, (int, float)) and not isinstance(time, bool) and math.isfinite(time)
        if not number or time < 0 or (isinstance(time, float) and time > 1):
            raise PruningError(
                f"{name}={time!r} must be a float in [0, 1) (a share of the training budget) or an int (timesteps)."
            )
        return time if isinstance(time, int) else round(time * self.budget)

    def watch(self, parameters: Mapping[str, Sequence[th.Tensor]], sparsity: Target = 0.9, structured: bool = True) -> None:
        """Start to watch these parameters, by network, where a trigger needs it; the rest is for distances."""
        if self.rule not in ("fixed", "epi") and self.first is None:
            self._weights = weight_trigger(self.rule, parameters, sparsity, structured, self.kappa)

    @property
    def finished(self) -> bool:
        """Whether no event is left."""
        return self._given_up or self.n_done >= self.n_events

    @property
    def event(self) -> int:
        """Number of the next event; the last one where training ends."""
        return self.n_events - 1 if self._at_end else self.n_done

    def interval(self, on_policy: bool) -> int:
        """:return: timesteps from one check to the next."""
        return 1 if on_policy else self._every

    def reached(self, now: int) -> bool:
        """:return: whether an event is due whatever the trigger says."""
        return now >= (self.latest if self.first is None else self._due())

    def check(self, now: int, propose: Callable[[], Mapping[str, int]], regular: bool = True) -> bool:
        """
        Whether an event is due.

        :param now: timesteps done.
        :param propose: the widths that pruning now would leave, by layer.
        :param regular: whether an interval has passed since the last regular check: the trigger compares equal intervals.
        """
        if self.first is None:
            fires = regular and self._fires(now, propose)
            if now < self.earliest or (not fires and now < self.latest):
                self._settled_early = fires
                return False
            self.first = now
            self.decided_by = "latest" if not fires else "earliest" if self._settled_early else self.rule
        return now >= self._due()

    def _fires(self, now: int, propose: Callable[[], Mapping[str, int]]) -> bool:
        if self._weights is not None:
            return self._weights.check()
        # Before there is data nothing is trained, and all proposals are the same.
        return now > self.not_before and self._indicator.check(propose())

    def _due(self) -> float:
        assert self.first is not None
        gap = (self.last - self.first) / max(self.n_events - 1, 1)
        if gap <= 0:  # a trigger has fired after ``until``: training goes on between the events all the same
            gap = self.interval(on_policy=False)
        return max(self.first + gap * self.n_done, self.not_before)

    def deadline(self) -> float:
        """:return: until when a failed event is tried again: ``latest``, or the end where it was meant for later."""
        later = self.n_done > 0 or (self.rule == "fixed" and self._due() > self.latest)
        return self.budget if later else self.latest

    def readings(self) -> dict[str, float]:
        """:return: what the trigger sees, for the log."""
        if self._weights is None:
            return {"epi": self._indicator.value} if self.rule == "epi" else {}
        values = {f"distance/{name}": value for name, value in self._weights.distance.items()}
        ratio = self._weights.ratio if isinstance(self._weights, LazyTrigger) else {}
        return values | {f"ratio/{name}": value for name, value in ratio.items()}

    def state_dict(self) -> dict[str, Any]:
        """
        :return: what a later part of the run has to know: plain numbers, strings and lists, and tensors where a trigger
            still watches weights. Times given in the arguments are not in it: they follow from the budget of that part.
        """
        names = ("first", "decided_by", "_every", "_given_up", "_settled_early")
        state: dict[str, Any] = {name.lstrip("_"): getattr(self, name) for name in names}
        if self.first is None:
            state["trigger"] = (self._indicator if self._weights is None else self._weights).state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Go on from the state of an earlier part of the run, under the same rule.

        :param state: its :meth:`state_dict`.
        :raises PruningError: a trigger watched other networks or shapes; nothing was changed.
        """
        if "trigger" in state and self.first is None:
            (self._indicator if self._weights is None else self._weights).load_state_dict(state["trigger"])
        if "trigger" not in state and self.rule != "fixed":
            self.first, self.decided_by = state["first"], state["decided_by"]
        self._every, self._given_up, self._settled_early = state["every"], state["given_up"], state["settled_early"]

    def done(self) -> None:
        """One event has happened."""
        self.n_done = self.event + 1

    def finish(self) -> None:
        """Training ends: what is left happens at once."""
        self._at_end = True
        self.decided_by = "end"

    def give_up(self) -> None:
        """No further event."""
        self._given_up = True

    def targets(self, event: int, given: Target, reached: Mapping[str, float], joint: bool) -> Target:
        """
        :param event: number of an event.
        :param given: sparsity, one number or by network.
        :param reached: share of the original that is gone; empty before the first event.
        :param joint: whether all networks have one budget, ``"total"``.
        :return: what the event removes of the networks as they are.
        """
        if isinstance(given, Mapping):
            return {name: self.share(event, share, reached.get(name, 0.0)) for name, share in given.items()}
        if joint or not reached:
            return self.share(event, given, reached.get("total", 0.0))
        return {name: self.share(event, given, share) for name, share in reached.items()}

    def share(self, event: int, sparsity: float, reached: float) -> float:
        """:return: what an event removes of the network as it is, given the share of the original that is gone."""
        target = gradual_sparsities(sparsity, self.n_events)[event]
        return relative_sparsity(target, reached) if reached < target else 0.0
