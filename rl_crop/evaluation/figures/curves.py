"""Learning curves of one arm, with the moment of every cut."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rl_crop.evaluation.figures.style import ArmStyle, label, tag
from rl_crop.evaluation.results import DENSE, Results, pd


def draw_curves(axes: Any, results: Results, task: str, arm: str, sparsity: str, styles: Mapping[str, ArmStyle]) -> None:
    """Draw every seed of an arm as a thin line and their mean as a thick one, beside the mean of the dense arm."""
    from matplotlib.ticker import EngFormatter

    runs, color = results.of(task, arm, sparsity), styles[arm].color
    dense = results.of(task, DENSE, "0")
    if not dense.empty and arm != DENSE:
        axes.plot(*_mean(dense), color=styles[DENSE].color, linewidth=1, linestyle=":", label="dense, mean")
    low, high = _limits(results, task)
    for run in runs.itertuples():
        gid, outside = tag(arm, sparsity, run.seed), not low <= run.score <= high
        axes.plot(run.timesteps, run.returns, color=color, linewidth=0.8, alpha=0.45, gid=gid)
        # On the edge of the axes, so that clipping would halve it; but far below them it would press all panels together.
        axes.plot([run.n_timesteps], [run.score], "o", color=color, markersize=3.5, clip_on=outside, gid=gid, zorder=4)
        for share in run.cuts:
            axes.axvline(share * run.n_timesteps, color="#C04000", linestyle=(0, (4, 2)), linewidth=0.8, alpha=0.8, gid=gid)
    if not runs.empty:
        axes.plot(*_mean(runs), color=color, linewidth=2.2, gid=tag(arm, sparsity))
        axes.set_xlim(0, runs["n_timesteps"].max())
        axes.set_ylim(low, high)
    axes.set_title(f"{label(arm, sparsity)} ({len(runs)} {'seed' if len(runs) == 1 else 'seeds'})")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _limits(results: Results, task: str) -> tuple[float, float]:
    # The same for every arm of a task. One collapsed evaluation must not flatten all curves.
    runs = results.runs[results.runs["task"] == task]
    values = np.concatenate([*runs["returns"], runs["score"]])
    low, high = np.quantile(values, 0.02), values.max()
    margin = 0.05 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def _mean(runs: "pd.DataFrame") -> tuple[tuple[int, ...], Any]:
    # Evaluations of one task come at the same steps in every run; a run of another length would not be comparable there.
    steps = max(runs["timesteps"], key=len)
    return steps, np.mean([returns for times, returns in zip(runs["timesteps"], runs["returns"]) if times == steps], axis=0)
