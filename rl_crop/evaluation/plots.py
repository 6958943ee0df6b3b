"""Pictures of single runs; those of a study are in ``figures``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rl_crop.evaluation.figures.style import panels
from rl_crop.files import write_atomically

_NAMES = {"pi": "actor", "vf": "critic", "qf": "critic"}


def plot_learning_curve(path: str | Path, report: Mapping[str, Any], evaluations: Mapping[str, Any]) -> Path:
    """
    Draw returns against steps, with every cut marked and the widths before and after it.

    :param path: the picture to write
    :param report: a run's report
    :param evaluations: the arrays ``timesteps`` and ``results`` (evaluations × episodes), as ``EvalCallback`` stores them
    :return: the path written
    """
    steps, results = np.asarray(evaluations["timesteps"]), np.asarray(evaluations["results"])
    figure, axes = _figure(report, n_labels=3 + len(report["cuts"]))
    low, high = np.quantile(results, [0.25, 0.75], axis=1)
    axes.fill_between(steps, low, high, color="tab:blue", alpha=0.2, linewidth=0, label="middle half of the episodes")
    axes.plot(steps, results.mean(axis=1), color="tab:blue", label=f"mean of {results.shape[1]} evaluation episodes")
    _plot_final(axes, report, "black", f"final: {_final(report)}")
    _mark_cuts(axes, report["cuts"])
    figure.legend(loc="outside lower center", fontsize=8, frameon=False)
    return write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=200))


def plot_comparison(path: str | Path, reports: Mapping[str, Mapping[str, Any]]) -> Path:
    """
    Draw the learning curves of several runs of one task in one picture, which shows their names. :return: the path written
    """
    cuts = [cut for report in reports.values() for cut in report["cuts"]]
    figure, axes = _figure(next(iter(reports.values())), n_labels=len(reports) + len(cuts))
    for index, (name, report) in enumerate(reports.items()):
        label = f"{name}: {report['n_params']['total']:,} parameters, final {_final(report)}"
        curve = report["evaluations"]
        above = len(reports) - 1 - index  # runs that end alike lie on each other: what is below is drawn wider
        axes.plot(curve["timesteps"], curve["mean_returns"], color=f"C{index}", label=label, linewidth=1.3 + 1.5 * above)
        _plot_final(axes, report, f"C{index}", None, size=5 + 3 * above)
    _mark_cuts(axes, cuts)
    figure.legend(loc="outside lower center", fontsize=8, frameon=False)
    return write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=200))


def _figure(report: Mapping[str, Any], n_labels: int) -> tuple[Any, Any]:
    figure, ((axes,),) = panels(1, 1, (6.4, 3.4 + 0.18 * n_labels))
    from matplotlib.ticker import EngFormatter

    axes.set_title(f"{report['algo'].upper()} on {report['env']}, seed {report['seed']}", pad=16)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(0, report["n_timesteps"])
    return figure, axes


def _final(report: Mapping[str, Any]) -> str:
    final = report["final"]
    return f"{final['mean']:.1f} ± {final['std']:.1f} ({len(final['returns'])} episodes)"


def _plot_final(axes: Any, report: Mapping[str, Any], color: str, label: str | None, size: float = 5) -> None:
    # The last point lies on the edge of the axes, so it must not be clipped.
    point = (report["n_timesteps"], report["final"]["mean"])
    axes.plot(*point, "o", color=color, markersize=size, label=label, clip_on=False, zorder=5)


def _mark_cuts(axes: Any, cuts: Sequence[Mapping[str, Any]]) -> None:
    for number, cut in enumerate(cuts, start=1):
        name = "cut" if len(cuts) == 1 else f"cut {number}"
        label = f"{name} at {cut['timesteps']:,} steps: {describe_cut(cut)}"
        axes.axvline(cut["timesteps"], color="tab:red", linestyle="--", linewidth=1, label=label)
        # Above the axes, where no curve runs; events may stand close together, so a number says enough.
        text = name.removeprefix("cut ")
        place = {"xycoords": ("data", "axes fraction"), "ha": "center"}
        axes.annotate(text, (cut["timesteps"], 1.01), color="tab:red", fontsize=8, **place)


def describe_cut(cut: Mapping[str, Any]) -> str:
    """
    :return: the widths before and after a cut, for example ``"actor 256-256 → 31-40, critic 256-256 → 35-37"``; heads without
        hidden layers are left out
    """
    before, after = cut["widths_before"], cut["widths_after"]
    if isinstance(before, list):
        before, after = {"qf": before}, {"qf": after}
    parts = [f"{_NAMES[head]} {_dashed(before[head])} → {_dashed(after[head])}" for head in before if before[head]]
    return ", ".join(parts) or "features extractor"


def _dashed(widths: list[int]) -> str:
    return "-".join(map(str, widths))
