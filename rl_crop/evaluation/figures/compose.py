"""The figures of a study: which there are, and how panels are put together."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rl_crop.evaluation.aggregate import SMALL, Overall, improvements, sparsities
from rl_crop.evaluation.figures.curves import draw_curves
from rl_crop.evaluation.figures.improvement import draw_improvements, rows_of
from rl_crop.evaluation.figures.overall import draw_overall, draw_profiles
from rl_crop.evaluation.figures.style import ArmStyle, arm_styles, legend_of_arms, panels, percent, settings
from rl_crop.evaluation.figures.tradeoffs import CPU_SECONDS, PARAMETERS, SECONDS, draw_tradeoff
from rl_crop.evaluation.figures.widths import draw_widths, layers
from rl_crop.evaluation.results import Results
from rl_crop.files import write_atomically, write_text


@dataclass(frozen=True)
class Picture:
    """
    One figure.

    :param name: of its files
    :param title: what it shows
    :param draw: draws it
    :param cells: the attributes by which a page filters the whole figure: ``task``, ``arm``, ``sparsity``
    """

    name: str
    title: str
    draw: Callable[[], Any]
    cells: dict[str, str]

    @cached_property
    def svg(self) -> str:
        """The figure as SVG, drawn once; the same study always gives the same text."""
        with settings():
            text = io.StringIO()
            self._figure.savefig(text, format="svg", metadata={"Date": None})
        return text.getvalue()

    def save(self, folder: Path) -> list[Path]:
        """Write the figure. :return: the PNG file and the SVG file"""
        with settings():
            png = write_atomically(folder / f"{self.name}.png", lambda path: self._figure.savefig(path, dpi=150))
        return [png, write_text(folder / f"{self.name}.svg", self.svg)]

    @cached_property
    def _figure(self) -> Any:
        with settings():
            return self.draw()


def study_styles(results: Results) -> dict[str, ArmStyle]:
    """:return: a style for each arm of a study"""
    return arm_styles(arm for task in results.tasks for arm, _ in results.groups(task))


def task_pictures(results: Results, task: str) -> list[Picture]:
    """:return: a task's figures, all but the learning curves; none where a single arm has nothing beside it"""
    if len(results.groups(task)) < 2:
        return []
    styles, cells = study_styles(results), {"task": task}
    shown = {arm: style for arm, style in styles.items() if arm in {arm for arm, _ in results.groups(task)}}

    def tradeoffs(*costs: Any) -> Any:
        figure, axes = panels(1, len(costs), (6.4 if len(costs) == 1 else 5.0, 4.0))
        for ax, cost in zip(axes.flat, costs):
            draw_tradeoff(ax, results, task, styles, cost)
        return _finish(figure, task, shown)

    def widths() -> Any:
        found = layers(results.runs[results.runs["task"] == task])
        n_rows = len(results.groups(task))
        figure, axes = panels(1, max(1, len(found)), (3.0, 1.0 + 0.27 * n_rows), sharey=True)
        for ax, layer in zip(axes.flat, found):
            draw_widths(ax, results, task, layer, styles)
        return _finish(figure, task, {})

    return [
        Picture(f"{task}_parameters", "Return against remaining parameters", lambda: tradeoffs(PARAMETERS), cells),
        Picture(f"{task}_costs", "Return against training time", lambda: tradeoffs(SECONDS, CPU_SECONDS), cells),
        Picture(f"{task}_widths", "Remaining widths by layer", widths, cells),
        *(
            Picture(
                f"{task}_improvement_{sparsity}",
                f"Probability of improvement at {percent(sparsity)}",
                lambda s=sparsity: _improvements(results, [task], s, styles, task),  # type: ignore[misc]
                cells | {"sparsity": sparsity},
            )
            for sparsity in sparsities(results, task)
        ),
    ]


def curve_picture(results: Results, task: str, groups: list[tuple[str, str]], name: str) -> Picture:
    """:return: the learning curves of some arms and sparsities of a task, a panel each"""
    styles = study_styles(results)

    def draw() -> Any:
        n_cols = min(4, len(groups))
        n_rows = -(-len(groups) // n_cols)
        figure, axes = panels(n_rows, n_cols, (3.1, 2.4), sharex=True, sharey=True)
        for ax, group in zip(axes.flat, groups):
            draw_curves(ax, results, task, *group, styles)
        for ax in axes.flat[len(groups) :]:
            ax.set_visible(False)
        for ax in axes[-2, len(groups) % n_cols or n_cols :] if n_rows > 1 else []:
            ax.tick_params(labelbottom=True)
        figure.supxlabel("environment steps", fontsize=9)
        figure.supylabel("return", fontsize=9)
        return figure

    alone = {"arm": groups[0][0], "sparsity": groups[0][1]} if len(groups) == 1 else {}
    return Picture(
        name,
        "Learning curves (dashed: cuts; dotted: mean of dense; the lowest 2 % of evaluations may lie below the axis)",
        draw,
        {"task": task} | alone,
    )


def overall_pictures(results: Results, tasks: list[str], sparsity: str, found: list[Overall]) -> list[Picture]:
    """:return: the figures of all environments together that tell the arms apart"""
    styles, cells = study_styles(results), {"sparsity": sparsity}

    def together() -> Any:
        figure, axes = panels(1, 2, (5.2, 3.8))
        draw_overall(axes[0, 0], found, styles)
        draw_profiles(axes[0, 1], found, styles)
        return _finish(figure, "", {arm.arm: styles[arm.arm] for arm in found})

    scaled = [Picture(f"overall_{sparsity}", f"Normalised returns at {percent(sparsity)}", together, cells)] if found else []
    return [
        *scaled,
        Picture(
            f"overall_improvement_{sparsity}",
            f"Probability of improvement at {percent(sparsity)}, mean of the environments",
            lambda: _improvements(results, tasks, sparsity, styles, ""),
            cells,
        ),
    ]


def _improvements(results: Results, tasks: list[str], sparsity: str, styles: dict[str, ArmStyle], title: str) -> Any:
    found = improvements(results, tasks, sparsity)
    rivals = list(dict.fromkeys(one.rival for one in found)) or [SMALL]
    figure, axes = panels(1, len(rivals), (3.9, 1.3 + 0.27 * len(rows_of(found))), sharey=True)
    for ax, rival in zip(axes.flat, rivals):
        draw_improvements(ax, found, rival, styles)
    return _finish(figure, title, {})


def _finish(figure: Any, title: str, styles: dict[str, ArmStyle]) -> Any:
    if title:
        figure.suptitle(title, fontsize=10)
    if styles:
        legend_of_arms(figure, styles)
    return figure
