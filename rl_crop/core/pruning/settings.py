"""How units are chosen and what repairs the cut: the keywords of planning and pruning, checked."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any

from rl_crop.core.errors import PruningError
from rl_crop.core.given import listed
from rl_crop.core.importance.context import Criterion
from rl_crop.core.importance.criteria import BY_UNIT, default_criterion, resolve_criterion
from rl_crop.core.masking.distributions import ELEMENT_SCOPES
from rl_crop.core.pruning.allocation import BUDGETS, SCOPES
from rl_crop.core.pruning.compensation import COMPENSATIONS

AUTO = "auto"
Shares = float | Mapping[str, float]
"""A sparsity for every network, or one by network name."""
Target = Shares | str | Mapping[str, float | str]
"""The same; ``"auto"`` where a size is to be found."""


@dataclass(frozen=True)
class Settings:
    """
    How units are chosen and what repairs the cut; the keywords of every ``plan_...`` and ``prune_...`` function.

    :param criterion: a name in :data:`~rl_crop.core.importance.criteria.CRITERIA`, or a function of an ``ImportanceContext``;
        by default ``"obs_crop"`` (``"obs"`` where there is no loss); ``"crop"`` for masks, and where nothing is refitted.
    :param scope: ``"network"`` (one ranking a network), ``"layer"`` (the same share of units in every layer),
        ``"isomorphic"`` (rankings among layers of one kind and place, such as those inside residual blocks; each such class
        loses the same share of units) or ``"global"`` (one ranking and one budget over all networks); of weights also
        ``"er"`` and ``"erk"`` (densities by the shapes of a network's layers).
    :param budget: what ``sparsity`` is a share of: ``"params"``, ``"flops"`` or ``"units"``.
    :param structured: ``True`` removes units physically; ``False`` masks single weights of linear and convolution layers.
    :param compensation: ``"none"``, ``"bias"``, ``"least_squares"`` or ``"distill"``; masks are not compensated.
    :param ignore: modules left whole, by ``named_modules()`` name.
    :param min_units: units that stay in every layer: an integer, or a share in (0, 1), rounded down, of what ``scope="layer"``
        would leave there (of each cut, where several follow each other). Of weights ranked over several layers: those that
        every layer and every output of a network keep.
    :param seed: of everything random (0 where ``None``).
    :param max_params: instead of a sparsity, how many parameters may be left: of all that is trained, or by network.
    :param max_flops: the same in floating-point operations for one observation.
    :param round_to: widths are multiples of this; a budget or a share is still met, and so is the tolerance of ``"auto"``.
    :param tolerance: of ``sparsity="auto"``: the share of the variance of a network's outputs that may be left unexplained on
        held-out observations, one number or by network; 1e-3 where ``None``.
    """

    criterion: str | Criterion = ""
    scope: str = "network"
    budget: str = "params"
    structured: bool = True
    compensation: str = "least_squares"
    ignore: tuple[str, ...] = ()
    min_units: float = 1
    seed: int | None = None
    max_params: float | Mapping[str, float] | None = None
    max_flops: float | Mapping[str, float] | None = None
    round_to: int = 1
    tolerance: float | Mapping[str, float] | None = None
    criterion_given: bool = field(init=False, default=True, repr=False)

    def __post_init__(self) -> None:
        if self.criterion == "":
            object.__setattr__(self, "criterion", default_criterion(self.structured, self.compensation))
            object.__setattr__(self, "criterion_given", False)
        resolve_criterion(self.criterion)
        scopes = SCOPES if self.structured else ELEMENT_SCOPES
        choices = {"scope": scopes, "budget": BUDGETS, "compensation": COMPENSATIONS}
        check_choices({name: (getattr(self, name), allowed) for name, allowed in choices.items()})
        share = isinstance(self.min_units, float) and 0.0 < self.min_units < 1.0
        if not (share and self.structured) and (not _whole(self.min_units) or self.min_units < 1):
            also = ", or a share in (0, 1) of the units that equal shares would leave" if self.structured else ""
            raise PruningError(f"min_units={self.min_units!r} must be an integer of at least 1{also}.")
        check_counts({"round_to": self.round_to})
        check_tolerance(self.tolerance)
        if self.max_params is not None and self.max_flops is not None:
            raise PruningError("max_params and max_flops are two budgets: give one of them.")
        if self.seed is not None:
            if not _whole(self.seed) or not 0 <= self.seed < 2**63:
                raise PruningError(f"seed={self.seed!r} must be None or an integer of at least 0 and below 2**63.")
            object.__setattr__(self, "seed", int(self.seed))  # Python's generator refuses numpy's integers
        if not isinstance(self.structured, bool):
            raise PruningError(f"structured={self.structured!r} must be True (units are cut) or False (weights are masked).")
        object.__setattr__(self, "ignore", tuple(listed("ignore", self.ignore, str, "names of modules")))
        if not self.structured:
            if self.criterion in BY_UNIT:
                raise PruningError(f"criterion={self.criterion!r} ranks whole units: it needs structured=True.")
            if self.budget != "params":
                raise PruningError(f"budget={self.budget!r} counts what units cost: masks (structured=False) need 'params'.")
            if self.max_params is not None or self.max_flops is not None or self.round_to != 1:
                raise PruningError("max_params, max_flops and round_to are of units: masks (structured=False) take a share.")
            object.__setattr__(self, "compensation", "none")

    def in_shares(self) -> "Settings":
        """:return: the same for shares that a budget has been turned into."""
        if self.max_params is None and self.max_flops is None:
            return self
        return replace(self, max_params=None, max_flops=None, budget="params" if self.max_flops is None else "flops")

    @classmethod
    def check_names(cls, names: Iterable[str]) -> None:
        """:raises TypeError: one is no setting."""
        known = sorted(each.name for each in fields(cls) if each.init)
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise TypeError(f"Unknown arguments {unknown}; known settings are {known}.")

    @property
    def criterion_name(self) -> str:
        """The name for reports."""
        return self.criterion if isinstance(self.criterion, str) else getattr(self.criterion, "__name__", "custom")


def check_choices(choices: Mapping[str, tuple[Any, Sequence[str]]]) -> None:
    """
    :param choices: by argument, its value and the values it may have.
    :raises PruningError: one has another.
    """
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise PruningError(f"{name}={value!r} is not one of {list(allowed)}.")


def check_counts(counts: Mapping[str, Any]) -> None:
    """
    :param counts: arguments that are numbers of something.
    :raises PruningError: one is not an integer of at least 1.
    """
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise PruningError(f"{name}={value!r} must be an integer of at least 1.")


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def sparsity_by_network(sparsity: Any, names: list[str], scope: str) -> dict[str, Any]:
    """:return: the target of every named network; raises :class:`PruningError` for what is not in [0, 1)."""
    if isinstance(sparsity, Mapping):
        unknown = sorted(set(sparsity) - set(names))
        if unknown:
            raise PruningError(f"sparsity names {unknown}, but the networks with units are {names}.")
        if scope == "global":
            raise PruningError("scope='global' has one budget: give one sparsity, not one a network.")
    return dict(sparsity) if isinstance(sparsity, Mapping) else dict.fromkeys(names, sparsity)


def is_auto(sparsity: Any, throughout: bool = False) -> bool:
    """:return: whether a size is to be found, of one network at least, or of all (where none is given too)."""
    values = sparsity.values() if isinstance(sparsity, Mapping) else [sparsity]
    found = [isinstance(value, str) and value == AUTO or (throughout and value is None) for value in values]
    return all(found) if throughout else any(found)


def check_tolerance(tolerance: Any) -> None:
    """:raises PruningError: it is neither ``None`` nor a number in (0, 1), or a mapping from network to such numbers."""
    for name, value in (tolerance if isinstance(tolerance, Mapping) else {"": tolerance}).items():
        number = isinstance(value, Real) and not isinstance(value, bool)
        if value is not None and not (number and 0 < float(value) < 1):
            what = f"tolerance of {name}" if name else "tolerance"
            raise PruningError(f"{what} is {value!r}: it must be None or a number in (0, 1), such as 0.001 for 0.1 %.")


def check_sparsity(sparsity: Any) -> None:
    """:raises PruningError: it is neither a number in [0, 1), nor ``"auto"``, nor a mapping from network to such values."""
    for name, value in (sparsity if isinstance(sparsity, Mapping) else {"": sparsity}).items():
        if isinstance(value, str) and value == AUTO:
            continue
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < 1:
            what = f"sparsity of {name}" if name else "sparsity"
            raise PruningError(f"{what} is {value!r}: it must be a number in [0, 1), such as 0.9 for 90 %, or 'auto'.")


def check_names_any(sparsity: Any) -> None:
    """:raises PruningError: it is a mapping without a network."""
    if isinstance(sparsity, Mapping) and not sparsity:
        raise PruningError("sparsity={} names no network: give a number, or one by network, such as {'actor': 0.9}.")
