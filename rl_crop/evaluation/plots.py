"""Pictures of runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rl_crop.evaluation.files import write_atomically
from rl_crop.evaluation.optional import require

_NAMES = {"pi": "actor", "vf": "critic", "qf": "critic"}


def plot_learning_curve(path: str | Path, report: Mapping[str, Any], evaluations: Mapping[str, Any]) -> Path:
    """
    Draw returns against steps, with every cut marked and the widths before and after it.

    :param path: the picture to write
    :param report: a run's report
    :param evaluations: the arrays ``timesteps`` and ``results`` (evaluations × episodes), as ``EvalCallback`` stores them
    :return: the path written
    """
    require("matplotlib", "plots")
    # The object interface: no global state and no window, whatever backend the user has chosen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps, results = np.asarray(evaluations["timesteps"]), np.asarray(evaluations["results"])
    low, high = np.quantile(results, [0.25, 0.75], axis=1)
    axes.fill_between(steps, low, high, color="tab:blue", alpha=0.2, linewidth=0, label="middle half of the episodes")
    axes.plot(steps, results.mean(axis=1), color="tab:blue", label=f"mean of {results.shape[1]} evaluation episodes")
    final = report["final"]
    label = f"final: {final['mean']:.4g} ± {final['std']:.3g} ({len(final['returns'])} episodes)"
    axes.plot(report["n_timesteps"], final["mean"], "o", color="black", markersize=5, label=label, clip_on=False, zorder=5)

    for number, cut in enumerate(report["cuts"], start=1):
        mark = str(number) if len(report["cuts"]) > 1 else ""
        label = f"{f'cut {mark}'.strip()} at {cut['timesteps']:,} steps: {describe_cut(cut)}"
        axes.axvline(cut["timesteps"], color="tab:red", linestyle="--", linewidth=1, label=label)
        axes.annotate(
            mark or "cut", (cut["timesteps"], 1.01), xycoords=("data", "axes fraction"), ha="center", color="tab:red", fontsize=8
        )

    axes.set_title(f"{report['algo'].upper()} on {report['env']}, seed {report['seed']}", pad=16 if report["cuts"] else None)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(0, report["n_timesteps"])
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", fontsize=8, frameon=False)
    return write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=200))


def describe_cut(cut: Mapping[str, Any]) -> str:
    """
    The widths before and after a cut, in words.

    :param cut: one entry of a report's ``cuts``
    :return: for example ``"actor 256-256 → 31-40, critic 256-256 → 35-37"``
    """
    before, after = cut["widths_before"], cut["widths_after"]
    if isinstance(before, list):
        before, after = {"qf": before}, {"qf": after}
    parts = [f"{_NAMES[head]} {_dashed(before[head])} → {_dashed(after[head])}" for head in before]
    return ", ".join(parts)


def _dashed(widths: list[int]) -> str:
    return "-".join(map(str, widths))
