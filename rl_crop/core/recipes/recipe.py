"""A recipe: a pruning method as a choice in each of eight independent parts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any

from rl_crop.core.errors import PruningError
from rl_crop.core.importance.context import Criterion
from rl_crop.core.importance.criteria import BY_UNIT
from rl_crop.core.pruning.compensation import COMPENSATIONS
from rl_crop.core.pruning.settings import check_choices
from rl_crop.core.recipes.triggers import SETTLED

SCOPES = ("network", "layer", "er", "erk", "global")
SCHEDULES = ("once", "gradual", "cubic", "alternating", "constant")
INNER = ("none", "halving", "exponential")
WHEN = ("lazy", "distance", "distance_released", "epi")
FATES = ("removed", "zero", "revive", "shrink", "growing_l2")
MASKING = ("zero", "revive", "shrink")
REGROW = ("none", "gradient", "random")
PERTURBATIONS = ("none", "bridgeout", "gate_l1")
DRIVERS = ("single", "rounds", "population", "phases", "tick_tock", "meta", "learned_scores")
OF_UNITS = {
    "tick_tock": True, "meta": True, "phases": False, "learned_scores": False, "rounds": False, "population": False,
}  # fmt: skip
"""Whether a driver prunes units or single weights, where it cannot do both (what goes back to earlier weights must mask)."""
SCORES = {"tick_tock": "gates", "meta": "encoder", "learned_scores": "learned"}
"""Drivers that score by themselves, and what reports call their criterion."""

OPTIONS: dict[str, Any] = {
    "n_events": 4,  # events of schedule="gradual"
    "n_steps": 7,  # inner steps of inner="exponential"
    "n_phases": 5,  # sparse phases of schedule="alternating", the last one of which stays
    "every": 100,  # optimizer steps between two moves of masks, or changes of a penalty
    "start": 0.0,  # sparsity that schedule="cubic" begins with
    "start_scope": "network",  # scope of a random start
    "share": 0.3,  # of the kept weights that are dropped and regrown at first; falls by a cosine
    "share_end": 0.0,  # what it falls to
    "alpha": 0.95,  # what fate="shrink" multiplies losers by at every step
    "equal": 0.0,  # share of every weight's size that fate="growing_l2" takes before it chooses (GReg-2)
    "threshold": 0.983,  # of when="epi"
    "kappa": SETTLED,  # of when="lazy"
    "earliest": 0.0,  # share of the run before which a trigger does not fire
    "latest": 0.5,  # share of the run at which a trigger fires at the latest
    "shuffle": False,  # keep as many in each layer as the criterion says, chosen at random
    "n_batches": 8,  # scoring batches
    "min_units": 1,  # units that stay in every layer, or weights in every layer and output ranked with others
    "rate": 0.2,  # share of what is left that a round removes
    "rewind": 0.0,  # share of the run that later rounds go back to
    "n_candidates": 8,  # of driver="population"
    "trial": 0.1,  # share of the run that a candidate trains before it is judged
    "choosing": 0.2,  # share of the run in which gates or scores are trained to choose (tick_tock, learned_scores)
    "l1": 0.1,  # strength of perturbation="gate_l1"
    "groups": (),  # modules that driver="phases" prunes one after the other; the networks where empty
    "n_rounds": 20,  # of each phase
    "n_subsets": 16,  # batches that driver="meta" learns from
}
"""Options of the parts, with their defaults."""


@dataclass(frozen=True)
class Recipe:
    """
    A pruning method; all values are plain.

    :param criterion: which weights or units matter: a name in :data:`~rl_crop.core.importance.criteria.CRITERIA`, or a
        function; by default ``"crop"``, or what a driver in :data:`SCORES` scores by.
    :param structured: whether units are chosen, or single weights.
    :param scope: among whom: ``"network"``, ``"layer"``, ``"global"``; for weights also ``"er"`` and ``"erk"``.
    :param schedule: how much, when asked: ``"once"``; ``"gradual"`` (events, geometric); ``"cubic"``; ``"alternating"``
        (sparse and dense in turn); ``"constant"`` (as sparse as asked from the start).
    :param inner: steps within one event, scored anew at each: ``"none"``, ``"halving"``, ``"exponential"``.
    :param when: from when: a share of the run in [0, 1], or a trigger (``"lazy"``, ``"distance"``,
        ``"distance_released"``, ``"epi"``).
    :param until: the share of the run at which a schedule ends.
    :param fate: what becomes of the losers: ``"removed"``; ``"zero"`` for good; zero but they may ``"revive"``;
        ``"shrink"``; ``"growing_l2"``; or a class like those of :data:`~rl_crop.core.recipes.strategies.FATES`.
    :param regrow: what comes back: ``"none"``, ``"gradient"``, ``"random"``.
    :param perturbation: what else acts on weights while training: ``"none"``, ``"bridgeout"``, ``"gate_l1"``.
    :param driver: the outer loop: a name in :data:`~rl_crop.core.recipes.drivers.DRIVERS`, or a function like those.
    :param compensation: what repairs a cut of units.
    :param options: numbers of the parts, by name in :data:`OPTIONS`.
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
    fate: str | Callable[..., Any] = "removed"
    regrow: str = "none"
    perturbation: str = "none"
    driver: str | Callable[..., Any] = "single"
    compensation: str = "none"
    options: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    in_rl: str = ""

    def __post_init__(self) -> None:
        own = SCORES.get(self.driver) if isinstance(self.driver, str) else None
        if not self.criterion:
            object.__setattr__(self, "criterion", own or "crop")
        elif self.criterion != (own or self.criterion):
            raise PruningError(f"criterion={self.criterion!r}: driver={self.driver!r} scores by {own!r}, and takes no other.")
        choices = {
            "scope": SCOPES, "schedule": SCHEDULES, "inner": INNER, "fate": FATES, "regrow": REGROW,
            "perturbation": PERTURBATIONS, "driver": DRIVERS, "compensation": COMPENSATIONS,
        }  # fmt: skip
        named = {name: allowed for name, allowed in choices.items() if not callable(getattr(self, name))}
        check_choices({name: (getattr(self, name), allowed) for name, allowed in named.items()})
        if isinstance(self.when, str):
            check_choices({"when": (self.when, WHEN)})
        for name, time in {"when": self.when, "until": self.until}.items():
            if not isinstance(time, str) and (
                isinstance(time, bool) or not isinstance(time, Real) or not 0 <= float(time) <= 1
            ):
                raise PruningError(f"{name}={time!r} must be a share of the run in [0, 1].")
        if not isinstance(self.when, str) and self.schedule != "once" and self.until < self.when:
            raise PruningError(f"until={self.until} is before when={self.when}.")
        unknown = sorted(set(self.options) - set(OPTIONS))
        if unknown:
            raise PruningError(f"Unknown options {unknown}: there are {sorted(OPTIONS)}.")
        for wrong, why in self._contradictions().items():
            if why:
                raise PruningError(f"{wrong}: {why}")

    def _contradictions(self) -> dict[str, bool | str]:
        masks = self.fate in MASKING or self.regrow != "none"
        moving = self.schedule in ("cubic", "alternating", "constant") and self.fate in ("removed", *MASKING)
        units, gates = self.structured, self.perturbation == "gate_l1"
        of_units = OF_UNITS.get(self.driver, units) if isinstance(self.driver, str) else units
        goes_back = self.driver in ("rounds", "population") and self.fate not in ("zero", "revive")
        regrows, lasts = self.regrow != "none", self.schedule in ("cubic", "constant")
        return {
            "structured=True": units and (masks or moving) and "units only go for good: by fate='removed' or 'growing_l2'.",
            "structured=False": not units and self.fate == "removed" and "weights are masked: use fate='zero'.",
            f"scope={self.scope!r}": units and self.scope in ("er", "erk") and "these densities are of weights.",
            f"criterion={self.criterion!r}": not units and self.criterion in BY_UNIT and "it ranks whole units.",
            f"regrow={self.regrow!r}": regrows and not lasts and "it needs schedule='constant' or 'cubic'.",
            "fate='shrink'": self.fate == "shrink" and self.criterion != "magnitude" and "it needs criterion='magnitude'.",
            "perturbation='gate_l1'": gates and self.driver != "tick_tock" and "it needs driver='tick_tock'.",
            f"driver={self.driver!r}": of_units != units and f"it needs structured={not units}.",
            f"driver={self.driver!r} with fate={self.fate!r}": goes_back and "it goes back to earlier weights: use 'zero'.",
            "min_units": not units and isinstance(self.option("min_units"), float) and "of weights it must be an integer.",
            "when='epi'": self.when == "epi" and not units and "it compares counts of units.",
            "schedule='alternating'": self.schedule == "alternating" and self.fate != "revive" and "it needs fate='revive'.",
        }

    @property
    def described(self) -> dict[str, str]:
        """What it is made of by part, as text that is the same in every process."""
        values = {part.name: getattr(self, part.name) for part in fields(self) if part.name not in ("source", "in_rl")}
        return {part: value.__qualname__ if hasattr(value, "__qualname__") else str(value) for part, value in values.items()}

    def option(self, name: str) -> Any:
        """:return: an option's value: the recipe's own, or the default."""
        return self.options.get(name, OPTIONS[name])
