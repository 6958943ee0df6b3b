"""The prune time found against fixed ones."""

from collections.abc import Mapping
from typing import Any

from rl_crop.evaluation.aggregate import summarise
from rl_crop.evaluation.best_time import AUTOMATIC, time_families
from rl_crop.evaluation.figures.style import ArmStyle, error_bar, spread, tag
from rl_crop.evaluation.scores import DENSE, Scores

# Arms often cut at the same step; they share this much of the axis.
_WIDTH = 0.03


def draw_times(axes: Any, scores: Scores, task: str, styles: Mapping[str, ArmStyle]) -> None:
    """
    Draw returns against the share of the run at which the cut came: a dot a seed, filled where the time was found, hollow
    where it was fixed; fixed times of one family are joined.

    :param axes: where
    :param scores: the study
    :param task: its name
    :param styles: of every arm
    """
    families = time_families(scores, task)
    arms = [arm for family in families for arm in (*family.automatic, *family.fixed)]
    latest = 0.4
    for family in families:
        joined = []
        for arm in (*family.automatic, *family.fixed):
            runs = [run for run in scores.results.of(task, arm, family.sparsity) if run.cuts]
            if not runs:
                continue
            found = (runs[0].pruning or {}).get("when", AUTOMATIC[0]) in AUTOMATIC
            color, summary = styles[arm].color, summarise(scores, task, arm, family.sparsity)
            shift = spread(arms.index(arm), len(arms), _WIDTH)
            for run in runs:
                axes.plot([run.cuts[0] + shift], [run.score], "o", color=color, markersize=3.5, alpha=0.6,
                          fillstyle="full" if found else "none", gid=tag(arm, family.sparsity, run.key.seed))  # fmt: skip
            middle = sum(run.cuts[0] for run in runs) / len(runs) + shift
            latest = max(latest, *(run.cuts[0] + _WIDTH for run in runs))
            error_bar(axes, middle, summary.iqm, summary.interval, styles[arm], tag(arm, family.sparsity))
            joined += [] if found else [(middle, summary.iqm)]
        if len(joined) > 1:
            axes.plot(*zip(*sorted(joined)), color=styles[family.fixed[0]].color, linewidth=0.9, gid=tag("*", family.sparsity))
    dense = scores.values(task, DENSE, "0")
    if dense:
        iqm = summarise(scores, task, DENSE, "0").iqm
        axes.axhline(iqm, color=styles[DENSE].color, linewidth=0.8, linestyle=":", gid=tag(DENSE, "0"))
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set_xlim(0, latest)
    axes.set_xlabel("first cut, share of the run (arms side by side)")
    axes.set_ylabel("return of the final policy")
