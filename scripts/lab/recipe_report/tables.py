"""What every recipe, or other arm, reaches and costs, task by task and sparsity by sparsity: tables of a study."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rl_crop.core.recipes.registry import RECIPES
from rl_crop.evaluation.figures.style import percent
from rl_crop.evaluation.results import Folder, Key, read_folder
from rl_crop.evaluation.scores import DENSE
from rl_crop.evaluation.study import Cell
from rl_crop.evaluation.tables import NOTHING, Table
from rl_crop.evaluation.text import extent, number

REFUSED = "rl_crop.core.errors.PruningError: "
"""How the error of a recipe that does not work on a task begins, as a sweep writes it."""

NOTES = (
    "Measure: mean over seeds on the test set, or mean return of the final policy; higher is better. `to dense` is the mean "
    "difference to the dense network of the same seed.",
    "Recipes with an outer loop (several runs, candidates, extra phases) train longer than others: `training` says how many "
    "times the steps of the dense network, and its processor time. They do not compare at equal budget.",
    "Units are removed. Weights are masked: `parameters` counts what is not masked, but the masked network computes as much "
    "as the dense one, so its FLOPs are the dense ones, and it is no faster. FLOPs are of linear layers and convolutions, for "
    "one observation (of an agent: through actor and critic once).",
    "`pruning` is all that the recipe did beside training steps: scoring, choosing, cutting, repairing, judging candidates. "
    "Processor time, one thread.",
    "A recipe that does not work on a task is refused, with the reason; one seed that is refused or fails is named, and the "
    "others are averaged.",
)


@dataclass(frozen=True)
class Outcome:
    """
    What is used of one result.

    :param key: its cell
    :param score: the measure at the end
    :param metric: what it measures
    :param n_params: parameters that are there and not masked
    :param flops: for one observation
    :param narrowest: units of the smallest hidden layer; ``None`` without one
    :param prunes: ``"units"``, ``"weights"``, or a dash where nothing is pruned
    :param n_steps: how long was trained, in optimizer steps or environment steps
    :param training: processor seconds of it
    :param pruning: processor seconds of all that the recipe did beside
    """

    key: Key
    score: float
    metric: str
    n_params: int
    flops: int
    narrowest: int | None
    prunes: str
    n_steps: int
    training: float
    pruning: float


def read_outcomes(folder: str | Path, cells: Iterable[Cell] | None = None) -> Folder[Outcome]:
    """
    :param folder: one JSON file a cell, as ``scripts/sweep.py`` writes it
    :param cells: the cells of the study
    :return: the results, and what failed or is missing
    :raises PruningError: there are none
    """
    return read_folder(folder, cells, _outcome)


def _outcome(key: Key, result: Mapping[str, Any]) -> Outcome:
    seconds = result["seconds"]
    return Outcome(
        key, result["final"]["mean"], result.get("metric", "return"), result["n_params_left"], result["flops"],
        _narrowest(result["widths"]), _prunes(result["config"]["pruning"]),
        result["n_timesteps_trained"] if "env" in result else result["n_steps"],
        seconds["learn_cpu"] - seconds["prune_cpu"], seconds["prune_cpu"],
    )  # fmt: skip


def _narrowest(widths: Mapping[str, Any]) -> int | None:
    if all(isinstance(value, int) for value in widths.values()):  # of a supervised network, whose last layer is the output
        return min([*widths.values()][:-1], default=None)
    return min((width for hidden in widths.values() for width in hidden), default=None)


def _prunes(pruning: Mapping[str, Any] | None) -> str:
    if pruning is None:
        return NOTHING
    recipe = RECIPES.get(pruning.get("recipe"))  # type: ignore[arg-type]
    return "units" if pruning.get("structured", recipe is None or recipe.structured) else "weights"


def recipe_tables(found: Folder[Outcome]) -> list[Table]:
    """
    :param found: the results
    :return: a table for each task and sparsity, the best on top, what was refused at the bottom
    """
    tables = []
    for task in found.tasks:
        keys = [key for key in (*found.runs, *found.failures, *found.missing) if key.task == task]
        for sparsity in sorted({key.sparsity for key in keys if key.sparsity != "0"}):
            arms = dict.fromkeys(key.arm for key in keys if key.sparsity in ("0", sparsity))
            tables.append(_table(found, task, sparsity, list(arms)))
    return tables


def _table(found: Folder[Outcome], task: str, sparsity: str, arms: Sequence[str]) -> Table:
    dense = {run.key.seed: run for run in found.of(task, DENSE, "0")}
    steps = fmean(run.n_steps for run in dense.values()) if dense else None
    metric = next(run.metric for key, run in found.runs.items() if key.task == task)
    columns = (
        "recipe", "prunes", metric, "seeds", "lowest–highest", "to dense", "parameters", "FLOPs", "narrowest layer",
        "training, × dense", "training, CPU s", "pruning, CPU s", "what went wrong",
    )  # fmt: skip
    ranked = []
    for arm in arms:
        level = "0" if arm == DENSE else sparsity
        runs = found.of(task, arm, level)
        rest = [prunes(arm, runs), *_measures(runs, dense), *_costs(runs, steps), wrong(found, task, arm, level)]
        ranked.append((-mean(runs, lambda run: run.score) if runs else float("inf"), [arm, *rest]))
    rows = [row for _, row in sorted(ranked, key=lambda one: one[0])]
    tags = [{"task": task, "arm": row[0], "sparsity": sparsity} for row in rows]
    return Table(f"{task}, {percent(sparsity)}", columns, rows, tags)


def _measures(runs: Sequence[Outcome], dense: Mapping[int, Outcome]) -> list[str]:
    if not runs:
        return [NOTHING, "0", NOTHING, NOTHING]
    scores = [run.score for run in runs]
    differences = [run.score - dense[run.key.seed].score for run in runs if run.key.seed in dense]
    return [
        measure(fmean(scores)), str(len(runs)), f"{measure(min(scores))}–{measure(max(scores))}",
        measure(fmean(differences), sign="+") if differences else NOTHING,
    ]  # fmt: skip


def _costs(runs: Sequence[Outcome], steps: float | None) -> list[str]:
    if not runs:
        return [NOTHING] * 6
    narrowest = [run.narrowest for run in runs if run.narrowest is not None]
    return [
        extent([run.n_params for run in runs]), extent([run.flops for run in runs]),
        extent(narrowest) if narrowest else NOTHING,
        NOTHING if steps is None else f"{mean(runs, lambda run: run.n_steps) / steps:.2f}",
        number(mean(runs, lambda run: run.training)), number(mean(runs, lambda run: run.pruning)),
    ]  # fmt: skip


def prunes(arm: str, runs: Sequence[Outcome]) -> str:
    """
    :param arm: the arm's name
    :param runs: its results
    :return: what it prunes; of a recipe, also where it has no result
    """
    return runs[0].prunes if runs else _prunes({"recipe": arm}) if arm in RECIPES else NOTHING


def mean(runs: Sequence[Outcome], value: Callable[[Outcome], float]) -> float:
    """
    :param runs: one or more
    :param value: read off each
    :return: their mean
    """
    return fmean(value(run) for run in runs)


def measure(value: float, sign: str = "-") -> str:
    """
    :param value: an accuracy, R² or return
    :param sign: ``"+"`` writes the sign of positive numbers too
    :return: four decimals where it is small, one where it is not
    """
    return f"{value:{sign}.{4 if abs(value) < 2 else 1}f}"


def wrong(found: Folder[Outcome], task: str, arm: str, sparsity: str) -> str:
    """
    :param found: the results
    :param task: its name
    :param arm: the arm's name
    :param sparsity: its sparsity
    :return: why cells have no result: refusals, failures and cells that have not been run
    """
    reasons: dict[str, list[int]] = {}
    for key, error in (*found.failures.items(), *found.missing.items()):
        if key[:3] == (task, arm, sparsity):
            text = f"refused: {error.removeprefix(REFUSED)}" if error.startswith(REFUSED) else error
            reasons.setdefault(text if key in found.missing or text != error else f"failed: {error}", []).append(key.seed)
    return "; ".join(f"{reason} (seed {', '.join(map(str, sorted(seeds)))})" for reason, seeds in reasons.items())
