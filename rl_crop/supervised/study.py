"""Tasks × arms × sparsities × seeds of supervised runs, and the tables that compare them."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rl_crop.core.errors import PruningError
from rl_crop.evaluation.config import read_yaml
from rl_crop.evaluation.text import extent, number
from rl_crop.supervised.building import load_data
from rl_crop.supervised.config import SupervisedConfig
from rl_crop.supervised.data import Data
from rl_crop.supervised.pruning import chosen_recipe
from rl_crop.supervised.run import run

Row = dict[str, Any]
DENSE = "dense"
"""The arm that is not pruned."""


@dataclass(frozen=True)
class SupervisedStudy:
    """
    What is compared; read from a YAML file.

    :param tasks: configurations by name (in the file: paths beside it); their ``pruning`` is what arms change.
    :param arms: by name, changes of a task's ``pruning``; ``{like: arm}`` is a dense network with the widths that another
        arm ended with, trained from scratch. ``dense`` is always there.
    :param sparsities: shares to cut.
    :param seeds: of initial weights, the data's order and pruning.
    """

    tasks: Mapping[str, SupervisedConfig]
    arms: Mapping[str, Mapping[str, Any]]
    sparsities: Sequence[float]
    seeds: Sequence[int]

    def __post_init__(self) -> None:
        for arm, changes in self.arms.items():
            if "like" in changes:
                earlier = list(self.arms)[: list(self.arms).index(arm)]
                if len(changes) > 1 or changes["like"] not in earlier or "like" in self.arms[changes["like"]]:
                    raise PruningError(f"arms.{arm}: `like` names a pruned arm above it, and stands alone.")
            else:
                for task in self.tasks:
                    chosen_recipe(self.pruning(task, arm, 0.5))

    def pruning(self, task: str, arm: str, sparsity: float) -> dict[str, Any]:
        """:return: the ``pruning`` of a cell."""
        base = {} if "recipe" in self.arms[arm] else dict(self.tasks[task].pruning or {})
        return base | dict(self.arms[arm]) | {"sparsity": sparsity}

    def cells(self, task: str) -> Iterator[tuple[str, float, int]]:
        """:return: (arm, sparsity, seed) of a task's cells; what others depend on comes before them."""
        for seed in self.seeds:
            yield DENSE, 0.0, seed
            for sparsity in self.sparsities:
                yield from ((arm, sparsity, seed) for arm in self.arms)


def read_study(path: Path) -> SupervisedStudy:
    """
    :param path: a YAML file.
    :return: the study.
    :raises PruningError: names what is wrong.
    """
    given = read_yaml(path)
    if set(given) != {"tasks", "arms", "sparsities", "seeds"}:
        raise PruningError(f"{path}: a supervised study has tasks, arms, sparsities and seeds, not {sorted(given)}.")
    tasks = {name: SupervisedConfig.from_dict(read_yaml(path.parent / file)) for name, file in given["tasks"].items()}
    return SupervisedStudy(tasks, given["arms"], given["sparsities"], given["seeds"])


def run_task(
    study: SupervisedStudy, task: str, rows: list[Row], done: Callable[[Row], None], only: Collection[str] = ()
) -> None:
    """
    Run what has no row yet.

    :param study: the study.
    :param task: one of its tasks.
    :param rows: rows of earlier calls; new ones are added.
    :param done: called with each new row.
    :param only: the arms to run beside dense; all of them where empty.
    """
    config, known = study.tasks[task], {_key(row): row for row in rows}
    data: Data | None = None
    for arm, sparsity, seed in study.cells(task):
        if only and arm not in {DENSE, *only}:
            continue
        like = None if arm == DENSE else study.arms[arm].get("like")
        pruning = None if arm == DENSE or like else study.pruning(task, arm, sparsity)
        if (found := known.get((arm, sparsity, seed))) is not None and "error" not in found and found["pruning"] == pruning:
            continue
        data = load_data(config) if data is None else data
        widths = known.get((like, sparsity, seed), {}).get("widths") if like else None
        row: Row = {"arm": arm, "sparsity": sparsity, "seed": seed, "pruning": pruning}
        try:
            if like and widths is None:
                raise PruningError(f"{like} has no result.")
            row |= _facts(run(replace(config, pruning=pruning), seed, widths=widths, data=data))
        except PruningError as error:
            row["error"] = str(error)
        if found is not None:
            rows.remove(found)
        rows.append(row)
        known[arm, sparsity, seed] = row
        done(row)


def _key(row: Row) -> tuple[str, float, int]:
    return row["arm"], row["sparsity"], row["seed"]


def _facts(result: Mapping[str, Any]) -> Row:
    facts = ("metric", "validation", "test", "n_params", "n_params_left", "flops", "flops_before", "widths", "cuts", "n_steps")
    return {name: result[name] for name in facts} | {"seconds": result["seconds"]}


def table(study: SupervisedStudy, rows: Sequence[Row]) -> str:
    """
    :param study: the study.
    :param rows: of one task.
    :return: a Markdown table, an arm and sparsity a row, over seeds: mean and standard deviation of the measure on the test
        set, the worst seed, its mean beside that of dense with the same seeds, and what is left; seconds are of the processor.
    """
    of: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        of.setdefault((row["arm"], row["sparsity"]), []).append(row)
    dense = {row["seed"]: row["test"] for row in of[DENSE, 0.0]}
    header = ["arm", "sparsity", "seeds", of[DENSE, 0.0][0]["metric"], "worst seed", "minus dense", "parameters left", "FLOPs",
              "narrowest layer", "cut at", "pruning s", "training s"]  # fmt: skip
    lines = [header, ["---"] * len(header)]
    for arm, sparsity in [(DENSE, 0.0), *((arm, share) for share in study.sparsities for arm in study.arms)]:
        here = of.get((arm, sparsity), [])
        good = [row for row in here if "error" not in row]
        if not good:
            lines.append([f"`{arm}`", f"{sparsity:.0%}", here[0]["error"] if here else "not run", *[""] * 9])
            continue
        tests, above = np.array([[row["test"], row["test"] - dense[row["seed"]]] for row in good]).T
        hidden = [min(list(row["widths"].values())[:-1]) for row in good]
        cuts = [row["cuts"][0][0] / row["n_steps"] for row in good if row["cuts"]]
        means = {name: float(np.mean([row["seconds"][name] for row in good])) for name in ("prune_cpu", "train_cpu")}
        failed = f" ({len(here) - len(good)} failed)" if len(good) < len(here) else ""
        lines.append(
            [f"`{arm}`", f"{sparsity:.0%}" if sparsity else "", f"{len(good)}{failed}",
             f"{tests.mean():.4f} ± {tests.std():.4f}",
             f"{tests.min():.4f}", f"{above.mean():+.4f}", extent([row["n_params_left"] for row in good]),
             extent([row["flops"] for row in good]), extent(hidden), f"{np.mean(cuts):.0%}" if cuts else "",
             number(means["prune_cpu"]), number(means["train_cpu"])]
        )  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
