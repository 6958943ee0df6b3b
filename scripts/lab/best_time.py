"""The prune time found during training against the best fixed one, which is chosen on half the seeds, tested on the others.

Prints a table, and writes a picture of every environment where arms were cut at different times.

Example::

    python scripts/lab/best_time.py docs/results/fixed_times.jsonl.gz
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))  # where `plot` is

from plot import Args, folder_of, load_study_results
from rl_crop.evaluation.aggregate import Interval, sparsities, summarise
from rl_crop.evaluation.command import command
from rl_crop.evaluation.figures.compose import Picture, study_styles
from rl_crop.evaluation.figures.style import (
    ArmStyle,
    error_bar,
    label,
    leave_collapsed_runs_below,
    legend_of_arms,
    panels,
    percent,
    spread,
    tag,
)
from rl_crop.evaluation.results import DENSE, Results, pd
from rl_crop.evaluation.statistics import (
    bootstrap_interval,
    improvement_interval,
    interquartile_mean,
    probability_of_improvement,
)
from rl_crop.evaluation.tables import Table, estimate
from rl_crop.evaluation.text import number, share

AUTOMATIC = ("lazy", "epi")
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


def time_families(results: Results, task: str) -> list[TimeFamily]:
    """
    :param results: the study
    :param task: its name
    :return: the arms cut at once, by what they have in common
    """
    families: dict[tuple[str, str], TimeFamily] = {}
    for arm, sparsity in results.groups(task):
        runs = results.of(task, arm, sparsity)
        pruning = None if runs.empty else runs["pruning"].iloc[0]
        if pruning is None or pruning.get("schedule") == "gradual":
            continue
        same = json.dumps({key: value for key, value in pruning.items() if key not in OF_TIME}, sort_keys=True)
        family = families.setdefault((sparsity, same), TimeFamily(sparsity))
        (family.automatic if pruning.get("when", AUTOMATIC[0]) in AUTOMATIC else family.fixed).append(arm)
    return list(families.values())


def first_cuts(results: Results, task: str) -> set[float]:
    """
    :param results: the study
    :param task: its name
    :return: when the arms of :func:`time_families` were cut, in whole hundredths of the run
    """
    cut_once = [(arm, family.sparsity) for family in time_families(results, task) for arm in family.arms]
    return {round(cuts[0], 2) for group in cut_once for cuts in results.of(task, *group)["cuts"] if cuts}


def compare_times(results: Results, task: str) -> list[TimeComparison]:
    """
    :param results: the study
    :param task: its name
    :return: one comparison for each arm with an automatic time that has fixed ones beside it and two seeds in common
    """
    found = []
    for family in time_families(results, task):
        for automatic in family.automatic if family.fixed else []:
            values = {arm: results.scores(task, arm, family.sparsity) for arm in (automatic, *family.fixed)}
            paired = pd.concat(values, axis="columns", join="inner")  # by seed
            if len(paired) > 1:
                found.append(_compare(task, family, automatic, paired))
    return found


def _compare(task: str, family: TimeFamily, automatic: str, paired: "pd.DataFrame") -> TimeComparison:
    # Every other seed, so that seeds that are added later fall to both halves.
    choice, test = paired.iloc[::2], paired.iloc[1::2]
    chosen = max(family.fixed, key=lambda arm: interquartile_mean(choice[arm]))
    ours, theirs = test[automatic], test[chosen]
    many = len(test) > 1
    return TimeComparison(
        task, family.sparsity, automatic, tuple(family.fixed), chosen, tuple(choice.index), tuple(test.index),
        chosen_iqm=interquartile_mean(theirs),
        automatic_iqm=interquartile_mean(ours),
        automatic_interval=bootstrap_interval(ours) if many else None,
        probability=probability_of_improvement(ours, theirs),
        interval=improvement_interval([(ours, theirs)]) if many else None,
    )  # fmt: skip


# Arms that find their time often find the same; they share this much of the axis.
_WIDTH = 0.03


def draw_times(axes: Any, results: Results, task: str, sparsity: str, styles: Mapping[str, ArmStyle]) -> None:
    """
    Draw returns against the share of the run at which the cut came: a dot a seed, filled where the time was found, hollow
    where it was fixed; fixed times of one family are joined. Panels of one task have one scale.

    :param axes: where
    :param results: the study
    :param task: its name
    :param sparsity: the sparsity
    :param styles: of every arm
    """
    families = [family for family in time_families(results, task) if family.sparsity == sparsity]
    found = [arm for family in families for arm in family.automatic]
    latest, drawn = 0.4, list[float]()
    for family in families:
        joined = []
        for arm in family.arms:
            runs = [run for run in results.of(task, arm, sparsity).itertuples() if run.cuts]
            if not runs:
                continue
            summary, color = summarise(results, task, arm, sparsity), styles[arm].color
            shift, fill = (spread(found.index(arm), len(found), _WIDTH), "full") if arm in found else (0.0, "none")
            for run in runs:
                axes.plot([run.cuts[0] + shift], [run.score], "o", color=color, markersize=3.5, alpha=0.6, fillstyle=fill,
                          gid=tag(arm, sparsity, run.seed))  # fmt: skip
            middle = sum(run.cuts[0] for run in runs) / len(runs)
            error_bar(axes, middle + shift, summary.iqm, summary.interval, styles[arm], tag(arm, sparsity))
            joined += [(middle, summary.iqm)] if arm in family.fixed else []
            drawn += [run.score for run in runs]
            latest = max(latest, *(run.cuts[0] + _WIDTH for run in runs))
        if len(joined) > 1:
            axes.plot(*zip(*sorted(joined)), color="#555555", linewidth=0.9, zorder=1, gid=tag("*", sparsity))
    if not results.scores(task, DENSE, "0").empty:
        iqm = summarise(results, task, DENSE, "0").iqm
        axes.axhline(iqm, color=styles[DENSE].color, linewidth=0.8, linestyle=":", gid=tag(DENSE, "0"))
    every = [list(results.scores(task, *group)) for group in results.groups(task)]
    leave_collapsed_runs_below(axes, [*chain(*every)], [interquartile_mean(values) for values in every], drawn)
    axes.xaxis.set_major_formatter(lambda value, _: share(value))
    axes.set_xlim(0, latest)
    axes.set_title(percent(sparsity))
    axes.set_xlabel("first cut, share of the run (times found: side by side)")
    axes.set_ylabel("return of the final policy")


def times_table(found: Sequence[TimeComparison]) -> Table:
    """
    :param found: the comparisons of prune times
    :return: one row a comparison
    """
    columns = (
        "task", "time found by", "best fixed", "chosen on seeds", "tested on seeds", "found: IQM [95 %]", "fixed: IQM",
        "probability that found beats fixed [95 %]",
    )  # fmt: skip
    rows = [
        [
            one.task, label(one.automatic, one.sparsity), f"{one.chosen} (of {', '.join(one.fixed)})",
            ", ".join(map(str, one.chosen_on)), ", ".join(map(str, one.tested_on)),
            estimate(one.automatic_iqm, one.automatic_interval, number), number(one.chosen_iqm),
            estimate(one.probability, one.interval, "{:.2f}".format),
        ]
        for one in found
    ]  # fmt: skip
    tags = [{"task": one.task, "arm": one.automatic, "sparsity": one.sparsity} for one in found]
    return Table("Prune time found against the best fixed time", columns, rows, tags)


def picture_of(results: Results, task: str) -> Picture:
    """
    :param results: the study
    :param task: its name
    :return: returns against the prune time
    """

    def draw() -> Any:
        styles, levels = study_styles(results), sparsities(results, task) or ["0"]
        figure, axes = panels(1, len(levels), (6.4 if len(levels) == 1 else 4.4, 4.0), sharey=True)
        for ax, sparsity in zip(axes.flat, levels):
            draw_times(ax, results, task, sparsity, styles)
        figure.suptitle(task, fontsize=10)
        cut_once = {arm for family in time_families(results, task) for arm in family.arms}
        legend_of_arms(figure, {arm: style for arm, style in styles.items() if arm in cut_once | {DENSE}})
        return figure

    return Picture(f"{task}_prune_times", "Return against the prune time", draw, {"task": task})


def main(args: Args) -> None:
    """
    Compare.

    :param args: those of `scripts/plot.py`
    """
    results = load_study_results(args)
    tasks = results.tasks
    found = [one for task in tasks for one in compare_times(results, task)]
    print(times_table(found).to_markdown() if found else "No fixed time shares two seeds with one that is found.\n")
    for task in tasks:
        if len(first_cuts(results, task)) > 1:
            print(picture_of(results, task).save(folder_of(args) / "pictures")[0])


if __name__ == "__main__":
    sys.exit(command(main, Args, __doc__ or ""))
