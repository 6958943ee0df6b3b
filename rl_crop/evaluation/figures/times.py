"""The prune time found against fixed ones."""

from collections.abc import Mapping
from itertools import chain
from typing import Any

from rl_crop.evaluation.aggregate import summarise
from rl_crop.evaluation.best_time import time_families
from rl_crop.evaluation.figures.style import ArmStyle, error_bar, leave_collapsed_runs_below, percent, spread, tag
from rl_crop.evaluation.scores import DENSE, Scores
from rl_crop.evaluation.statistics import interquartile_mean
from rl_crop.evaluation.text import share

# Arms that find their time often find the same; they share this much of the axis.
_WIDTH = 0.03


def draw_times(axes: Any, scores: Scores, task: str, sparsity: str, styles: Mapping[str, ArmStyle]) -> None:
    """
    Draw returns against the share of the run at which the cut came: a dot a seed, filled where the time was found, hollow
    where it was fixed; fixed times of one family are joined. Panels of one task have one scale.

    :param axes: where
    :param scores: the study
    :param task: its name
    :param sparsity: the sparsity
    :param styles: of every arm
    """
    families = [family for family in time_families(scores, task) if family.sparsity == sparsity]
    found = [arm for family in families for arm in family.automatic]
    latest, drawn = 0.4, list[float]()
    for family in families:
        joined = []
        for arm in family.arms:
            runs = [run for run in scores.results.of(task, arm, sparsity) if run.cuts]
            if not runs:
                continue
            summary, color = summarise(scores, task, arm, sparsity), styles[arm].color
            shift, fill = (spread(found.index(arm), len(found), _WIDTH), "full") if arm in found else (0.0, "none")
            for run in runs:
                axes.plot([run.cuts[0] + shift], [run.score], "o", color=color, markersize=3.5, alpha=0.6, fillstyle=fill,
                          gid=tag(arm, sparsity, run.key.seed))  # fmt: skip
            middle = sum(run.cuts[0] for run in runs) / len(runs)
            error_bar(axes, middle + shift, summary.iqm, summary.interval, styles[arm], tag(arm, sparsity))
            joined += [(middle, summary.iqm)] if arm in family.fixed else []
            drawn += [run.score for run in runs]
            latest = max(latest, *(run.cuts[0] + _WIDTH for run in runs))
        if len(joined) > 1:
            axes.plot(*zip(*sorted(joined)), color="#555555", linewidth=0.9, zorder=1, gid=tag("*", sparsity))
    dense = scores.values(task, DENSE, "0")
    if dense:
        iqm = summarise(scores, task, DENSE, "0").iqm
        axes.axhline(iqm, color=styles[DENSE].color, linewidth=0.8, linestyle=":", gid=tag(DENSE, "0"))
    every = [values for group in scores.results.groups(task) if (values := scores.values(task, *group))]
    leave_collapsed_runs_below(axes, [*chain(*every)], [interquartile_mean(values) for values in every], drawn)
    axes.xaxis.set_major_formatter(lambda value, _: share(value))
    axes.set_xlim(0, latest)
    axes.set_title(percent(sparsity))
    axes.set_xlabel("first cut, share of the run (times found: side by side)")
    axes.set_ylabel("return of the final policy")
