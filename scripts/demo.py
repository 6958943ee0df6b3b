"""
Prune PPO on CartPole-v1 early in training, and compare it with the same agent trained densely and with a dense agent that
had the small widths from the start. Takes under 3 minutes on two cores. `make demo` runs it.
"""

import multiprocessing
import os
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

from rl_crop.core.pruning.settings import check_sparsity
from rl_crop.evaluation import ConfigError, RunConfig, load_config, run
from rl_crop.evaluation.agents import PICTURE, REPORT
from rl_crop.evaluation.command import command
from rl_crop.evaluation.compare import comparison_table, summarize
from rl_crop.evaluation.plots import describe_cut, plot_comparison
from rl_crop.files import read_json

CONFIG = Path(__file__).parent.parent / "configs" / "ppo_cartpole.yaml"


@dataclass(frozen=True)
class Args:
    sparsity: float = 0.95
    """Share of the prunable parameters of the actor and of the critic to cut."""
    seed: int = 0
    """Seeds the three agents."""
    n_timesteps: int | None = None
    """Environment steps, instead of the configuration's."""
    out: Path = Path("runs/demo")
    """The folder for the three run directories and the picture."""


def train_in_background(config: RunConfig, directory: Path, seed: int) -> multiprocessing.process.BaseProcess:
    """
    Train on the other core.

    :param config: what to run
    :param directory: the run directory
    :param seed: the seed
    :return: the process
    """
    process = multiprocessing.get_context("spawn").Process(target=run, args=(config, directory, seed), daemon=True)
    process.start()
    return process


def main(args: Args) -> None:
    """
    Train three agents, compare them, and say where everything is.

    :param args: the arguments
    """
    check_sparsity(args.sparsity)
    if not 0 <= args.seed < 2**31:
        raise ConfigError(f"--seed {args.seed} must be at least 0, and below 2**31")
    config = load_config(CONFIG, {"n_timesteps": args.n_timesteps} if args.n_timesteps is not None else None)
    config = config.with_pruning((config.pruning or {}) | {"sparsity": args.sparsity})
    dense_config = config.with_pruning(None)

    print("1/3  dense: the same agent without pruning, on the other core while the next two train")
    dense = train_in_background(dense_config, args.out / "dense", args.seed)
    print(f"2/3  pruned: {args.sparsity:.0%} of the parameters go early in training; the moment is found automatically")
    pruned_report = run(config, args.out / "pruned", args.seed, progress_bar=True)
    print("3/3  dense_small: a dense agent that has the pruned agent's final widths from the start")
    run(dense_config.with_widths(pruned_report["widths"]), args.out / "dense_small", args.seed, progress_bar=True)
    dense.join()
    if dense.exitcode != 0:
        raise ConfigError("the dense run failed; its error stands above")

    reports = {name: read_json(args.out / name / REPORT) for name in ("pruned", "dense", "dense_small")}
    plot_comparison(args.out / "comparison.png", reports)
    rows = {name: summarize(r["final"]["returns"], r["n_params"], r["widths"]) for name, r in reports.items()}
    print("\n" + comparison_table(rows))
    print("One seed each; 500 is the largest return there is.\n")
    for cut in pruned_report["cuts"]:
        print(f"The cut came at {cut['timesteps']:,} of {pruned_report['n_timesteps']:,} steps: {describe_cut(cut)}")
    seconds = {name: f"{name} {report['seconds']['learn']:.0f} s" for name, report in reports.items()}
    print(f"Training took (evaluations not counted): {', '.join(seconds.values())}\n")
    print(f"The three learning curves:  {args.out}/comparison.png")
    print(f"The pruned agent:           {args.out}/pruned/ (model.zip, report.json, {PICTURE})")
    print("Type next:")
    print(f"  .venv/bin/python scripts/evaluate.py {args.out}/pruned {args.out}/dense {args.out}/dense_small --seed 1")
    print(f"  .venv/bin/python scripts/prune.py {args.out}/dense --sparsity 0.9")
    print("  .venv/bin/python scripts/train.py configs/ppo_cartpole.yaml --sparsity 0.99 --seed 1")


if __name__ == "__main__":
    sys.exit(command(main, Args, __doc__ or ""))
