"""The picture of the README: how far agents end from a known optimum, by what is left of their parameters.

PPO on the tracking task, from the recorded results of three studies (`docs/study.md`).

Example::

    python scripts/lab/readme_picture.py
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import tyro

from rl_crop.evaluation.figures.style import panels, settings
from rl_crop.evaluation.results import load_results, pd
from rl_crop.files import write_atomically

TASK, N_STEPS = "ppo_tracking", 100
SPARSITIES = ("0.9", "0.98", "0.99")
OWN_RATES = (
    ("ppo_tracking_small_90_fast", "ppo_tracking_small_90_faster"),
    ("ppo_tracking_small_fast", "ppo_tracking_small_98_faster"),
    ("ppo_tracking_small_99_fast", "ppo_tracking_small_99_faster", "ppo_tracking_small_99_fastest"),
)
"""Small networks of the final widths at each sparsity, by learning rate."""


@dataclass(frozen=True)
class Args:
    results: tuple[Path, ...] = tuple(Path("docs/results") / name for name in ("defaults", "returns", "ablations"))
    """Results of studies; the first that has a point is taken."""
    out: Path = Path("docs/pictures/tracking.png")
    """Where the picture goes."""


@dataclass(frozen=True)
class Line:
    """
    Agents of one kind, at several sizes.

    :param label: what they are
    :param color: of the line
    :param marker: of its points
    :param points: the runs of each size
    """

    label: str
    color: str
    marker: str
    points: Sequence["pd.DataFrame"]


def distances(runs: "pd.DataFrame") -> "pd.Series":
    """:return: the mean squared distance of each run to the best action: minus the return, over the steps of an episode"""
    return -runs["score"] / N_STEPS


def best(groups: Sequence["pd.DataFrame"]) -> "pd.DataFrame":
    """:return: the group with the highest mean return"""
    return max(groups, key=lambda runs: runs["score"].mean())


def main(args: Args) -> None:
    """
    Draw it.

    :param args: the arguments
    """
    studies = [load_results(path) for path in args.results]

    def runs(task: str, sparsity: str, *arms: str) -> "pd.DataFrame":
        return next(found for study in studies for arm in arms if len(found := study.of(task, arm, sparsity)))

    def by_sparsity(*arms: str) -> list["pd.DataFrame"]:
        return [runs(TASK, sparsity, *arms) for sparsity in SPARSITIES]

    tuned = [best([runs(task, "0", "dense") for task in tasks]) for tasks in OWN_RATES]
    lines = [
        Line("random units", "#808080", "X", by_sparsity("random", "random_layer")),
        Line("small network from scratch", "#E69F00", "s", by_sparsity("dense_small")),
        Line("the same, best of the learning rates tried", "#D55E00", "D", tuned),
        Line("pruned: crop (the default)", "#009E73", "P", by_sparsity("earlycrop")),
        Line("pruned: span_crop, equal shares", "#0072B2", "^", by_sparsity("span_crop_layer")),
    ]
    dense = runs(TASK, "0", "dense")
    with settings():
        figure, ((axes,),) = panels(1, 1, (6.4, 3.7))
        of_dense = distances(dense).mean()
        axes.axhline(of_dense, color="#000000", linewidth=1.0, linestyle=":")
        axes.plot([dense["n_params"].iloc[0]], [of_dense], "o", color="#000000", label="dense, 256-256")
        for line in lines:
            sizes = [runs["n_params"].mean() for runs in line.points]
            for size, group in zip(sizes, line.points, strict=True):
                axes.plot([size] * len(group), distances(group), ".", color=line.color, alpha=0.4, markersize=5)
            means = [distances(group).mean() for group in line.points]
            axes.plot(sizes, means, line.marker, linestyle="-", color=line.color, label=line.label, markersize=6)
            print(line.label, *(f"{value:.5f}" for value in means))
        axes.set(xscale="log", yscale="log", xlabel="parameters left", ylabel="squared distance to the best action")
        axes.set_xticks([group["n_params"].iloc[0] for group in (dense, *lines[1].points)])
        axes.set_xticklabels(["137k\ndense", "13.6k\n90 % cut", "2.7k\n98 % cut", "1.4k\n99 % cut"])
        axes.minorticks_off()
        axes.legend(fontsize=8, frameon=False)
        print(write_atomically(args.out, lambda path: figure.savefig(path, dpi=130)))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
