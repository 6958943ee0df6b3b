"""The remaining width of every layer."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rl_crop.evaluation.figures.style import ArmStyle, name_rows, spread, tag
from rl_crop.evaluation.results import DENSE, Results, pd

_HEADS = {"pi": "actor", "vf": "critic", "qf": "critic", "net": "network"}


def layers(runs: "pd.DataFrame") -> list[tuple[str, int]]:
    """:return: the hidden layers of the runs of one task as head and index"""
    return list(dict.fromkeys((head, i) for run in runs["widths"] for head, widths in run.items() for i in range(len(widths))))


def draw_widths(axes: Any, results: Results, task: str, layer: tuple[str, int], styles: Mapping[str, ArmStyle]) -> None:
    """
    Draw the mean width of a layer by arm as a bar, and every seed as a dot.

    :param layer: the head (``pi``, ``vf``, ``qf`` or ``net``) and the index of the layer
    """
    head, index = layer
    groups = [group for group in results.groups(task) if group[0] != DENSE]
    dense = [run[head][index] for run in results.of(task, DENSE, "0")["widths"]]
    for row, (arm, sparsity) in enumerate(groups):
        runs, color = results.of(task, arm, sparsity), styles[arm].color
        widths = [run[head][index] for run in runs["widths"]]
        if not widths:
            continue
        axes.barh(row, np.mean(widths), color=color, alpha=0.35, height=0.72, gid=tag(arm, sparsity))
        for i, seed in enumerate(runs["seed"]):
            place = row + spread(i, len(runs), 0.5)
            axes.plot([widths[i]], [place], "o", color=color, markersize=3.5, gid=tag(arm, sparsity, seed))
        beside = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 8, "color": "#222222"}
        axes.annotate(f"{np.mean(widths):.0f}", (max(widths), row), gid=tag(arm, sparsity), **beside)
    name_rows(axes, groups)
    axes.margins(x=0.15)
    axes.set_xlim(left=0)
    whole = f" (dense: {dense[0]})" if dense else ""
    axes.set_title(f"{_HEADS[head]}, layer {index + 1}{whole}")
    axes.set_xlabel("units left")
