"""Train a network on a supervised task, dense or pruned early in training.

Examples::

    python scripts/lab/train_supervised.py configs/supervised/digits_cnn.yaml
    python scripts/lab/train_supervised.py configs/supervised/digits_cnn.yaml --dense --seed 1
    python scripts/lab/train_supervised.py configs/supervised/digits_cnn.yaml --recipe granet --sparsity 0.95
    python scripts/lab/train_supervised.py configs/supervised/cifar10_resnet18.yaml --root ~/data
"""

import dataclasses
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Small networks on a CPU are fastest on one thread. It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))  # where `lab` is

import tyro
import yaml

from lab.supervised.config import SupervisedConfig
from lab.supervised.data import MissingDataError
from lab.supervised.run import run
from rl_crop.core.errors import PruningError
from rl_crop.evaluation import ConfigError
from rl_crop.evaluation.tasks import load_task
from rl_crop.files import read_json, write_json


@dataclass(frozen=True)
class Args:
    config: tyro.conf.Positional[Path]
    """The task: a YAML file of `configs/supervised/`."""
    seed: int = 0
    """Seeds initial weights, the data's order and pruning."""
    dense: bool = False
    """Train without pruning, whatever the file says."""
    like: Path | None = None
    """A report.json: train from scratch a dense network of the widths that the run ended with."""
    recipe: str | None = None
    """A method of `rl_crop.recipes`, instead of what the file describes."""
    sparsity: float | None = None
    """Share to cut, instead of the file's."""
    criterion: str | None = None
    """How units are scored, instead of the file's: crop, span_crop, span, magnitude, random, …"""
    when: str | None = None
    """When to cut, instead of the file's: lazy, distance, epi, or a share of the run such as 0.25."""
    compensation: str | None = None
    """What repairs the cut, instead of the file's: none, bias, least_squares or distill."""
    n_epochs: int | None = None
    """Passes through the training set, instead of the file's."""
    root: Path | None = None
    """The folder in which the files of CIFAR or Tiny-ImageNet lie, instead of `data`."""
    out: Path | None = None
    """The run directory; by default one under `runs/` that names the task, the arm and the seed."""


def resolve(args: Args) -> SupervisedConfig:
    """
    The configuration that the arguments ask for.

    :param args: the arguments
    :return: the file's configuration with the arguments' changes
    """
    config = load_task(args.config, None if args.n_epochs is None else {"n_epochs": args.n_epochs})
    if not isinstance(config, SupervisedConfig):
        raise ConfigError(f"{args.config} is a run of an agent: scripts/train.py trains it")
    if args.root is not None:
        config = dataclasses.replace(config, data=config.data | {"root": str(args.root)})
    if args.dense or args.like is not None:
        return dataclasses.replace(config, pruning=None)
    pruning: dict[str, Any] = dict(config.pruning or {})
    if args.recipe is not None:
        pruning = {"sparsity": pruning.get("sparsity", 0.9), "recipe": args.recipe}
    changes = {
        "sparsity": args.sparsity,
        "criterion": args.criterion,
        "when": args.when and yaml.safe_load(args.when),
        "compensation": args.compensation,
    }
    pruning |= {key: value for key, value in changes.items() if value is not None}
    return dataclasses.replace(config, pruning=pruning or None)


def default_directory(args: Args, config: SupervisedConfig) -> Path:
    """
    A run directory whose name tells what is in it.

    :param args: the arguments
    :param config: the run
    :return: the directory
    """
    arm = "dense" if args.like is None else f"like_{args.like.parent.name}"
    if config.pruning is not None:
        name = config.pruning.get("recipe") or config.pruning.get("criterion", "pruned")
        arm = f"{name}_{config.pruning.get('sparsity', 0.9)}"
    return Path("runs") / f"{args.config.stem}_{arm}_seed{args.seed}"


def main(args: Args) -> None:
    """
    Train, then say what came out and where it is.

    :param args: the arguments
    """
    config = resolve(args)
    widths = None if args.like is None else read_json(args.like)["widths"]
    path = (args.out or default_directory(args, config)) / "report.json"
    result = run(config, args.seed, widths=widths)
    write_json(path, result)

    print(f"{result['metric']}: {result['test']:.4f} on the test set, {result['validation']:.4f} in validation")
    print(f"Parameters {result['n_params']:,} ({result['n_params_left']:,} not masked), FLOPs {result['flops']:,}")
    print("Widths: " + ", ".join(f"{name} {width}" for name, width in result["widths"].items()))
    for step, n_params in result["cuts"]:
        print(f"Cut after {step} of {result['n_steps']} optimizer steps: {n_params:,} parameters left")
    seconds = result["seconds"]
    print(f"Training took {seconds['train']:.1f} s, pruning {seconds['prune']:.1f} s\n\nThe report is {path}")
    if result["report"] is not None:
        print(f"The dense rival:        python scripts/lab/train_supervised.py {args.config} --seed {args.seed} --dense")
        print(f"The same size, dense:   python scripts/lab/train_supervised.py {args.config} --seed {args.seed} --like {path}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except MissingDataError as error:
        print(f"Skipped: {error}", file=sys.stderr)
    except PruningError as error:
        sys.exit(f"Error: {error}")
