"""The results of a study as a sweep left them: runs, failures, and cells without a result."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np

from rl_crop.core.errors import PruningError
from rl_crop.evaluation.store import Store, last_line
from rl_crop.evaluation.study import Cell

# What a sweep writes when a process was killed: that says nothing about the method.
_KILLED = "The process ended with exit code"


class Key(NamedTuple):
    """
    Which cell of a study. ``sparsity`` is text, as in the names of files: ``"0.95"``, or ``"actor0.9_critic0.8"``.
    """

    task: str
    arm: str
    sparsity: str
    seed: int


@dataclass(frozen=True)
class Run:
    """
    What is used of one run's result.

    :param key: its cell
    :param env: the environment's id
    :param env_kwargs: the environment's keyword arguments
    :param n_timesteps: environment steps
    :param score: the mean return of the final policy, never of the best checkpoint
    :param last: the mean return over the last tenth of the evaluations
    :param timesteps: when the agent was evaluated
    :param returns: the mean return of each evaluation
    :param n_params: parameters at the end, of all networks
    :param widths: the hidden widths at the end, by head (``pi``, ``vf`` or ``qf``; ``net`` where there is one network alone)
    :param cuts: the times of the cuts, as shares of the run
    :param decided_by: what decided each cut
    :param seconds: wall-clock of training with scoring and cutting, without evaluation
    :param cpu_seconds: the same in processor time
    :param pruning: the settings of the pruning callback; ``None`` for a dense run
    """

    key: Key
    env: str
    env_kwargs: Mapping[str, Any]
    n_timesteps: int
    score: float
    last: float
    timesteps: tuple[int, ...]
    returns: tuple[float, ...]
    n_params: int
    widths: Mapping[str, list[int]]
    cuts: tuple[float, ...]
    decided_by: tuple[str, ...]
    seconds: float
    cpu_seconds: float
    pruning: Mapping[str, Any] | None


class Scored(Protocol):
    """What is read off the result of any cell."""

    @property
    def key(self) -> Key:
        """Its cell."""

    @property
    def score(self) -> float:
        """The measure at the end; higher is better."""


R = TypeVar("R", bound=Scored)


@dataclass(frozen=True)
class Folder(Generic[R]):
    """
    The results of a study.

    :param runs: what ended with a finite return
    :param failures: cells whose run broke off with an error or ended in a return that is no number, and the error
    :param missing: cells that have neither, and why
    :param stale: names of results that are of no cell of the study
    """

    runs: Mapping[Key, R]
    failures: Mapping[Key, str]
    missing: Mapping[Key, str]
    stale: tuple[str, ...] = ()

    @property
    def tasks(self) -> list[str]:
        """Tasks with at least one run."""
        return list(dict.fromkeys(key.task for key in self.runs))

    def groups(self, task: str) -> list[tuple[str, str]]:
        """
        :param task: its name
        :return: the arms and sparsities that have a run or a failure
        """
        keys = [key for key in (*self.runs, *self.failures) if key.task == task]
        return sorted({(key.arm, key.sparsity) for key in keys}, key=lambda group: (group[1], group[0]))

    def of(self, task: str, arm: str, sparsity: str) -> list[R]:
        """
        :param task: its name
        :param arm: the arm's name
        :param sparsity: its sparsity
        :return: the runs, by seed
        """
        return sorted((run for key, run in self.runs.items() if key[:3] == (task, arm, sparsity)), key=lambda r: r.key.seed)

    def failed(self, task: str, arm: str, sparsity: str) -> list[int]:
        """
        :param task: its name
        :param arm: the arm's name
        :param sparsity: its sparsity
        :return: the seeds whose run failed
        """
        return sorted(key.seed for key in self.failures if key[:3] == (task, arm, sparsity))


Results: TypeAlias = Folder[Run]
"""The results of a study of agents."""


def load_results(folder: str | Path, cells: Iterable[Cell] | None = None) -> Results:
    """:return: what :func:`read_folder` finds of agents' runs"""
    return read_folder(folder, cells, _run)


def read_folder(folder: str | Path, cells: Iterable[Cell] | None, read: Callable[[Key, Mapping[str, Any]], R]) -> Folder[R]:
    """
    Read the results of a study, finished or not.

    :param folder: of the results, as ``scripts/sweep.py`` writes it, or the file into which it merged them
    :param cells: the cells of the study: results of other cells are left aside, and cells without one are missing. Without
        them, every arm of a task is expected on every seed that the task has.
    :param read: makes of a cell's key and its result what is used of it
    :return: the results
    :raises PruningError: there are none, or two are of the same cell
    """
    results, errors = Store.at(folder).recorded()
    wanted = None if cells is None else {cell.name: _key(cell.name) for cell in cells}
    stale = () if wanted is None else tuple(name for name in results if name not in wanted)
    runs: dict[Key, R] = {}
    failures: dict[Key, str] = {}
    killed: dict[Key, str] = {}
    for name, result in results.items():
        if name in stale:
            continue
        run = read(_key(name), result)
        if run.key in runs:
            raise PruningError(f"{folder} holds two results of {' '.join(map(str, run.key))}: name the study they are of")
        if np.isfinite(run.score):
            runs[run.key] = run
        else:
            failures[run.key] = "the final return is no number"
    for name, text in errors.items():
        if wanted is None or name in wanted:
            error = last_line(text)
            (killed if error.startswith(_KILLED) else failures)[_key(name)] = error
    if not runs:
        raise PruningError(f"No results in {folder}: run scripts/sweep.py first")
    expected = _product([*runs, *failures, *killed]) if wanted is None else list(wanted.values())
    missing = {key: killed.get(key, "not run yet") for key in expected if key not in runs and key not in failures}
    return Folder(runs, failures, missing, stale)


def _product(keys: list[Key]) -> list[Key]:
    groups = sorted({key[:3] for key in keys})
    seeds = {task: sorted({key.seed for key in keys if key.task == task}) for task, _, _ in groups}
    return [Key(*group, seed) for group in groups for seed in seeds[group[0]]]


def _key(name: str) -> Key:
    try:
        task, arm, sparsity, seed, _ = name.rsplit("__", 4)
        return Key(task, arm, sparsity, int(seed.removeprefix("seed")))
    except ValueError:
        raise PruningError(f"{name} is no result of a study: expected task__arm__sparsity__seedN__hash") from None


def _run(key: Key, result: Mapping[str, Any]) -> Run:
    if "env" not in result:
        raise PruningError(f"{key.task} is no training of an agent: scripts/lab/recipe_tables.py shows such studies")
    widths = result["widths"]
    history = result["pruning_history"]
    return Run(
        key=key,
        env=result["env"],
        env_kwargs=result["config"]["env_kwargs"],
        n_timesteps=result["n_timesteps"],
        score=result["final"]["mean"],
        last=result["last_evaluations_mean"],
        timesteps=tuple(result["evaluations"]["timesteps"]),
        returns=tuple(result["evaluations"]["mean_returns"]),
        n_params=result["n_params"]["total"],
        widths=widths if isinstance(widths, Mapping) else {"net": widths},
        cuts=tuple(cut["timesteps"] / result["n_timesteps"] for cut in result["cuts"]),
        decided_by=tuple(event["decided_by"] for event in history),
        seconds=result["seconds"]["learn"],
        cpu_seconds=result["seconds"]["learn_cpu"],
        pruning=result["config"]["pruning"],
    )
