"""A recipe: a pruning method as a choice in each of eight independent parts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any, TypeVar

from rl_crop.core.errors import PruningError
from rl_crop.core.importance.context import Criterion
from rl_crop.core.importance.criteria import BY_UNIT, default_criterion, needs_data
from rl_crop.core.masking.distributions import ELEMENT_SCOPES
from rl_crop.core.masking.regrowth import REGROW
from rl_crop.core.pruning.allocation import SCOPES
from rl_crop.core.pruning.compensation import COMPENSATIONS
from rl_crop.core.pruning.schedules import INNER, SCHEDULES, Schedule, ScheduleOptions
from rl_crop.core.pruning.settings import check_choices, check_sparsity, is_auto
from rl_crop.core.recipes.perturbation import PERTURBATIONS
from rl_crop.core.recipes.strategies import STRATEGIES, Strategy, StrategyOptions
from rl_crop.core.recipes.triggers import TRIGGERS, TriggerOptions

T = TypeVar("T")


@dataclass(frozen=True)
class ScoringOptions:
    """
    Numbers of scoring and choosing.

    :param n_batches: scoring batches.
    :param min_units: units that stay in every layer, or weights in every layer and output ranked with others.
    :param shuffle: keep as many in each layer as the criterion says, chosen at random.
    """

    n_batches: int = 8
    min_units: float = 1
    shuffle: bool = False


@dataclass(frozen=True)
class DriverOptions:
    """
    Numbers of outer loops.

    :param rate: share of what is left that a round removes.
    :param rewind: share of the run that later rounds go back to.
    :param n_candidates: of ``"population"``.
    :param trial: share of the run that a candidate trains before it is judged.
    :param choosing: share of the run in which gates or scores are trained to choose (``"tick_tock"``, ``"learned_scores"``).
    :param l1: strength of ``perturbation="gate_l1"``.
    :param groups: modules that ``"phases"`` prunes one after the other; the networks where empty.
    :param n_rounds: of each phase.
    :param n_subsets: batches that ``"meta"`` learns from.
    """

    rate: float = 0.2
    rewind: float = 0.0
    n_candidates: int = 8
    trial: float = 0.1
    choosing: float = 0.2
    l1: float = 0.1
    groups: tuple[str, ...] = ()
    n_rounds: int = 20
    n_subsets: int = 16


OPTION_KINDS = (ScheduleOptions, TriggerOptions, StrategyOptions, ScoringOptions, DriverOptions)
OPTIONS: dict[str, Any] = {option.name: option.default for kind in OPTION_KINDS for option in fields(kind)}
"""Options of all parts, with their defaults; each is told of in the class of its part."""


@dataclass(frozen=True)
class Driver:
    """
    What is known of an outer loop before it is needed.

    :param module: of ``rl_crop.core.recipes``, where the function of the same name is.
    :param structured: whether it prunes units or single weights, where it cannot do both (what goes back to earlier weights
        must mask).
    :param scores: what reports call its criterion, where it scores by itself.
    :param goes_back: whether it goes back to earlier weights.
    """

    module: str
    structured: bool | None = None
    scores: str = ""
    goes_back: bool = False


DRIVERS: dict[str, Driver] = {
    "single": Driver("drivers"),
    "rounds": Driver("drivers", structured=False, goes_back=True),
    "population": Driver("drivers", structured=False, goes_back=True),
    "phases": Driver("systems.early_exits", structured=False),
    "tick_tock": Driver("systems.gate_decorators", structured=True, scores="gates"),
    "meta": Driver("systems.stamp", structured=True, scores="encoder"),
    "learned_scores": Driver("systems.hydra", structured=False, scores="learned"),
}
"""Outer loops by name."""


@dataclass(frozen=True)
class Recipe:
    """
    A pruning method; all values are plain.

    :param criterion: which weights or units matter: a name in :data:`~rl_crop.core.importance.criteria.CRITERIA`, or a
        function; by default what a driver scores by, ``"obs_crop"`` where a cut is refitted, else ``"crop"``.
    :param structured: whether units are chosen, or single weights.
    :param scope: among whom: ``"network"``, ``"layer"``, ``"global"``; for weights also ``"er"`` and ``"erk"``.
    :param schedule: how much, when asked: a name in :data:`~rl_crop.core.pruning.schedules.SCHEDULES`: ``"once"``;
        ``"gradual"`` (events, geometric); ``"cubic"``; ``"alternating"`` (sparse and dense in turn); ``"constant"`` (as sparse
        as asked from the start).
    :param inner: steps within one event, scored anew at each: ``"none"``, ``"halving"``, ``"exponential"``.
    :param when: from when: a name in :data:`~rl_crop.core.recipes.triggers.TRIGGERS`, a share of the run in [0, 1], or an int,
        in the time of the loop (timesteps of an agent).
    :param until: when a schedule ends; a share or an int likewise.
    :param strategy: what happens to losers: ``"removed"``; ``"zero"`` for good; zero but they may ``"revive"``;
        ``"shrink"``; ``"growing_l2"``; or a class like those of :data:`~rl_crop.core.recipes.strategies.STRATEGIES`.
    :param regrow: what comes back: ``"none"``, ``"gradient"``, ``"random"``.
    :param perturbation: what else acts on weights while training: ``"none"``, ``"bridgeout"``, ``"gate_l1"``.
    :param driver: the outer loop: a name in :data:`DRIVERS`, or a function like those.
    :param compensation: what repairs a cut of units.
    :param options: numbers of the parts, by name in :data:`OPTIONS`, where they are not the default.
    :param source: where the method comes from.
    :param in_rl: what is off in reinforcement learning.
    :raises PruningError: a value is none of these, or two of them contradict each other.
    """

    criterion: str | Criterion = ""
    structured: bool = True
    scope: str = "network"
    schedule: str = "once"
    inner: str = "none"
    when: str | float = 0.0
    until: float = 1.0
    strategy: str | type[Strategy] = "removed"
    regrow: str = "none"
    perturbation: str = "none"
    driver: str | Callable[..., Any] = "single"
    compensation: str = "none"
    options: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    in_rl: str = ""

    def __post_init__(self) -> None:
        own = DRIVERS[self.driver].scores if self.driver in DRIVERS else ""
        if not self.criterion:
            object.__setattr__(self, "criterion", own or default_criterion(self.structured, self.compensation))
        elif self.criterion != (own or self.criterion):
            raise PruningError(f"criterion={self.criterion!r}: driver={self.driver!r} scores by {own!r}, and takes no other.")
        choices: dict[str, Any] = {
            "scope": dict.fromkeys((*SCOPES, *ELEMENT_SCOPES)), "schedule": SCHEDULES, "inner": INNER, "strategy": STRATEGIES,
            "regrow": REGROW, "perturbation": PERTURBATIONS, "driver": DRIVERS, "compensation": COMPENSATIONS,
        }  # fmt: skip
        named = {name: allowed for name, allowed in choices.items() if not callable(getattr(self, name))}
        check_choices({name: (getattr(self, name), list(allowed)) for name, allowed in named.items()})
        if isinstance(self.when, str):
            check_choices({"when": (self.when, list(TRIGGERS))})
        for name, time in {"when": self.when, "until": self.until}.items():
            _check_time(name, time)
        times = isinstance(self.when, float) and isinstance(self.until, float)
        if times and self.schedule != "once" and self.until < self.when:  # type: ignore[operator]
            raise PruningError(f"until={self.until} is before when={self.when}.")
        unknown = sorted(set(self.options) - set(OPTIONS))
        if unknown:
            raise PruningError(f"Unknown options {unknown}: there are {sorted(OPTIONS)}.")
        for kind in OPTION_KINDS:
            self.of(kind)
        for wrong, why in self._contradictions().items():
            if why:
                raise PruningError(f"{wrong}: {why}")

    def _contradictions(self) -> dict[str, bool | str]:
        units, strategy, gates = self.structured, self.chosen_strategy, self.perturbation == "gate_l1"
        driver = DRIVERS.get(self.driver, Driver("")) if isinstance(self.driver, str) else Driver("")
        masks = (strategy.masks and self.strategy != "growing_l2") or self.regrow != "none"
        moving = self.schedule in ("cubic", "alternating", "constant") and self.strategy != "growing_l2"
        of_units = units if driver.structured is None else driver.structured
        goes_back = driver.goes_back and self.strategy not in ("zero", "revive")
        regrows, lasts = self.regrow != "none", self.schedule in ("cubic", "constant")
        shrinks = self.strategy == "shrink" and self.criterion != "magnitude"
        return {
            "structured=True": units
            and (masks or moving)
            and "units only go for good: by strategy='removed' or 'growing_l2'.",
            "structured=False": not units and not strategy.masks and "weights are masked: use strategy='zero'.",
            f"scope={self.scope!r}": units and self.scope not in SCOPES and "these densities are of weights.",
            f"scope={self.scope!r} ": not units and self.scope not in ELEMENT_SCOPES and "it ranks units.",
            f"criterion={self.criterion!r}": not units and self.criterion in BY_UNIT and "it ranks whole units.",
            f"regrow={self.regrow!r}": regrows and not lasts and "it needs schedule='constant' or 'cubic'.",
            "strategy='shrink'": shrinks and "it needs criterion='magnitude'.",
            "perturbation='gate_l1'": gates and self.driver != "tick_tock" and "it needs driver='tick_tock'.",
            f"driver={self.driver!r}": of_units != units and f"it needs structured={not units}.",
            f"driver={self.driver!r} with strategy={self.strategy!r}": goes_back
            and "it goes back to earlier weights: use 'zero'.",
            "min_units": not units
            and isinstance(self.of(ScoringOptions).min_units, float)
            and "of weights it must be an integer.",
            "schedule='alternating'": self.schedule == "alternating"
            and not strategy.revives
            and "it needs strategy='revive'.",
        }

    @property
    def described(self) -> dict[str, str]:
        """What it is made of by part, as text that is the same in every process."""
        values = {part.name: getattr(self, part.name) for part in fields(self) if part.name not in ("source", "in_rl")}
        return {part: value.__qualname__ if hasattr(value, "__qualname__") else str(value) for part, value in values.items()}

    @property
    def chosen_strategy(self) -> type[Strategy]:
        """The strategy's class."""
        return STRATEGIES[self.strategy] if isinstance(self.strategy, str) else self.strategy

    @property
    def chosen_schedule(self) -> Schedule:
        """The schedule."""
        return SCHEDULES[self.schedule]

    @property
    def n_events(self) -> int | None:
        """How many events it has; ``None`` where masks move, or weights shrink, all the time."""
        count = self.chosen_schedule.n_events
        return None if count is None or self.chosen_strategy.continuous else count(self.of(ScheduleOptions))

    def finds_size(self, sparsity: Any) -> bool:
        """
        :param sparsity: to end with: a share, one by network, ``"auto"``, or ``None``.
        :return: whether the size is to be found.
        :raises PruningError: it is none of these, or the recipe needs a number.
        """
        if sparsity is not None:
            check_sparsity(sparsity)
        if sparsity is not None and not is_auto(sparsity):
            return False
        if self.strategy != "removed":
            raise PruningError(f"strategy={self.strategy!r} needs a sparsity: only widths, of units that go, can be found.")
        if isinstance(self.when, str) and self.when.startswith("distance"):
            raise PruningError(f"when={self.when!r} compares with a sparsity: give one, or use 'lazy', 'epi' or a time.")
        return True

    @property
    def begins_without_data(self) -> bool:
        """Whether its first change looks at no scoring batches."""
        return not needs_data(self.criterion) and self.compensation == "none"

    def of(self, kind: type[T]) -> T:
        """:return: the options of one part, an instance of a class in :data:`OPTION_KINDS`."""
        names = {option.name for option in fields(kind)}  # type: ignore[arg-type]
        return kind(**{name: value for name, value in self.options.items() if name in names})


def _check_time(name: str, time: Any) -> None:
    number = isinstance(time, Real) and not isinstance(time, bool)
    if not isinstance(time, str) and (not number or time < 0 or (not isinstance(time, int) and time > 1)):
        raise PruningError(f"{name}={time!r} must be a share of the run in [0, 1], or an int in the loop's own time.")
