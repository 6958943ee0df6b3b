"""Return against what it costs: remaining parameters, wall-clock, processor time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl_crop.evaluation.aggregate import ArmSummary, summaries
from rl_crop.evaluation.figures.style import SMALL_TEXT, ArmStyle, error_bar, leave_collapsed_runs_below, percent, spread, tag
from rl_crop.evaluation.results import DENSE, Results
from rl_crop.evaluation.text import extent


@dataclass(frozen=True)
class Cost:
    """
    What stands on the horizontal axis.

    :param label: of the axis
    :param column: of the runs
    :param beside: whether arms of one sparsity have the same cost, so that they must be drawn side by side
    """

    label: str
    column: str
    beside: bool = False


PARAMETERS = Cost(
    "remaining parameters (arms of one sparsity stand side by side in the shaded place)", "n_params", beside=True
)
SECONDS = Cost("wall-clock of training with cuts, seconds", "seconds")
CPU_SECONDS = Cost("processor time of training with cuts, seconds", "cpu_seconds")
# Arms of one sparsity stand this far apart on a logarithmic axis, in decades, and all of them within the second, or within
# what the nearest other sparsity leaves.
_STEP, _WIDTH = 0.06, 0.34


def draw_tradeoff(axes: Any, results: Results, task: str, styles: Mapping[str, ArmStyle], cost: Cost) -> None:
    """
    Draw every seed as a small dot, and every arm's interquartile mean with its 95 % interval at its mean cost. Collapsed runs
    that would take more than half of the axis lie below it, and are counted there.
    """
    found = [summary for summary in summaries(results, task) if not summary.runs.empty]
    axes.set_xlabel(cost.label)
    axes.set_ylabel("return of the final policy")
    if cost.beside:
        axes.set_xscale("log")
    places: dict[str, list[tuple[float, float]]] = {}
    groups = _by_sparsity(found, cost) if cost.beside else {}
    room = _room(groups)
    for summary in found:
        style = styles[summary.arm]
        beside = [other.arm for other in found if other.sparsity == summary.sparsity]
        shift = 10 ** spread(beside.index(summary.arm), len(beside), _width(len(beside), room)) if cost.beside else 1.0
        costs = summary.runs[cost.column]
        for seed, x, score in zip(summary.runs["seed"], costs * shift, summary.runs["score"]):
            axes.plot([x], [score], "o", color=style.color, markersize=3.5, alpha=0.4, markeredgewidth=0,
                      gid=tag(summary.arm, summary.sparsity, seed))  # fmt: skip
        x = float(np.mean(costs)) * shift
        error_bar(axes, x, summary.iqm, summary.interval, style, tag(summary.arm, summary.sparsity))
        places.setdefault(summary.arm, []).append((x, summary.iqm))
        if summary.arm == DENSE:
            axes.axhline(summary.iqm, color=style.color, linewidth=0.8, linestyle=":", gid=tag(DENSE, "0"))
    returns = [score for summary in found for score in summary.runs["score"]]
    leave_collapsed_runs_below(axes, returns, [summary.iqm for summary in found])
    for arm, points in places.items():
        if len(points) > 1:
            axes.plot(*zip(*sorted(points)), color=styles[arm].color, linewidth=0.9, alpha=0.7, gid=tag(arm, "*"))
    if cost.beside:
        _mark_groups(axes, found, groups, room)
        _plain_numbers(axes)


def _by_sparsity(found: list[ArmSummary], cost: Cost) -> dict[str, list[float]]:
    """:return: what every run of the pruned arms costs, by sparsity"""
    groups: dict[str, list[float]] = {}
    for summary in found:
        if summary.arm != DENSE:
            groups.setdefault(summary.sparsity, []).extend(summary.runs[cost.column])
    return groups


def _room(groups: Mapping[str, list[float]]) -> float:
    """:return: decades within which the arms of one sparsity stand"""
    middles = sorted(float(np.mean(costs)) for costs in groups.values())
    left = [float(np.log10(after / before)) - 2.2 * _STEP for before, after in zip(middles, middles[1:])]
    # Sparsities of one size (actor 90 %, critic 99 %, and the other way round) overlap anyway: their arms still stand apart.
    return min([_WIDTH, *(decades for decades in left if decades > 0)])


def _width(n_arms: int, room: float) -> float:
    return min(room, _STEP * (n_arms - 1))


def _mark_groups(axes: Any, found: list[ArmSummary], groups: Mapping[str, list[float]], room: float) -> None:
    # Marks stand beside their true place, so the true place is written above them; where two would overlap, one stands higher.
    inches = axes.get_window_extent().width / axes.figure.dpi
    decades_a_digit = float(np.log10(axes.get_xlim()[1] / axes.get_xlim()[0])) / inches * 0.6 * SMALL_TEXT / 72
    ends: list[float] = []  # how far to the right the text reaches, by level
    for sparsity, costs in sorted(groups.items(), key=lambda group: float(np.mean(group[1]))):
        n_arms = sum(summary.sparsity == sparsity for summary in found)
        middle, half = float(np.mean(costs)), 10 ** (0.5 * _width(n_arms, room) + _STEP)
        axes.axvspan(middle / half, middle * half, color="#F2F2F2", zorder=0, linewidth=0, gid=tag("*", sparsity))
        numbers = extent([round(value) for value in costs])
        half_text = 10 ** (0.5 * (len(numbers) + 1) * decades_a_digit)
        level = next((level for level, end in enumerate(ends) if end < middle / half_text), len(ends))
        ends[level : level + 1] = [middle * half_text]
        place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "center", "color": "#444444"}
        above = (0.0, 2.0 + 2.8 * SMALL_TEXT * level)
        axes.annotate(
            f"{percent(sparsity)}\n{numbers}", (middle, 1.0), above, gid=tag("*", sparsity), fontsize=SMALL_TEXT, **place
        )


def _plain_numbers(axes: Any) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
