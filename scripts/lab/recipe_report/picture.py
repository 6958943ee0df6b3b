"""The measure against sparsity, a small panel for every recipe, the best first."""

from typing import Any

import numpy as np

from lab.recipe_report.tables import Outcome, mean, prunes
from rl_crop.evaluation.figures.compose import Picture
from rl_crop.evaluation.figures.style import panels, percent
from rl_crop.evaluation.results import Folder
from rl_crop.evaluation.scores import DENSE

COLORS = {"units": "#0072B2", "weights": "#D55E00"}
"""What is pruned, and its colour; others are grey."""
N_COLUMNS = 8
SHOWN = 0.1
"""The share of the lowest arms whose place may lie below the axis, so that the others can be told apart."""


def recipe_picture(found: Folder[Outcome], task: str) -> Picture:
    """
    :param found: the results
    :param task: its name
    :return: the figure of a task
    """
    title = f"{task}: measure against sparsity, the best mean first; blue removes units, orange masks weights"
    return Picture(f"recipes_{task}", title, lambda: _draw(found, task, title), {"task": task})


def _draw(found: Folder[Outcome], task: str, title: str) -> Any:
    groups = found.groups(task)
    levels = sorted({sparsity for _, sparsity in groups if sparsity != "0"}, key=float)
    dense = found.of(task, DENSE, "0")
    arms: dict[str, dict[str, list[Outcome]]] = {}
    for arm, sparsity in groups:
        if arm != DENSE:
            arms.setdefault(arm, {})[sparsity] = found.of(task, arm, sparsity)
    means = {
        arm: {sparsity: mean(runs, lambda run: run.score) for sparsity, runs in by_sparsity.items() if runs}
        for arm, by_sparsity in arms.items()
    }
    # An arm that is refused somewhere stands behind those that are not.
    order = sorted(arms, key=lambda arm: (-len(means[arm]), -float(np.mean(list(means[arm].values()) or [0.0]))))
    all_means = [value for of_arm in means.values() for value in of_arm.values()]
    top = max(run.score for key, run in found.runs.items() if key.task == task)
    bottom = float(np.quantile(all_means, SHOWN)) if all_means else top
    margin = 0.08 * (top - bottom) or 1.0
    n_rows = -(-len(order) // N_COLUMNS)
    figure, axes = panels(n_rows, N_COLUMNS, (1.55, 1.25), sharex=True, sharey=True)
    for ax in axes.flat[len(order) :]:
        ax.set_visible(False)
    for ax, arm in zip(axes.flat, order):
        color = COLORS.get(prunes(arm, [run for of_level in arms[arm].values() for run in of_level]), "#606060")
        ax.set_title(arm, fontsize=7, pad=3, color=color)
        if dense:
            ax.axhline(mean(dense, lambda run: run.score), color="#000000", linewidth=0.8, linestyle=":")
        for place, sparsity in enumerate(levels):
            for run in arms[arm].get(sparsity, []):
                low = run.score < bottom - margin
                ax.plot([place], [bottom - 0.7 * margin if low else run.score], "v" if low else "o", color=color,
                        markersize=2.6, alpha=0.45, markeredgewidth=0)  # fmt: skip
        places = [place for place, sparsity in enumerate(levels) if sparsity in means[arm]]
        ax.plot(places, [means[arm][levels[place]] for place in places], "_-", color=color, linewidth=1.2, markersize=6)
        ax.set_xticks(range(len(levels)), [percent(sparsity).removesuffix(" %") for sparsity in levels])
        ax.tick_params(labelsize=6)
    axes[0, 0].set_ylim(bottom - margin, top + margin)
    axes[0, 0].set_xlim(-0.5, len(levels) - 0.5)
    metric = next(run.metric for key, run in found.runs.items() if key.task == task)
    figure.suptitle(title, fontsize=9)
    figure.supxlabel("sparsity, %; dots are seeds, triangles seeds below the axis, dotted is dense", fontsize=8)
    figure.supylabel(metric, fontsize=8)
    return figure
