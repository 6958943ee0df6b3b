"""Whole runs, as a study recorded them: return and time of every arm beside the dense agents of the same seeds."""

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
    runs = results.runs[results.runs["task"].isin(TASKS)]
    dense = runs.loc[runs["arm"] == "dense", ["task", "seed", "cpu_seconds"]]
    beside = runs.merge(dense, how="left", on=["task", "seed"], suffixes=("", "_of_dense"))
    beside["of_dense"] = beside["cpu_seconds"] / beside["cpu_seconds_of_dense"]
    rows = beside.groupby(["task", "sparsity", "arm"], as_index=False).agg(
        runs=("seed", "size"), score=("score", "mean"), seconds=("seconds", "median"), cpu_seconds=("cpu_seconds", "median"),
        of_dense=("of_dense", "median"),
    ).astype({"of_dense": object})  # fmt: skip
    return list(rows.where(rows.notna(), None).to_dict("records"))


COLUMNS = (
    Column("task", "task"),
    Column("arm", "arm"),
    Column("sparsity", "sparsity"),
    Column("runs", "runs"),
    Column("return", "score", ".0f"),
    Column("seconds", "seconds", ".0f"),
    Column("processor seconds", "cpu_seconds", ".0f"),
    Column("of dense", "of_dense", ".2f"),
)
