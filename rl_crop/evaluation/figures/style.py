"""How every picture looks: one colour and one marker an arm, readable without telling red from green."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl_crop.optional import require

# The colours of Okabe and Ito for the arms of the study, others for those that are added.
_KNOWN = {
    "dense": ("#000000", "o"),
    "dense_small": ("#E69F00", "s"),
    "dense_small_crop": ("#D55E00", "D"),
    "span_crop": ("#0072B2", "^"),
    "span_crop_gradual": ("#56B4E9", "v"),
    "earlycrop": ("#009E73", "P"),
    "random": ("#808080", "X"),
    "magnitude": ("#CC79A7", "d"),
}
_OTHERS = ("#882255", "#999933", "#332288", "#44AA99", "#661100", "#AA4499", "#6699CC", "#B8A000")
_MARKERS = ("<", ">", "p", "h", "*", "8", "H")
SMALL_TEXT = 7
"""Of numbers within a picture, in points; a digit is about 0.6 of it wide."""
_SETTINGS = {"font.size": 9, "axes.titlesize": 10, "svg.fonttype": "none", "svg.hashsalt": "rl_crop"}


@dataclass(frozen=True)
class ArmStyle:
    """
    :param color: as ``#rrggbb``
    :param marker: of matplotlib
    """

    color: str
    marker: str


def arm_styles(arms: Iterable[str]) -> dict[str, ArmStyle]:
    """:return: a style for every arm of a study, in the order in which arms are shown: dense first, then its small rivals"""
    names = sorted(set(arms), key=lambda arm: (not arm.startswith("dense"), arm))
    others = [name for name in names if name not in _KNOWN]
    added = {name: (_OTHERS[i % len(_OTHERS)], _MARKERS[i % len(_MARKERS)]) for i, name in enumerate(others)}
    return {name: ArmStyle(*(_KNOWN | added)[name]) for name in names}


def panels(n_rows: int, n_cols: int, size: tuple[float, float], **kwargs: Any) -> tuple[Any, Any]:
    """
    A figure without a window and without global state, whatever backend the user has chosen.

    :param n_rows: rows of axes
    :param n_cols: columns of axes
    :param size: width and height of one of them, in inches
    :param kwargs: further arguments of ``Figure.subplots``
    :return: the figure and a two-dimensional array of its axes
    """
    require("matplotlib", "plots")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(n_cols * size[0], n_rows * size[1]), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(n_rows, n_cols, squeeze=False, **kwargs)
    for ax in axes.flat:
        ax.grid(alpha=0.3, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_axisbelow(True)
    return figure, axes


def settings() -> Any:
    """:return: a context in which figures are drawn and written: sizes of text, text as text, the same names in every file"""
    return require("matplotlib", "plots").rc_context(_SETTINGS)


def tag(arm: str, sparsity: str, seed: int | str = "*") -> str:
    """
    The name of a mark in a picture, which :func:`~rl_crop.evaluation.figures.inline.inline_svg` turns into attributes. A mark
    of all seeds has the seed ``"*"``.
    """
    return f"cell|{arm}|{sparsity}|{seed}"


def label(arm: str, sparsity: str) -> str:
    """:return: for example ``"random 95 %"``; a dense arm has no sparsity"""
    return arm if sparsity == "0" else f"{arm} {percent(sparsity)}"


def percent(sparsity: str) -> str:
    """:return: a sparsity as in the names of files as text, for example ``"95 %"``; sparsities by network stay as they are"""
    try:
        return f"{100 * float(sparsity):g} %"
    except ValueError:
        return sparsity


def spread(index: int, count: int, width: float) -> float:
    """:return: where one of several marks stands beside a common place, within a width that all of them share"""
    return width * (index / max(1, count - 1) - 0.5) if count > 1 else 0.0


def leave_collapsed_runs_below(
    axes: Any, returns: Sequence[float], estimates: Sequence[float], drawn: Sequence[float] | None = None
) -> None:
    """
    Leave those runs below the axes that would take more than half of them, and write how many.

    :param axes: where
    :param returns: of all runs that these axes, or others of the same scale, show
    :param estimates: what has to stay within the axes
    :param drawn: the returns shown in these axes; by default all
    """
    if not returns:
        return
    lowest, highest = min(returns), max(returns)
    floor = min(float(np.quantile(returns, 0.02, method="higher")), *estimates)
    if highest - floor < 0.5 * (highest - lowest):
        margin, drawn = 0.08 * (highest - floor), returns if drawn is None else drawn
        axes.set_ylim(floor - margin, highest + margin)
        n_below = sum(score < floor - margin for score in drawn)
        place = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": SMALL_TEXT, "color": "#444444"}
        if n_below:
            axes.annotate(f"{n_below} of {len(drawn)} runs below", (0.0, 0.0), (4.0, 4.0), **place)


def error_bar(
    axes: Any, x: float, y: float, interval: tuple[float, float] | None, style: ArmStyle, gid: str, **kwargs: Any
) -> None:
    """
    Draw an estimate with its interval; the interval of a single seed is not drawn.

    :param axes: where
    :param x: horizontal place
    :param y: the estimate
    :param interval: its bounds
    :param style: the arm's
    :param gid: the mark's :func:`tag`
    :param kwargs: ``horizontal=True`` draws the interval along x
    """
    horizontal = kwargs.pop("horizontal", False)
    if interval is not None:
        ends = np.array(interval)
        fixed = np.array([y, y] if horizontal else [x, x])
        axes.plot(*((ends, fixed) if horizontal else (fixed, ends)), color=style.color, linewidth=1.8, gid=gid)
    axes.plot(
        [x],
        [y],
        style.marker,
        color=style.color,
        markersize=7,
        markeredgecolor="white",
        markeredgewidth=0.7,
        gid=gid,
        **kwargs,
    )


def name_rows(axes: Any, groups: Sequence[tuple[str, str]]) -> None:
    """Give every arm and sparsity a row, the first on top."""
    axes.set_yticks(range(len(groups)), [label(*group) for group in groups])
    axes.set_ylim(max(1, len(groups)) - 0.5, -0.5)
    for text, group in zip(axes.get_yticklabels(), groups):
        text.set_gid(tag(*group))


def legend_of_arms(figure: Any, styles: dict[str, ArmStyle]) -> None:
    """Write one legend of the arms shown below the axes of a figure."""
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], color=s.color, marker=s.marker, linewidth=1.8, label=arm) for arm, s in styles.items()]
    columns = 4 if max(map(len, styles), default=0) < 20 else 3  # what a figure has room for
    legend = figure.legend(handles=marks, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    for arm, mark, text in zip(styles, legend.legend_handles, legend.get_texts()):
        mark.set_gid(tag(arm, "*"))
        text.set_gid(tag(arm, "*"))
