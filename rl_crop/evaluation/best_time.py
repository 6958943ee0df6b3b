"""The prune time found during training against the best fixed one, which is chosen on half the seeds, tested on the others."""

import json
from dataclasses import dataclass, field

from rl_crop.evaluation.aggregate import Interval
from rl_crop.evaluation.scores import Scores
from rl_crop.evaluation.statistics import (
    bootstrap_interval,
    improvement_interval,
    interquartile_mean,
    probability_of_improvement,
)

AUTOMATIC = ("lazy", "stable", "epi")
OF_TIME = ("when", "kappa", "earliest", "latest")
"""What arms that differ in the prune time alone differ in."""


@dataclass(frozen=True)
class TimeComparison:
    """
    An arm with an automatic prune time against the best of the arms that differ from it in the time alone.

    :param task: its name
    :param sparsity: the sparsity of all of them
    :param automatic: the arm that finds its time
    :param fixed: the arms with a fixed time
    :param chosen: the one that is best on the first half of the seeds
    :param chosen_on: these seeds
    :param tested_on: the others
    :param chosen_iqm: the interquartile mean of its final returns on the others
    :param automatic_iqm: that of the arm that finds its time, on the same seeds
    :param automatic_interval: its 95 % interval; ``None`` for a single seed
    :param probability: that a run with the time found beats one with the fixed time, on these seeds
    :param interval: its 95 % interval
    """

    task: str
    sparsity: str
    automatic: str
    fixed: tuple[str, ...]
    chosen: str
    chosen_on: tuple[int, ...]
    tested_on: tuple[int, ...]
    chosen_iqm: float
    automatic_iqm: float
    automatic_interval: Interval | None
    probability: float
    interval: Interval | None


@dataclass
class TimeFamily:
    """
    Arms that differ in the prune time alone.

    :param sparsity: the sparsity of all of them
    :param automatic: the arms that find their time
    :param fixed: the arms with a fixed time
    """

    sparsity: str
    automatic: list[str] = field(default_factory=list)
    fixed: list[str] = field(default_factory=list)

    @property
    def arms(self) -> list[str]:
        """All of them."""
        return [*self.automatic, *self.fixed]


def time_families(scores: Scores, task: str) -> list[TimeFamily]:
    """
    :param scores: the study
    :param task: its name
    :return: the arms cut at once, by what they have in common
    """
    families: dict[tuple[str, str], TimeFamily] = {}
    for arm, sparsity in scores.results.groups(task):
        runs = scores.results.of(task, arm, sparsity)
        pruning = runs[0].pruning if runs else None
        if pruning is None or pruning.get("schedule") == "gradual":
            continue
        same = json.dumps({key: value for key, value in pruning.items() if key not in OF_TIME}, sort_keys=True)
        family = families.setdefault((sparsity, same), TimeFamily(sparsity))
        (family.automatic if pruning.get("when", AUTOMATIC[0]) in AUTOMATIC else family.fixed).append(arm)
    return list(families.values())


def first_cuts(scores: Scores, task: str) -> set[float]:
    """
    :param scores: the study
    :param task: its name
    :return: when the arms of :func:`time_families` were cut, in whole hundredths of the run
    """
    cut_once = [(arm, family.sparsity) for family in time_families(scores, task) for arm in family.arms]
    return {round(run.cuts[0], 2) for group in cut_once for run in scores.results.of(task, *group) if run.cuts}


def compare_times(scores: Scores, task: str) -> list[TimeComparison]:
    """
    :param scores: the study
    :param task: its name
    :return: one comparison for each arm with an automatic time that has fixed ones beside it and two seeds in common
    """
    found = []
    for family in time_families(scores, task):
        for automatic in family.automatic if family.fixed else []:
            values = {arm: scores.of(task, arm, family.sparsity) for arm in (automatic, *family.fixed)}
            seeds = sorted(set.intersection(*(set(of_arm) for of_arm in values.values())))
            if len(seeds) > 1:
                found.append(_compare(task, family, automatic, values, seeds))
    return found


def _compare(
    task: str, family: TimeFamily, automatic: str, values: dict[str, dict[int, float]], seeds: list[int]
) -> TimeComparison:
    # Every other seed, so that seeds that are added later fall to both halves.
    choice, test = seeds[::2], seeds[1::2]
    chosen = max(family.fixed, key=lambda arm: interquartile_mean([values[arm][seed] for seed in choice]))
    ours, theirs = ([values[arm][seed] for seed in test] for arm in (automatic, chosen))
    many = len(test) > 1
    return TimeComparison(
        task, family.sparsity, automatic, tuple(family.fixed), chosen, tuple(choice), tuple(test),
        chosen_iqm=interquartile_mean(theirs),
        automatic_iqm=interquartile_mean(ours),
        automatic_interval=bootstrap_interval(ours) if many else None,
        probability=probability_of_improvement(ours, theirs),
        interval=improvement_interval([(ours, theirs)]) if many else None,
    )  # fmt: skip
