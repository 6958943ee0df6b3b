"""Train an agent, dense or pruned early in training.

Examples::

    python scripts/train.py configs/ppo_cartpole.yaml
    python scripts/train.py configs/ppo_cartpole.yaml --dense --seed 1
    python scripts/train.py configs/sac_halfcheetah.yaml --sparsity 0.9 --criterion crop --when 0.25
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

# Small networks on a CPU are fastest on one thread. It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from command_line import tyro
from rl_crop.evaluation import ConfigError, RunConfig, load_config, run
from rl_crop.evaluation.checks import check_seed
from rl_crop.evaluation.command import command
from rl_crop.evaluation.plots import describe_cut
from rl_crop.evaluation.yaml_files import parse_yaml


@dataclass(frozen=True)
class Args:
    config: tyro.conf.Positional[Path]
    """The task: a YAML file of `configs/`."""
    seed: int = 0
    """Seeds the agent, its environments and the evaluation."""
    dense: bool = False
    """Train without pruning, whatever the file says."""
    sparsity: float | None = None
    """Share of the prunable parameters to cut, instead of the file's."""
    criterion: str | None = None
    """How units are scored, instead of the file's: crop, span_crop, span, magnitude, random, …"""
    when: str | None = None
    """When to cut, instead of the file's: lazy, epi, a fraction such as 0.25, or a number of steps."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Any other key of the file, as `key=value` with dots for nesting: `--set n_timesteps=5000`. Can be repeated."""
    out: Path | None = None
    """The run directory; by default one under `runs/` that names the task, the arm and the seed."""
    verbose: int = 0
    """1 prints the algorithm's own log."""
    progress_bar: bool = True
    """Show a progress bar while training."""


def resolve(args: Args) -> RunConfig:
    """
    The configuration that the arguments ask for.

    :param args: the arguments
    :return: the file's configuration with the arguments' changes
    """
    check_seed("--seed", args.seed)
    overrides: dict[str, Any] = {}
    for assignment in args.set:
        key, separator, value = assignment.partition("=")
        *parents, last = key.split(".")
        if not separator or not all((*parents, last)):
            raise ConfigError(f"--set {assignment}: expected key=value")
        place = overrides
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set {assignment}: `{parent}` is given as a whole before")
        if last in place:
            raise ConfigError(f"--set {assignment}: `{key}` is given twice")
        place[last] = parse(f"--set {assignment}", value)
    config = load_config(args.config, overrides)
    given = {"sparsity": args.sparsity, "criterion": args.criterion, "when": args.when and parse("--when", args.when)}
    if args.dense:
        named = [f"--{name}" for name, value in given.items() if value is not None]
        named += ["--set pruning"] if "pruning" in overrides else []
        if named:
            raise ConfigError(f"--dense trains without pruning, so it does not go with {', '.join(named)}")
        return config.with_pruning(None)
    changes = {key: value for key, value in given.items() if value is not None}
    return config.with_pruning((config.pruning or {}) | changes) if changes else config


def parse(where: str, text: str) -> Any:
    """
    :param where: it stands
    :param text: YAML of the command line
    :return: its content
    :raises ConfigError: it is no YAML
    """
    try:
        return parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{where} is {error}") from None


def default_directory(args: Args, config: RunConfig) -> Path:
    """
    A run directory whose name tells what is in it.

    :param args: the arguments
    :param config: the run
    :return: the directory
    """
    arm = "dense"
    if config.pruning is not None:
        arm = f"{config.pruning.get('criterion', 'pruned')}_{config.pruning.get('sparsity', '')}"
    return Path("runs") / f"{args.config.stem}_{arm}_seed{args.seed}"


def main(args: Args) -> None:
    """
    Train, then say what came out, where it is and what to do next.

    :param args: the arguments
    """
    config = resolve(args)
    if args.verbose not in (0, 1, 2):
        raise ConfigError(f"--verbose {args.verbose} must be 0, 1 or 2")
    directory = args.out or default_directory(args, config)
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"--out {directory} is a file: name a directory")
    report = run(config, directory, args.seed, progress_bar=args.progress_bar, verbose=args.verbose)

    final = report["final"]
    print(f"\nReturn over {len(final['returns'])} episodes: {final['mean']:.1f} ± {final['std']:.1f} (IQM {final['iqm']:.1f})")
    print("Parameters: " + ", ".join(f"{network} {count:,}" for network, count in report["n_params"].items()))
    for cut in report["cuts"]:
        print(f"Cut at {cut['timesteps']:,} steps: {describe_cut(cut)}")
    seconds = report["seconds"]
    print(f"Training took {seconds['learn']:.0f} s, with evaluations {seconds['learn_with_evaluation']:.0f} s")
    print(f"\nThe agent, its report and learning_curve.png are in {directory}/")
    print(f"Compare agents:    python scripts/evaluate.py {directory} [more run directories]")
    if report["cuts"]:
        print(f"The dense rival:   python scripts/train.py {args.config} --seed {args.seed} --dense")
    else:
        print(f"Prune this agent:  python scripts/prune.py {directory} --sparsity 0.9")


if __name__ == "__main__":
    sys.exit(command(main, Args, __doc__ or ""))
