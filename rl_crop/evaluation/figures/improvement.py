"""The probability of improvement of every arm over a rival."""

from collections.abc import Mapping, Sequence
from typing import Any

from rl_crop.evaluation.aggregate import Improvement
from rl_crop.evaluation.figures.style import ArmStyle, error_bar, name_rows, tag
from rl_crop.evaluation.results import DENSE


def rows_of(found: Sequence[Improvement]) -> list[tuple[str, str]]:
    """:return: the arms and sparsities compared with any rival, a row each"""
    return sorted({_group(comparison) for comparison in found}, key=lambda group: (group[1], group[0]))


def draw_improvements(axes: Any, found: Sequence[Improvement], rival: str, styles: Mapping[str, ArmStyle]) -> None:
    """
    Draw one row an arm, with wins, ties and losses against a rival on paired seeds beside it.

    :param found: comparisons with any rival; all of them give the rows, so that panels can stand side by side
    """
    rows = rows_of(found)
    for comparison in found:
        if comparison.rival == rival:
            row, gid = rows.index(_group(comparison)), tag(*_group(comparison))
            error_bar(axes, comparison.probability, row, comparison.interval, styles[comparison.arm], gid, horizontal=True)
            text = f"{comparison.wins}–{comparison.ties}–{comparison.losses}"
            axes.text(1.06, row, text, va="center", fontsize=8, color="#444444", gid=gid)
    name_rows(axes, rows)
    axes.axvline(0.5, color="#444444", linewidth=0.9, linestyle="--")
    axes.set_xlim(-0.03, 1.25)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_title(f"over {rival}")
    axes.set_xlabel("probability of improvement")
    if not any(comparison.rival == rival for comparison in found):
        axes.text(0.6, 0, "no runs to compare", ha="center", va="center", color="#555555", backgroundcolor="white")


def _group(comparison: Improvement) -> tuple[str, str]:
    return comparison.arm, "0" if comparison.arm == DENSE else comparison.sparsity
