"""Environments together: normalised interquartile means and performance profiles."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rl_crop.evaluation.aggregate import Overall
from rl_crop.evaluation.figures.style import ArmStyle, error_bar, name_rows, tag
from rl_crop.evaluation.statistics import performance_profile, profile_interval


def draw_overall(axes: Any, found: Sequence[Overall], styles: Mapping[str, ArmStyle]) -> None:
    """
    Draw one row an arm: the interquartile mean of normalised returns and its interval, from the margin on, so that a
    difference looks as large as it is.
    """
    for row, arm in enumerate(found):
        error_bar(axes, arm.iqm, row, arm.interval, styles[arm.arm], tag(arm.arm, arm.sparsity), horizontal=True)
    name_rows(axes, [(arm.arm, arm.sparsity) for arm in found])
    margin = max(arm.margin for arm in found)
    axes.axvline(1, color="#444444", linewidth=0.9, linestyle="--")
    axes.axvline(margin, color="#444444", linewidth=0.9, linestyle=":")
    axes.set_xlabel(f"normalised return (random 0, dense 1; dotted: the margin, {margin:.2f})")
    axes.set_title("interquartile mean, 95 % interval")


def draw_profiles(axes: Any, found: Sequence[Overall], styles: Mapping[str, ArmStyle]) -> None:
    """Draw the share of runs above every normalised return, with pointwise 95 % bands."""
    highest = max((max(values) for arm in found for values in arm.scores.values()), default=1.0)
    thresholds = np.linspace(0, max(1.05, highest * 1.02), 121)
    for arm in found:
        values, gid, color = list(arm.scores.values()), tag(arm.arm, arm.sparsity), styles[arm.arm].color
        low, high = profile_interval(values, thresholds)
        axes.fill_between(thresholds, low, high, color=color, alpha=0.07, linewidth=0, step="post", gid=gid)
        axes.step(thresholds, performance_profile(values, thresholds), where="post", color=color, linewidth=1.8, gid=gid)
    axes.set_xlim(thresholds[0], thresholds[-1])
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("normalised return τ (random 0, dense 1)")
    axes.set_ylabel("share of runs above τ")
    axes.set_title("performance profiles")
