"""One supervised run: train a network, dense or pruned, measure it, and say what it cost."""

import importlib.metadata
import platform
import time
from collections.abc import Mapping
from typing import Any

import torch as th

from lab.supervised.building import build_network, build_trainer, load_data
from lab.supervised.config import SupervisedConfig
from lab.supervised.data import Data
from lab.supervised.widths import give_widths, layer_widths
from rl_crop.core.pruning.planning import trace
from rl_crop.core.recipes.drivers import run_recipe
from rl_crop.evaluation.networks import weights_left
from rl_crop.supervised.pruning import chosen_recipe
from rl_crop.supervised.trainer import Trainer


def run(
    config: SupervisedConfig, seed: int, *, widths: Mapping[str, int] | None = None, data: Data | None = None
) -> dict[str, Any]:
    """
    Train one network.

    :param config: what to run; trains densely where its ``pruning`` is ``None``.
    :param seed: of initial weights, the data's order and pruning.
    :param widths: outputs by layer of a smaller network to train from scratch, see
        :func:`~lab.supervised.widths.give_widths`.
    :param data: the data set, where it has been loaded already.
    :return: the result, ready for JSON. ``metric`` names what ``validation`` and ``test`` measure (higher is better);
        ``cuts`` are pairs of optimizer steps and the parameters left then; ``seconds.prune`` is all that the recipe took
        beside optimizer steps.
    :raises PruningError: the configuration cannot be run.
    """
    recipe = None if config.pruning is None else chosen_recipe(config.pruning)  # what can fail early
    data = load_data(config) if data is None else data
    trainer = build_trainer(config, data, build_network(config, data, seed), seed)
    if widths is not None:
        give_widths(trainer.subject(trainer.batches(1)), widths, seed)
    flops_before = _flops(trainer)
    start, cpu_start = time.perf_counter(), time.process_time()
    report = None
    if recipe is None:
        trainer.train()
    else:
        report = run_recipe(trainer, *recipe, seed)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return {
        "config": config.to_dict(),
        "seed": seed,
        "metric": trainer.objective.name,
        "validation": trainer.evaluate(),
        "test": trainer.measure(data.test),
        "n_params": trainer.n_params,
        "n_params_left": weights_left(list(trainer.model.parameters())),
        "flops": _flops(trainer),
        "flops_before": flops_before,
        "widths": layer_widths(trainer.model),
        "report": None if report is None else report.to_dict(),
        "n_steps": trainer.n_done,
        "cuts": trainer.cuts,
        "seconds": {
            "train": trainer.seconds,
            "train_cpu": trainer.cpu_seconds,
            "prune": seconds - trainer.seconds,
            "prune_cpu": cpu_seconds - trainer.cpu_seconds,
            "threads": th.get_num_threads(),
        },
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in ("rl-crop", "torch", "numpy")},
    }


def _flops(trainer: Trainer) -> int:
    return trace(trainer.subject(trainer.batches(1))).flops
