"""How much to cut, when asked: the sparsities of the events of a run, and of the steps within one event."""

from collections.abc import Callable
from dataclasses import dataclass

from rl_crop.core.errors import PruningError

MET = 1e-12
"""The share of a network of which nothing more has to go, though it may where another one has layers of the same width."""


@dataclass(frozen=True)
class ScheduleOptions:
    """
    Numbers of a schedule, and of the steps within an event.

    :param n_events: events of ``"gradual"``.
    :param n_phases: sparse phases of ``"alternating"``, the last one of which stays.
    :param start: sparsity that ``"cubic"`` begins with.
    :param reached: share of its time after which ``"cubic"`` is as sparse as asked; what regrows is exchanged until the end.
    :param n_steps: steps of ``inner="exponential"``.
    :param every: optimizer steps between two moves of masks, or changes of a penalty.
    """

    n_events: int = 4
    n_phases: int = 5
    start: float = 0.0
    reached: float = 1.0
    n_steps: int = 7
    every: int = 100

    def __post_init__(self) -> None:
        if not 0.0 < self.reached <= 1.0:
            raise PruningError(f"reached={self.reached!r} must be in (0, 1]: it is a share of the schedule's time.")


def gradual_sparsities(sparsity: float, n_events: int) -> list[float]:
    """
    The share of the original parameters that is gone after each of several events.

    What remains shrinks by the same factor each time; as parameters go with the square of the width, so do the widths.

    :param sparsity: the last one, in [0, 1).
    :param n_events: number of events.
    :return: increasing, ending at exactly ``sparsity``.
    """
    return [1.0 - (1.0 - sparsity) ** (event / n_events) for event in range(1, n_events)] + [sparsity]


def halving_sparsities(sparsity: float) -> list[float]:
    """
    The sparsities of the steps within one event: the rest to go is halved, and re-scored, at each (EarlyCroP).

    :param sparsity: the last one, in [0, 1).
    :return: increasing from 0.5 (half of ``sparsity`` where that is at most 0.5), ending at exactly ``sparsity``.
    """
    start = 0.5 if sparsity > 0.5 else sparsity / 2
    return [sparsity - (sparsity - start) * 0.5**step for step in range(6)] + [sparsity]


def cubic_sparsity(sparsity: float, start: float, x: float) -> float:
    """
    Fast at first, slow towards the end (GMP: "To prune, or not to prune", 2017).

    :param sparsity: at the end, x = 1.
    :param start: at the beginning, x = 0.
    :param x: how much of the schedule has passed.
    """
    return sparsity + (start - sparsity) * (1.0 - min(max(x, 0.0), 1.0)) ** 3


def alternating_sparsity(sparsity: float, x: float, n_phases: int) -> float:
    """
    Sparse and dense in turn, and sparse for good from x = 1 on (AC/DC, NeurIPS 2021).

    :param sparsity: of the sparse phases.
    :param x: how much of the schedule has passed.
    :param n_phases: number of sparse phases, the last one included; a dense one lies between each two.
    """
    phase = int(x * 2 * (n_phases - 1) + 1e-9)
    return sparsity if x >= 1.0 or phase % 2 == 0 else 0.0


@dataclass(frozen=True)
class Schedule:
    """
    How sparse a network is to be when a share of its schedule has passed.

    :param due: of (sparsity to end with, share x of the schedule that has passed, options): what is to be gone then.
    :param n_events: how many events it has, at equal distances; ``None`` where masks move all the time.
    :param in_time: whether an event whose time has passed is left out for the next one, or made up for.
    """

    due: Callable[[float, float, ScheduleOptions], float]
    n_events: Callable[[ScheduleOptions], int] | None = None
    in_time: bool = False


SCHEDULES: dict[str, Schedule] = {
    "once": Schedule(lambda sparsity, x, options: sparsity, lambda options: 1),
    "gradual": Schedule(
        lambda sparsity, x, options: gradual_sparsities(sparsity, options.n_events)[
            min(int(x * (options.n_events - 1) + 1e-9), options.n_events - 1)
        ],
        lambda options: options.n_events,
    ),
    "cubic": Schedule(lambda sparsity, x, options: cubic_sparsity(sparsity, options.start, x / options.reached)),
    "alternating": Schedule(
        lambda sparsity, x, options: alternating_sparsity(sparsity, x, options.n_phases),
        lambda options: 2 * options.n_phases - 1,
        in_time=True,
    ),
    "constant": Schedule(lambda sparsity, x, options: sparsity),
}
"""Schedules by name."""

INNER: dict[str, Callable[[float, ScheduleOptions], list[float]]] = {
    "none": lambda sparsity, options: [sparsity],
    "halving": lambda sparsity, options: halving_sparsities(sparsity),
    "exponential": lambda sparsity, options: gradual_sparsities(sparsity, options.n_steps),
}
"""The sparsities of the steps within one event, scored anew at each (FORCE and SynFlow step exponentially)."""


def relative_sparsity(target: float, reached: float) -> float:
    """
    What to remove of the network as it is now, so that ``target`` of the original is gone.

    :param target: share of the original.
    :param reached: share of the original that is gone already.
    :raises PruningError: more is gone already.
    """
    if reached > target:
        raise PruningError(f"sparsity {target:g} was asked for, but {reached:g} is gone already.")
    return 1.0 - (1.0 - target) / (1.0 - reached)
