"""The measure against sparsity, a small panel for every recipe, the best first."""

from typing import Any

from lab.recipe_report.tables import prunes
from rl_crop.evaluation.figures.compose import Picture
from rl_crop.evaluation.figures.style import panels, percent
from rl_crop.evaluation.results import DENSE, Results, pd

COLORS = {"units": "#0072B2", "weights": "#D55E00"}
"""What is pruned, and its colour; others are grey."""
N_COLUMNS = 8
SHOWN = 0.1
"""The share of the lowest arms whose place may lie below the axis, so that the others can be told apart."""


def recipe_picture(found: Results, task: str) -> Picture:
    """
    :param found: the results
    :param task: its name
    :return: the figure of a task
    """
    title = f"{task}: measure against sparsity, the best mean first; blue removes units, orange masks weights"
    return Picture(f"recipes_{task}", title, lambda: _draw(found, task, title), {"task": task})


def _draw(found: Results, task: str, title: str) -> Any:
    runs, groups = found.runs[found.runs["task"] == task], found.groups(task)
    levels = sorted({sparsity for _, sparsity in groups} - {"0"}, key=float)
    dense, arms = runs.loc[runs["arm"] == DENSE, "score"], list(dict.fromkeys(arm for arm, _ in groups if arm != DENSE))
    means = runs.pivot_table("score", "arm", "sparsity").reindex(index=arms, columns=levels)
    # An arm that is refused somewhere stands behind those that are not.
    standing = pd.DataFrame({"levels": means.count(axis="columns"), "mean": means.mean(axis="columns")}).fillna(0.0)
    order = list(standing.sort_values(["levels", "mean"], ascending=False, kind="stable").index)
    top = runs["score"].max()
    bottom = float(means.stack().quantile(SHOWN)) if means.notna().any(axis=None) else top
    margin = 0.08 * (top - bottom) or 1.0
    n_rows = -(-len(order) // N_COLUMNS)
    figure, axes = panels(n_rows, N_COLUMNS, (1.55, 1.25), sharex=True, sharey=True)
    for ax in axes.flat[len(order) :]:
        ax.set_visible(False)
    for ax, arm in zip(axes.flat, order):
        color = COLORS.get(prunes(arm, runs[runs["arm"] == arm]), "#606060")
        ax.set_title(arm, fontsize=7, pad=3, color=color)
        if not dense.empty:
            ax.axhline(dense.mean(), color="#000000", linewidth=0.8, linestyle=":")
        for place, sparsity in enumerate(levels):
            for score in found.of(task, arm, sparsity)["score"]:
                low = score < bottom - margin
                ax.plot([place], [bottom - 0.7 * margin if low else score], "v" if low else "o", color=color,
                        markersize=2.6, alpha=0.45, markeredgewidth=0)  # fmt: skip
        shown = means.loc[arm].dropna()
        ax.plot([levels.index(level) for level in shown.index], shown, "_-", color=color, linewidth=1.2, markersize=6)
        ax.set_xticks(range(len(levels)), [percent(sparsity).removesuffix(" %") for sparsity in levels])
        ax.tick_params(labelsize=6)
    axes[0, 0].set_ylim(bottom - margin, top + margin)
    axes[0, 0].set_xlim(-0.5, len(levels) - 0.5)
    figure.suptitle(title, fontsize=9)
    figure.supxlabel("sparsity, %; dots are seeds, triangles seeds below the axis, dotted is dense", fontsize=8)
    figure.supylabel(runs["metric"].iloc[0], fontsize=8)
    return figure
