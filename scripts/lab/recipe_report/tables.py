"""What every recipe, or other arm, reaches and costs, task by task and sparsity by sparsity: tables of a study."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from rl_crop.core.recipes.registry import RECIPES
from rl_crop.evaluation.figures.style import percent
from rl_crop.evaluation.results import DENSE, Results, pd, pick
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


def outcome(result: Mapping[str, Any]) -> dict[str, Any]:
    """
    What is used of one result.

    :param result: as it was recorded
    :return: ``score``, the measure at the end, and its ``metric``; ``n_params`` that are there and not masked; ``flops`` for
        one observation; ``narrowest``, the units of the smallest hidden layer, ``None`` without one; ``prunes``, ``"units"``,
        ``"weights"``, or a dash where nothing is pruned; ``n_steps``, how long was trained, in optimizer steps or environment
        steps; processor seconds of ``training`` and of ``pruning``, which is all that the recipe did beside
    """
    seconds = result["seconds"]
    return {
        "score": result["final"]["mean"],
        "metric": result.get("metric", "return"),
        "n_params": result["n_params_left"],
        "flops": result["flops"],
        "narrowest": _narrowest(result["widths"]),
        "prunes": _prunes(result["config"]["pruning"]),
        "n_steps": result["n_timesteps_trained"] if "env" in result else result["n_steps"],
        "training": seconds["learn_cpu"] - seconds["prune_cpu"],
        "pruning": seconds["prune_cpu"],
    }


def _narrowest(widths: Mapping[str, Any]) -> int | None:
    if all(isinstance(value, int) for value in widths.values()):  # of a supervised network, whose last layer is the output
        return min([*widths.values()][:-1], default=None)
    return min((width for hidden in widths.values() for width in hidden), default=None)


def _prunes(pruning: Mapping[str, Any] | None) -> str:
    if pruning is None:
        return NOTHING
    recipe = RECIPES.get(pruning.get("recipe"))  # type: ignore[arg-type]
    return "units" if pruning.get("structured", recipe is None or recipe.structured) else "weights"


def recipe_tables(found: Results) -> list[Table]:
    """
    :param found: the results, of :func:`outcome`
    :return: a table for each task and sparsity, the best on top, what was refused at the bottom
    """
    tables = []
    for task in found.tasks:
        keys = found.keys[found.keys["task"] == task]
        for sparsity in sorted(set(keys["sparsity"]) - {"0"}):
            arms = keys.loc[keys["sparsity"].isin(("0", sparsity)), "arm"].unique()
            tables.append(_table(found, task, sparsity, sorted(arms)))
    return tables


def _table(found: Results, task: str, sparsity: str, arms: list[str]) -> Table:
    dense = found.of(task, DENSE, "0").set_index("seed")
    metric = found.runs.loc[found.runs["task"] == task, "metric"].iloc[0]
    columns = (
        "recipe", "prunes", metric, "seeds", "lowest–highest", "to dense", "parameters", "FLOPs", "narrowest layer",
        "training, × dense", "training, CPU s", "pruning, CPU s", "what went wrong",
    )  # fmt: skip
    ranked = []
    for arm in arms:
        level = "0" if arm == DENSE else sparsity
        runs = found.of(task, arm, level).set_index("seed")
        row = [arm, prunes(arm, runs), *_measures(runs, dense), *_costs(runs, dense), wrong(found, task, arm, level)]
        ranked.append((float("inf") if runs.empty else -fmean(runs["score"]), row))
    rows = [row for _, row in sorted(ranked, key=lambda one: one[0])]
    tags = [{"task": task, "arm": row[0], "sparsity": sparsity} for row in rows]
    return Table(f"{task}, {percent(sparsity)}", columns, rows, tags)


def _measures(runs: "pd.DataFrame", dense: "pd.DataFrame") -> list[str]:
    scores = runs["score"]
    if scores.empty:
        return [NOTHING, "0", NOTHING, NOTHING]
    differences = (scores - dense["score"]).dropna()  # of the seeds that both have
    return [
        measure(fmean(scores)), str(len(scores)), f"{measure(scores.min())}–{measure(scores.max())}",
        NOTHING if differences.empty else measure(fmean(differences), sign="+"),
    ]  # fmt: skip


def _costs(runs: "pd.DataFrame", dense: "pd.DataFrame") -> list[str]:
    if runs.empty:
        return [NOTHING] * 6
    narrowest = runs["narrowest"].dropna().astype(int)
    return [
        extent(runs["n_params"]), extent(runs["flops"]), NOTHING if narrowest.empty else extent(narrowest),
        NOTHING if dense.empty else f"{fmean(runs['n_steps']) / fmean(dense['n_steps']):.2f}",
        number(fmean(runs["training"])), number(fmean(runs["pruning"])),
    ]  # fmt: skip


def prunes(arm: str, runs: "pd.DataFrame") -> str:
    """
    :param arm: the arm's name
    :param runs: its results
    :return: what it prunes; of a recipe, also where it has no result
    """
    if not runs.empty:
        return str(runs["prunes"].iloc[0])
    return _prunes({"recipe": arm}) if arm in RECIPES else NOTHING


def measure(value: float, sign: str = "-") -> str:
    """
    :param value: an accuracy, R² or return
    :param sign: ``"+"`` writes the sign of positive numbers too
    :return: four decimals where it is small, one where it is not
    """
    return f"{value:{sign}.{4 if abs(value) < 2 else 1}f}"


def wrong(found: Results, task: str, arm: str, sparsity: str) -> str:
    """:return: why cells of an arm of a task at a sparsity have no result: refused, failed, or not run"""
    failed = pick(found.failures, task, arm, sparsity)
    said = failed["why"].map(
        lambda why: f"refused: {why.removeprefix(REFUSED)}" if why.startswith(REFUSED) else f"failed: {why}"
    )
    cells = pd.concat([failed.assign(why=said), pick(found.missing, task, arm, sparsity)])
    seeds = cells.groupby("why", sort=False)["seed"].agg(lambda values: ", ".join(map(str, sorted(values))))
    return "; ".join(f"{why} (seed {of_why})" for why, of_why in seeds.items())
