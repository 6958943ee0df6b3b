"""How much to cut, when asked: the sparsities of the events of a run, and of the steps within one event."""

from rl_crop.core.errors import PruningError

SCHEDULES = ("one_shot", "iterative", "gradual")


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


def inner_sparsities(sparsity: float, inner: str, n_steps: int) -> list[float]:
    """
    :param sparsity: of one event.
    :param inner: ``"none"``, ``"halving"`` (:func:`halving_sparsities`) or ``"exponential"`` (:func:`gradual_sparsities`, as
        FORCE and SynFlow step).
    :param n_steps: of ``"exponential"``.
    :return: the sparsities of its steps, ending at exactly ``sparsity``.
    """
    if inner == "halving":
        return halving_sparsities(sparsity)
    return gradual_sparsities(sparsity, n_steps) if inner == "exponential" else [sparsity]


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


def scheduled_sparsity(schedule: str, sparsity: float, x: float, n_events: int, n_phases: int, start: float) -> float:
    """
    :param schedule: ``"once"``, ``"gradual"``, ``"cubic"``, ``"alternating"`` or ``"constant"``.
    :param sparsity: to end with.
    :param x: how much of the schedule has passed, in [0, 1].
    :param n_events: of ``"gradual"``.
    :param n_phases: of ``"alternating"``.
    :param start: of ``"cubic"``.
    :return: the share of the original that is gone, or masked, at this time.
    """
    if schedule == "gradual":
        return gradual_sparsities(sparsity, n_events)[min(int(x * (n_events - 1) + 1e-9), n_events - 1)]
    if schedule == "cubic":
        return cubic_sparsity(sparsity, start, x)
    return alternating_sparsity(sparsity, x, n_phases) if schedule == "alternating" else sparsity


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
