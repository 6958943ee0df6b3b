"""The results of a study as tables of pandas: a row for each run, and one for each cell without a result."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_crop.core.errors import PruningError
from rl_crop.evaluation.statistics import interquartile_mean, normalise
from rl_crop.evaluation.store import Store, last_line
from rl_crop.evaluation.study import Cell
from rl_crop.optional import require

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = require("pandas", "plots")

DENSE = "dense"
CELL = ["task", "arm", "sparsity", "seed"]
"""Columns that name a cell. A sparsity is text, as in the names of files: ``"0.95"``, or ``"actor0.9_critic0.8"``."""
# What a sweep writes when a process was killed: that says nothing about the method.
_KILLED = "The process ended with exit code"


@dataclass(frozen=True)
class Results:
    """
    The results of a study: tables whose first columns are :data:`CELL`.

    :param runs: what ended with a finite measure; what else it tells of them is told where it is read (:func:`agent_run`)
    :param failures: cells whose run broke off with an error or ended in a measure that is no number, and ``why``
    :param missing: cells that have neither, and ``why``
    :param stale: names of results that are of no cell of the study
    :param random: by task, the mean return of a random policy on each of its own seeds; tasks may be missing
    """

    runs: "pd.DataFrame"
    failures: "pd.DataFrame"
    missing: "pd.DataFrame"
    stale: tuple[str, ...] = ()
    random: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """Tasks with at least one run."""
        return list(self.runs["task"].unique())

    @property
    def keys(self) -> "pd.DataFrame":
        """All cells."""
        return pd.concat([table[CELL] for table in (self.runs, self.failures, self.missing)])

    def groups(self, task: str) -> list[tuple[str, str]]:
        """:return: the arms and sparsities that have a run or a failure on a task"""
        tried = self._finals[self._finals["task"] == task]
        return sorted(set(zip(tried["arm"], tried["sparsity"])), key=lambda group: group[::-1])

    def of(self, task: str, arm: str, sparsity: str) -> "pd.DataFrame":
        """:return: the runs of an arm of a task at a sparsity, by seed"""
        return pick(self.runs, task, arm, sparsity)

    def scores(self, task: str, arm: str, sparsity: str) -> "pd.Series":
        """
        The final returns of an arm of a task at a sparsity. A failed run counts with the return of a random policy; where that
        is not known, with the lowest return of the task.

        :return: returns by seed
        """
        return pick(self._finals, task, arm, sparsity).set_index("seed")["score"]

    def normalised(self, task: str, values: Iterable[float]) -> list[float] | None:
        """
        :param task: its name
        :param values: returns
        :return: 0 for a random policy, 1 for the dense arm; ``None`` where one of the two is not known or does not lead
        """
        scale = self.scale[task]
        return None if scale is None else normalise(list(values), *scale).tolist()

    @cached_property
    def scale(self) -> dict[str, tuple[float, float] | None]:
        """By task, the returns of a random policy and of the dense arm: interquartile means over their seeds."""
        found: dict[str, tuple[float, float] | None] = {}
        for task in self.tasks:
            dense = self.scores(task, DENSE, "0")
            known = task in self.random and not dense.empty
            pair = (interquartile_mean(self.random[task]), interquartile_mean(dense)) if known else (0.0, 0.0)
            found[task] = pair if pair[1] > pair[0] else None
        return found

    @cached_property
    def _finals(self) -> "pd.DataFrame":
        of_failures = self.runs.groupby("task")["score"].min().to_dict()
        of_failures |= {task: float(np.mean(returns)) for task, returns in self.random.items()}
        failed = self.failures[CELL].assign(score=self.failures["task"].map(of_failures).astype(float))
        return pd.concat([self.runs[[*CELL, "score"]], failed])


def pick(table: "pd.DataFrame", task: str, arm: str, sparsity: str) -> "pd.DataFrame":
    """:return: the rows of an arm of a task at a sparsity, by seed"""
    return table[(table["task"] == task) & (table["arm"] == arm) & (table["sparsity"] == sparsity)].sort_values("seed")


def agent_run(result: Mapping[str, Any]) -> dict[str, Any]:
    """
    What is used of the result of an agent's run.

    :param result: as it was recorded
    :return: ``env``, ``env_kwargs``, ``n_timesteps``; ``score``, the mean return of the final policy, never of the best
        checkpoint; ``last``, the mean return over the last tenth of the evaluations; ``timesteps`` and ``returns`` of all of
        them; ``n_params`` at the end, of all networks; ``widths``, the hidden ones at the end by head (``pi``, ``vf`` or
        ``qf``; ``net`` where there is one network alone); ``cuts``, their times as shares of the run, and what they were
        ``decided_by``; ``seconds`` and ``cpu_seconds`` of training with scoring and cutting, without evaluation; ``pruning``,
        the settings of the callback, ``None`` for a dense run
    :raises PruningError: it is of no agent
    """
    if "env" not in result:
        raise PruningError(f"{result['task']} is no training of an agent: scripts/lab/recipe_tables.py shows such studies")
    widths = result["widths"]
    return {
        "env": result["env"],
        "env_kwargs": result["config"]["env_kwargs"],
        "n_timesteps": result["n_timesteps"],
        "score": result["final"]["mean"],
        "last": result["last_evaluations_mean"],
        "timesteps": tuple(result["evaluations"]["timesteps"]),
        "returns": tuple(result["evaluations"]["mean_returns"]),
        "n_params": result["n_params"]["total"],
        "widths": widths if isinstance(widths, Mapping) else {"net": widths},
        "cuts": tuple(cut["timesteps"] / result["n_timesteps"] for cut in result["cuts"]),
        "decided_by": tuple(event["decided_by"] for event in result["pruning_history"]),
        "seconds": result["seconds"]["learn"],
        "cpu_seconds": result["seconds"]["learn_cpu"],
        "pruning": result["config"]["pruning"],
    }


def load_results(
    path: str | Path,
    cells: Iterable[Cell] | None = None,
    read: Callable[[Mapping[str, Any]], dict[str, Any]] = agent_run,
) -> Results:
    """
    Read the results of a study, finished or not.

    :param path: their folder, as ``scripts/sweep.py`` writes it, or the file into which it merged them
    :param cells: the cells of the study: results of other cells are left aside, and cells without one are missing. Without
        them, every arm of a task is expected on every seed that the task has.
    :param read: makes of a result what the table of runs holds of it, with a ``score``, which is better when higher
    :return: the results
    :raises PruningError: there are none, or two are of the same cell
    """
    results, errors = Store.at(path).recorded()
    wanted = None if cells is None else [cell.name for cell in cells]
    stale = () if wanted is None else tuple(sorted(results.keys() - set(wanted)))
    runs, failed, killed = list[dict[str, Any]](), list[dict[str, Any]](), list[dict[str, Any]]()
    for name, result in results.items():
        if name not in stale:
            row = _key(name) | read(result)
            (runs if np.isfinite(row["score"]) else failed).append(row | {"why": "the final return is no number"})
    for name, text in errors.items():
        if wanted is None or name in wanted:
            error = last_line(text)
            (killed if error.startswith(_KILLED) else failed).append(_key(name) | {"why": error})
    if not runs:
        raise PruningError(f"No results in {path}: run scripts/sweep.py first")
    ended = pd.DataFrame(runs).drop(columns="why")
    if ended.duplicated(CELL).any():
        twice = ended.loc[ended.duplicated(CELL), CELL].iloc[0]
        raise PruningError(f"{path} holds two results of {' '.join(map(str, twice))}: name the study they are of")
    expected = _every_seed([*runs, *failed, *killed]) if wanted is None else pd.DataFrame(map(_key, wanted))
    tried = pd.DataFrame([*runs, *failed])[CELL]
    missing = expected.merge(tried, how="left", indicator="found").query("found == 'left_only'")[CELL]
    missing = missing.merge(reasons(killed), how="left").fillna({"why": "not run yet"})
    return Results(ended, reasons(failed), missing, stale)


def reasons(rows: Iterable[Mapping[str, Any]]) -> "pd.DataFrame":
    """
    :param rows: cells without a result, with ``why``
    :return: these as a table
    """
    return pd.DataFrame(rows, columns=[*CELL, "why"]).astype({"seed": int, **dict.fromkeys([*CELL[:3], "why"], str)})


def _every_seed(rows: list[dict[str, Any]]) -> "pd.DataFrame":
    tried = pd.DataFrame(rows)[CELL].sort_values(CELL)
    return tried[CELL[:3]].drop_duplicates().merge(tried[["task", "seed"]].drop_duplicates())


def _key(name: str) -> dict[str, Any]:
    try:
        task, arm, sparsity, seed, _ = name.rsplit("__", 4)
        return {"task": task, "arm": arm, "sparsity": sparsity, "seed": int(seed.removeprefix("seed"))}
    except ValueError:
        raise PruningError(f"{name} is no result of a study: expected task__arm__sparsity__seedN__hash") from None
