"""Results of studies that were never run."""

from typing import NamedTuple

import pandas as pd

from rl_crop.evaluation.results import CELL, Results, reasons
from rl_crop.files import write_json


class Key(NamedTuple):
    """Names a cell."""

    task: str
    arm: str
    sparsity: str
    seed: int


def without(why):
    """A table of cells without a result, from the reason of each."""
    return reasons([dict(zip(CELL, key), why=text) for key, text in why.items()])


def said(table):
    """The reason of each cell of such a table."""
    return {Key(*row[:4]): row[4] for row in table.itertuples(index=False)}


def make_run(task, arm, sparsity, seed, score, when=None, cut=None, env="CartPole-v1", **bounds):
    """A run with the given final return; ``when`` and ``bounds`` are the callback's, ``cut`` the share at which it cut."""
    pruning = None if when is None else {"criterion": "crop", "when": when, **bounds}
    width = 64 if sparsity == "0" else 6 + seed
    return {
        "task": task, "arm": arm, "sparsity": sparsity, "seed": seed, "env": env, "env_kwargs": {}, "n_timesteps": 1000,
        "score": score, "last": score - 1, "timesteps": (500, 1000), "returns": (score / 2, score), "n_params": 10 * width,
        "widths": {"pi": [width, width + 1], "vf": [width]}, "cuts": () if cut is None else (cut,),
        "decided_by": () if cut is None else ("lazy",), "seconds": 20.0 + seed, "cpu_seconds": 10.0 + seed, "pruning": pruning,
    }  # fmt: skip


def make_results(arms, random=None, failures=(), missing=(), settings=None):
    """
    :param arms: ``(task, arm, sparsity)`` → returns of seeds 0, 1, …
    :param random: returns of random policies by task
    :param failures: keys of failed runs
    :param missing: keys of missing runs
    :param settings: arguments of :func:`make_run` by arm
    """
    runs = [
        make_run(*group, seed, score, **(settings or {}).get(group[1], {}))
        for group, returns in arms.items()
        for seed, score in enumerate(returns)
    ]
    failed, not_run = (without(dict.fromkeys(*some)) for some in ((failures, "it broke"), (missing, "not run yet")))
    return Results(pd.DataFrame(runs), failed, not_run, random=random or {})


def made_at_fixed_times(random=None):
    """Of one task: dense runs, an automatic time, two fixed ones and random units."""
    arms = {
        ("a", "dense", "0"): [100.0, 100.0, 130.0], ("a", "crop", "0.9"): [80.0, 90.0, 70.0],
        ("a", "at_10", "0.9"): [50.0, 60.0, 70.0], ("a", "at_50", "0.9"): [20.0, 20.0, 50.0],
        ("a", "random", "0.9"): [70.0, 95.0, 0.0],
    }  # fmt: skip
    times = {"crop": {"when": "lazy", "cut": 0.2}, "at_10": {"when": 0.1, "cut": 0.1}, "at_50": {"when": 0.5, "cut": 0.5}}
    return make_results(arms, random, settings=times)


def write_result(folder, task, arm, sparsity, seed, score, digits="00000000"):
    """Write a result as a sweep does."""
    name = f"{task}__{arm}__{sparsity}__seed{seed}__{digits}"
    dense = sparsity == "0"
    widths = {"pi": [64, 64], "vf": [64]} if dense else {"pi": [5, 6 + seed], "vf": [7]}
    cuts = [] if dense else [{"timesteps": 250, "widths_before": {"pi": [64, 64], "vf": [64]}, "widths_after": widths}]
    history = [] if dense else [{"timesteps": 250, "decided_by": "lazy"}]
    return write_json(
        folder / f"{name}.json",
        {
            "task": task, "arm": arm, "sparsity": float(sparsity), "env": "CartPole-v1", "algo": "ppo", "seed": seed,
            "n_timesteps": 1000, "final": {"mean": score}, "last_evaluations_mean": score - 1,
            "evaluations": {"timesteps": [500, 1000], "mean_returns": [score / 2, score]},
            "n_params": {"total": 9000 if dense else 100 + seed}, "widths": widths, "cuts": cuts, "pruning_history": history,
            "seconds": {"learn": 20.0, "learn_cpu": 10.0},
            "config": {"env_kwargs": {}, "pruning": None if dense else {"criterion": "crop", "when": "lazy"}},
        },
    )  # fmt: skip
