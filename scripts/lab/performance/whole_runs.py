"""Whole runs, as a study recorded them: return and time of every arm beside the dense agents of the same seeds."""

from statistics import fmean, median
from typing import Any

from lab.performance.table import Column
from rl_crop.evaluation.results import Results

TASKS = ("sac_halfcheetah", "ppo_lunarlander")


def whole_runs(results: Results) -> list[dict[str, Any]]:
    """
    :param results: of a study
    :return: by task, arm and sparsity: runs, their mean return, median seconds of training with scoring and cutting, in
        wall-clock and in processor time, and the median share of the dense agent's processor time at the same seed
    """
    rows = []
    for task in TASKS:
        dense = {run.key.seed: run for arm, s in results.groups(task) if arm == "dense" for run in results.of(task, arm, s)}
        for arm, sparsity in results.groups(task):
            runs = results.of(task, arm, sparsity)
            if not runs:
                continue
            shares = [run.cpu_seconds / dense[run.key.seed].cpu_seconds for run in runs if run.key.seed in dense]
            rows.append(
                {
                    "task": task, "arm": arm, "sparsity": sparsity, "runs": len(runs),
                    "return": fmean(run.score for run in runs), "seconds": median(run.seconds for run in runs),
                    "cpu_seconds": median(run.cpu_seconds for run in runs), "of_dense": median(shares) if shares else None,
                }
            )  # fmt: skip
    return rows


COLUMNS = (
    Column("task", "task"),
    Column("arm", "arm"),
    Column("sparsity", "sparsity"),
    Column("runs", "runs"),
    Column("return", "return", ".0f"),
    Column("seconds", "seconds", ".0f"),
    Column("processor seconds", "cpu_seconds", ".0f"),
    Column("of dense", "of_dense", ".2f"),
)
