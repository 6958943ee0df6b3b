"""What a study says: by environment first, and together over those environments that tell the arms apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium
import numpy as np

from rl_crop.evaluation.results import Run
from rl_crop.evaluation.scores import DENSE, Scores
from rl_crop.evaluation.statistics import (
    bootstrap_interval,
    improvement_interval,
    interquartile_mean,
    probability_of_improvement,
    stratified_interval,
)
from rl_crop.evaluation.text import share

# What a method must beat: small networks from scratch (arms of this name, and longer ones that begin with it, which have the
# widths of another arm), any units, the usual criterion.
SMALL, OTHERS = "dense_small", ("random", "magnitude")
# Fewer seeds say too little to leave an environment out or to keep it.
MIN_SEEDS = 3
Interval = tuple[float, float]


@dataclass(frozen=True)
class ArmSummary:
    """
    One arm in one environment.

    :param task: its name
    :param arm: the arm's name
    :param sparsity: its sparsity
    :param scores: final returns by seed, failures included
    :param runs: the runs that ended
    :param iqm: the interquartile mean of the final returns
    :param interval: its 95 % interval; ``None`` for a single seed
    :param normalised: the interquartile mean on the scale of random 0 and dense 1; ``None`` without a scale
    :param normalised_interval: its 95 % interval
    :param margin: what the lower bound must exceed to be called non-inferior
    """

    task: str
    arm: str
    sparsity: str
    scores: dict[int, float]
    runs: list[Run]
    iqm: float
    interval: Interval | None
    normalised: float | None
    normalised_interval: Interval | None
    margin: float

    @property
    def non_inferior(self) -> bool | None:
        """Whether the arm is shown to be as good as dense; ``None`` where nothing can be said."""
        return None if self.normalised_interval is None else self.normalised_interval[0] > self.margin


@dataclass(frozen=True)
class Improvement:
    """
    One arm against a rival on the seeds that both have.

    :param tasks: the environments compared
    :param sparsity: of both; a dense arm has none
    :param arm: the arm's name
    :param rival: the rival's name
    :param probability: that a run of the arm beats one of the rival, ties as one half, averaged over environments
    :param interval: its 95 % interval; ``None`` where every environment has one seed
    :param wins: paired seeds on which the arm is better
    :param ties: paired seeds on which both are equal
    :param losses: paired seeds on which the rival is better
    """

    tasks: tuple[str, ...]
    sparsity: str
    arm: str
    rival: str
    probability: float
    interval: Interval | None
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Separation:
    """
    Whether an environment tells the arms apart at a sparsity.

    :param task: its name
    :param sparsity: the sparsity
    :param separates: whether it does
    :param reason: why, or why not
    """

    task: str
    sparsity: str
    separates: bool
    reason: str


def summarise(scores: Scores, task: str, arm: str, sparsity: str) -> ArmSummary:
    """
    :param scores: the study
    :param task: its name
    :param arm: the arm's name
    :param sparsity: its sparsity
    :return: the arm in that environment
    """
    by_seed = scores.of(task, arm, sparsity)
    values = list(by_seed.values())
    scaled = scores.normalised(task, values)
    many = len(values) > 1
    return ArmSummary(
        task, arm, sparsity, by_seed, scores.results.of(task, arm, sparsity),
        iqm=interquartile_mean(values),
        interval=bootstrap_interval(values) if many else None,
        normalised=None if scaled is None else interquartile_mean(scaled),
        normalised_interval=bootstrap_interval(scaled) if many and scaled is not None else None,
        margin=_margin(scores, task),
    )  # fmt: skip


def summaries(scores: Scores, task: str) -> list[ArmSummary]:
    """
    :param scores: the study
    :param task: its name
    :return: every arm and sparsity of the task
    """
    return [summarise(scores, task, arm, sparsity) for arm, sparsity in scores.results.groups(task)]


def sparsities(scores: Scores, task: str | None = None) -> list[str]:
    """
    :param scores: the study
    :param task: one of its tasks, by default all
    :return: the sparsities of the pruned arms there
    """
    groups = {group for one in scores.results.tasks if task in (None, one) for group in scores.results.groups(one)}
    return sorted({sparsity for arm, sparsity in groups if arm != DENSE})


def improvement(scores: Scores, tasks: Sequence[str], sparsity: str, arm: str, rival: str) -> Improvement | None:
    """
    :param scores: the study
    :param tasks: the environments to compare in
    :param sparsity: the sparsity
    :param arm: the arm's name
    :param rival: the rival's name
    :return: the comparison; ``None`` where an environment lacks a seed that both have
    """
    pairs = []
    for task in tasks:
        ours = scores.of(task, arm, "0" if arm == DENSE else sparsity)
        theirs = scores.of(task, rival, sparsity)
        seeds = [seed for seed in ours if seed in theirs]
        if not seeds:
            return None
        pairs.append((np.array([ours[seed] for seed in seeds]), np.array([theirs[seed] for seed in seeds])))
    if not pairs:
        return None
    signs = np.concatenate([np.sign(ours - theirs) for ours, theirs in pairs])
    return Improvement(
        tuple(tasks), sparsity, arm, rival,
        probability=float(np.mean([probability_of_improvement(*pair) for pair in pairs])),
        interval=improvement_interval(pairs) if max(len(ours) for ours, _ in pairs) > 1 else None,
        wins=int((signs > 0).sum()), ties=int((signs == 0).sum()), losses=int((signs < 0).sum()),
    )  # fmt: skip


def improvements(scores: Scores, tasks: Sequence[str], sparsity: str) -> list[Improvement]:
    """
    Every arm against every rival.

    :param scores: the study
    :param tasks: the environments to compare in
    :param sparsity: the sparsity
    :return: the comparisons that can be made
    """
    arms = arms_of(scores, tasks, sparsity)
    rivals = [*(arm for arm in arms if arm.startswith(SMALL)), *OTHERS]
    found = [improvement(scores, tasks, sparsity, arm, rival) for rival in rivals for arm in arms if arm != rival]
    return [comparison for comparison in found if comparison is not None]


def arms_of(scores: Scores, tasks: Sequence[str], sparsity: str) -> list[str]:
    """
    :param scores: the study
    :param tasks: the environments
    :param sparsity: the sparsity
    :return: the arms that have a result in one of them, the dense one included
    """
    groups = {group for task in tasks for group in scores.results.groups(task)}
    return sorted({arm for arm, other in groups if other == sparsity or arm == DENSE}, key=lambda arm: (arm != DENSE, arm))


def separation(scores: Scores, task: str, sparsity: str) -> Separation:
    """
    Judge whether an environment tells the arms apart: it does where ``random`` or ``dense_small`` stays below the dense arm
    by more than its interval, and not where most runs end at the same highest return.

    :param scores: the study
    :param task: its name
    :param sparsity: the sparsity
    :return: the judgement and its reason
    """
    groups = [group for group in scores.results.groups(task) if group[0] == DENSE or group[1] == sparsity]
    finals = [value for group in groups for value in scores.values(task, *group)]
    if not finals:
        return Separation(task, sparsity, False, "no run at this sparsity, and none of dense")
    at_top = float(np.mean(np.isclose(finals, max(finals))))
    if len(finals) > 1 and at_top > 0.5:
        return Separation(task, sparsity, False, f"saturated: {share(at_top)} of the runs end at {max(finals):.4g}")
    dense = scores.values(task, DENSE, "0")
    references = {arm: scores.values(task, arm, sparsity) for arm in ("random", SMALL)}
    references = {arm: values for arm, values in references.items() if len(values) >= MIN_SEEDS}
    if len(dense) < MIN_SEEDS or not references:
        return Separation(task, sparsity, False, f"fewer than {MIN_SEEDS} seeds of dense, or of both random and {SMALL}")
    top = interquartile_mean(dense)
    below = []
    for arm, values in references.items():
        high = bootstrap_interval(values)[1]
        if high < top:
            below.append(f"{arm} reaches {high:.4g} at most (upper bound), dense {top:.4g}")
    if below:
        return Separation(task, sparsity, True, "; ".join(below))
    return Separation(task, sparsity, False, f"{' and '.join(references)} reach dense within their intervals")


@dataclass(frozen=True)
class Overall:
    """
    One arm over several environments.

    :param arm: the arm's name
    :param sparsity: its sparsity
    :param scores: normalised scores by environment
    :param iqm: the interquartile mean of all of them
    :param interval: its stratified 95 % interval
    :param margin: what the lower bound must exceed to be called non-inferior
    """

    arm: str
    sparsity: str
    scores: dict[str, list[float]]
    iqm: float
    interval: Interval
    margin: float

    @property
    def non_inferior(self) -> bool:
        """Whether the arm is shown to be as good as dense."""
        return self.interval[0] > self.margin


def overall(scores: Scores, tasks: Sequence[str], sparsity: str) -> tuple[list[Overall], list[str]]:
    """
    Every arm over the environments that separate the arms.

    :param scores: the study
    :param tasks: these environments
    :param sparsity: the sparsity
    :return: the arms with runs in all of them; what was left out, and why
    """
    found, left_out = [], []
    usable = [task for task in tasks if scores.scale[task] is not None]
    left_out += [f"{task}: no scale; measure a random policy and the dense arm" for task in tasks if task not in usable]
    for arm in arms_of(scores, usable, sparsity):
        level = "0" if arm == DENSE else sparsity
        values = {task: scores.values(task, arm, level) for task in usable}
        absent = [task for task, of_task in values.items() if not of_task]
        if absent:
            left_out.append(f"{arm}: no run in {', '.join(absent)}")
            continue
        scaled = {task: scores.normalised(task, of_task) or [] for task, of_task in values.items()}
        iqm = interquartile_mean(np.concatenate(list(scaled.values())))
        margin = max(_margin(scores, task) for task in usable)
        found.append(Overall(arm, level, scaled, iqm, stratified_interval(list(scaled.values())), margin))
    return found, left_out


def _margin(scores: Scores, task: str) -> float:
    # Seeds of one arm differ by hundreds on MuJoCo.
    env = next(run.env for key, run in scores.results.runs.items() if key.task == task)
    spec = gymnasium.registry.get(env)
    return 0.90 if spec is not None and "mujoco" in str(spec.entry_point) else 0.95
