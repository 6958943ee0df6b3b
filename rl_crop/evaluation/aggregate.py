"""What a study says: by environment first, and together over those environments that tell the arms apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium
import numpy as np

from rl_crop.evaluation.results import DENSE, Results, pd
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
    scores: "pd.Series"
    runs: "pd.DataFrame"
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


def summarise(results: Results, task: str, arm: str, sparsity: str) -> ArmSummary:
    """:return: an arm at a sparsity in one environment"""
    values = results.scores(task, arm, sparsity)
    scaled = results.normalised(task, values)
    many = len(values) > 1
    return ArmSummary(
        task, arm, sparsity, values, results.of(task, arm, sparsity),
        iqm=interquartile_mean(values),
        interval=bootstrap_interval(values) if many else None,
        normalised=None if scaled is None else interquartile_mean(scaled),
        normalised_interval=bootstrap_interval(scaled) if many and scaled is not None else None,
        margin=_margin(results, task),
    )  # fmt: skip


def summaries(results: Results, task: str) -> list[ArmSummary]:
    """:return: every arm and sparsity of a task"""
    return [summarise(results, task, arm, sparsity) for arm, sparsity in results.groups(task)]


def sparsities(results: Results, task: str | None = None) -> list[str]:
    """:return: the sparsities of the pruned arms of a task, or of all tasks"""
    groups = {group for one in results.tasks if task in (None, one) for group in results.groups(one)}
    return sorted({sparsity for arm, sparsity in groups if arm != DENSE})


def improvement(results: Results, tasks: Sequence[str], sparsity: str, arm: str, rival: str) -> Improvement | None:
    """:return: the comparison of two arms in some environments; ``None`` where one of these lacks a seed that both have"""
    pairs = []
    for task in tasks:
        ours, theirs = results.scores(task, arm, "0" if arm == DENSE else sparsity), results.scores(task, rival, sparsity)
        paired = pd.concat([ours, theirs], axis="columns", join="inner")  # by seed
        if paired.empty:
            return None
        pairs.append((paired.iloc[:, 0].to_numpy(), paired.iloc[:, 1].to_numpy()))
    if not pairs:
        return None
    signs = np.concatenate([np.sign(ours - theirs) for ours, theirs in pairs])
    return Improvement(
        tuple(tasks), sparsity, arm, rival,
        probability=float(np.mean([probability_of_improvement(*pair) for pair in pairs])),
        interval=improvement_interval(pairs) if max(len(ours) for ours, _ in pairs) > 1 else None,
        wins=int((signs > 0).sum()), ties=int((signs == 0).sum()), losses=int((signs < 0).sum()),
    )  # fmt: skip


def improvements(results: Results, tasks: Sequence[str], sparsity: str) -> list[Improvement]:
    """:return: every arm against every rival in some environments, as far as they can be compared"""
    arms = arms_of(results, tasks, sparsity)
    rivals = [*(arm for arm in arms if arm.startswith(SMALL)), *OTHERS]
    found = [improvement(results, tasks, sparsity, arm, rival) for rival in rivals for arm in arms if arm != rival]
    return [comparison for comparison in found if comparison is not None]


def arms_of(results: Results, tasks: Sequence[str], sparsity: str) -> list[str]:
    """:return: the arms that have a result at a sparsity in one of some environments, the dense one included"""
    groups = {group for task in tasks for group in results.groups(task)}
    return sorted({arm for arm, other in groups if other == sparsity or arm == DENSE}, key=lambda arm: (arm != DENSE, arm))


def separation(results: Results, task: str, sparsity: str) -> Separation:
    """
    Judge whether an environment tells the arms apart: it does where ``random`` or ``dense_small`` stays below the dense arm
    by more than its interval, and not where most runs end at the same highest return.

    :return: the judgement and its reason
    """
    groups = [group for group in results.groups(task) if group[0] == DENSE or group[1] == sparsity]
    finals = [value for group in groups for value in results.scores(task, *group)]
    if not finals:
        return Separation(task, sparsity, False, "no run at this sparsity, and none of dense")
    at_top = float(np.mean(np.isclose(finals, max(finals))))
    if len(finals) > 1 and at_top > 0.5:
        return Separation(task, sparsity, False, f"saturated: {share(at_top)} of the runs end at {max(finals):.4g}")
    dense = results.scores(task, DENSE, "0")
    references = {arm: results.scores(task, arm, sparsity) for arm in ("random", SMALL)}
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


def overall(results: Results, tasks: Sequence[str], sparsity: str) -> tuple[list[Overall], list[str]]:
    """
    Every arm over the environments that separate the arms.

    :return: the arms with runs in all of them; what was left out, and why
    """
    found, left_out = [], []
    usable = [task for task in tasks if results.scale[task] is not None]
    left_out += [f"{task}: no scale; measure a random policy and the dense arm" for task in tasks if task not in usable]
    for arm in arms_of(results, usable, sparsity):
        level = "0" if arm == DENSE else sparsity
        values = {task: results.scores(task, arm, level) for task in usable}
        absent = [task for task, of_task in values.items() if of_task.empty]
        if absent:
            left_out.append(f"{arm}: no run in {', '.join(absent)}")
            continue
        scaled = {task: results.normalised(task, of_task) or [] for task, of_task in values.items()}
        iqm = interquartile_mean(np.concatenate(list(scaled.values())))
        margin = max(_margin(results, task) for task in usable)
        found.append(Overall(arm, level, scaled, iqm, stratified_interval(list(scaled.values())), margin))
    return found, left_out


def _margin(results: Results, task: str) -> float:
    # Seeds of one arm differ by hundreds on MuJoCo.
    runs = results.runs
    env = runs.loc[runs["task"] == task, "env"].iloc[0]
    spec = gymnasium.registry.get(env)
    return 0.90 if spec is not None and "mujoco" in str(spec.entry_point) else 0.95
