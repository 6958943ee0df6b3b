"""
What pruning gives a user, on SAC and Pendulum-v1: a trained agent made small without retraining, an agent cut early in
training, and the small agent from scratch that both have to beat. No size is given anywhere: it is found. Takes about
five minutes on two cores. `make demo` runs it.
"""

import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch as th

import rl_crop
from rl_crop.core.pruning.report import table
from rl_crop.core.pruning.settings import check_sparsity
from rl_crop.evaluation import ConfigError, RunConfig, load_config, run
from rl_crop.evaluation.agents import MODEL, REPORT, SavedAgent
from rl_crop.evaluation.checks import check_seed
from rl_crop.evaluation.command import command
from rl_crop.evaluation.networks import count_parameters, read_widths
from rl_crop.evaluation.plots import describe_cut, plot_comparison
from rl_crop.evaluation.run import final_evaluation
from rl_crop.evaluation.statistics import mean_interval
from rl_crop.files import read_json, write_atomically

CONFIG = Path(__file__).parent.parent / "configs" / "sac_pendulum.yaml"
DENSE, TRAINED, EARLY, SMALL = "dense", "trained, then cut", "cut early", "small from scratch"


@dataclass(frozen=True)
class Args:
    seed: int = 0
    """Seeds every agent."""
    n_timesteps: int = 6_000
    """Environment steps of each agent."""
    sparsity: float | None = None
    """A size of your own for the early cut; by default it is found."""
    width: int = 256
    """Units in each of the two hidden layers of the actor and of the critics."""
    n_episodes: int = 100
    """Episodes that each agent is measured on; all agents meet the same starts."""
    out: Path = Path("runs/demo")
    """The folder for agents and picture."""


@dataclass(frozen=True)
class Row:
    """
    What is known of one agent.

    :param widths: units of its hidden layers, in words
    :param n_params: parameters, targets not counted
    :param n_bytes: of the zip
    :param held: bytes of weights, target networks and optimizer state
    :param returns: of the episodes, which began alike for all agents
    :param seconds: of the processor for training, pruning included
    """

    widths: str
    n_params: int
    n_bytes: int
    held: int
    returns: list[float]
    seconds: float

    @property
    def cells(self) -> list[str]:
        """Its line of the table."""
        sizes = [f"{self.n_params:,}", f"{self.n_bytes / 1e3:,.0f} kB", f"{self.held / 1e6:.2f} MB"]
        return [self.widths, *sizes, f"{self.seconds:.0f} s", f"{np.mean(self.returns):.1f}"]


def row(agent: Path, returns: list[float], seconds: float) -> Row:
    """
    :param agent: a run directory or a zip, beside its configuration
    :param returns: of its episodes
    :param seconds: of training
    :return: what is known of it
    """
    saved = SavedAgent.find(agent)
    model = saved.load()
    held = sum(tensor.nbytes for tensor in _tensors(model.get_parameters()))
    widths: Any = read_widths(model)
    words = " / ".join("-".join(map(str, widths[head])) for head in ("pi", "qf"))
    return Row(words, count_parameters(model)["total"], saved.path.stat().st_size, held, returns, seconds)


def _tensors(found: Any) -> Iterator[th.Tensor]:
    if isinstance(found, th.Tensor):
        yield found
    elif isinstance(found, Mapping):
        for value in found.values():
            yield from _tensors(value)


def prune_trained(config: RunConfig, args: Args) -> tuple[Path, list[float]]:
    """
    Make the trained dense agent small: load it, prune it, save it. Nothing is trained.

    :param config: its run
    :param args: the arguments
    :return: the zip of the small agent, and the returns of its episodes
    """
    saved = SavedAgent.find(args.out / "dense")
    model = saved.load(saved.build_env(args.seed))
    print(rl_crop.prune_policy(model))
    path = write_atomically(args.out / "dense" / "small.zip", lambda temporary: model.save(temporary))
    return path, final_evaluation(model, config, args.seed)["returns"]


def against(one: Row, other: Row) -> tuple[str, bool]:
    """:return: how one agent's return compares with another's on the same starts, in words, and whether it is not behind"""
    differences = [a - b for a, b in zip(one.returns, other.returns, strict=True)]
    low, high = mean_interval(differences)
    word = "ahead" if low > 0 else "behind" if high < 0 else "level"
    return f"{word}, {np.mean(differences):+.1f} [{low:+.1f}, {high:+.1f}]", word != "behind"


def verdict(rows: Mapping[str, Row]) -> str:
    """:return: what was won and what was not, read off the figures"""
    dense, trained, early, small = (rows[name] for name in (DENSE, TRAINED, EARLY, SMALL))
    saved = 1 - early.seconds / dense.seconds
    kept, keeps = against(trained, dense)
    beside, reaches = against(early, dense)
    rival, beats = against(early, small)
    times = f"{saved:.0%} less" if saved > 0 else f"{-saved:.0%} MORE"
    lines = [
        (f"Trained, then cut: {1 - trained.n_params / dense.n_params:.0%} of the parameters gone, no training after it", True),
        (f"Its return beside what it was: {kept}.", keeps),
        (f"The zip to deploy: {dense.n_bytes / trained.n_bytes:.1f} times smaller.", trained.n_bytes < dense.n_bytes),
        (f"Cut early: training took {times} processor time than dense.", saved > 0),
        (f"After the cut it holds {dense.held / early.held:.1f} times less memory.", early.held < dense.held),
        (f"Cut early, return beside dense: {beside}.", reaches),
        (f"Cut early, return beside small from scratch: {rival}.", beats),
        (f"Nobody gave a size: {dense.widths} became {trained.widths} and {early.widths} (actor / critics).", True),
        (f"Small from scratch is the cheapest to train ({small.seconds:.0f} s), once its widths are known.", False),
        (f"But they are what pruning found ({early.widths}): before, nobody could know them.", False),
        ("At its peak an early cut holds as much as dense, which it is until then. And this is one seed of one task.", False),
    ]
    won, not_won = ([text for text, good in lines if good is wanted] for wanted in (True, False))
    return "\n".join(["WON", *(f"  + {text}" for text in won), "NOT WON", *(f"  - {text}" for text in not_won)])


def main(args: Args) -> None:
    """
    Train, prune, compare, and say what was won.

    :param args: the arguments
    """
    if args.sparsity is not None:
        check_sparsity(args.sparsity)
    check_seed("--seed", args.seed)
    if min(args.width, args.n_episodes) < 1:
        raise ConfigError("--width and --n-episodes must be at least 1")
    architecture = {"net_arch": {"pi": [args.width] * 2, "qf": [args.width] * 2}}
    evaluation = {"n_evals": 6, "n_episodes": 5, "final_episodes": args.n_episodes}
    changes = {"n_timesteps": args.n_timesteps, "policy_kwargs": architecture, "evaluation": evaluation}
    config = load_config(CONFIG, changes)
    config = config.with_pruning({} if args.sparsity is None else {"sparsity": args.sparsity})
    dense_config = config.with_pruning(None)

    print(f"SAC on Pendulum-v1, networks of {args.width}-{args.width}, {args.n_timesteps:,} steps for each agent.")
    print("1/4  dense: as always, on the other core while the next two train")
    job = (dense_config, args.out / "dense", args.seed)
    dense = multiprocessing.get_context("spawn").Process(target=run, args=job, daemon=True)
    dense.start()
    print("2/4  cut early: the same with callback=PruningCallback(): it finds the moment and the size")
    early = run(config, args.out / "early", args.seed, progress_bar=True)
    print("3/4  small from scratch: its widths are those that the callback has found")
    run(dense_config.with_widths(early["widths"]), args.out / "small", args.seed, progress_bar=True)
    dense.join()
    if dense.exitcode != 0:
        raise ConfigError("the dense run failed; its error stands above")
    print("4/4  trained, then cut: prune_policy(dense agent), without a number and without training")
    zip_file, returns = prune_trained(dense_config, args)

    runs = {DENSE: args.out / "dense", EARLY: args.out / "early", SMALL: args.out / "small"}
    reports = {name: read_json(folder / REPORT) for name, folder in runs.items()}
    found = {name: row(runs[name], r["final"]["returns"], r["seconds"]["learn_cpu"]) for name, r in reports.items()}
    found[TRAINED] = row(zip_file, returns, found[DENSE].seconds)
    rows = {name: found[name] for name in (DENSE, TRAINED, EARLY, SMALL)}
    header = ["agent", "actor / critics", "parameters", "zip", "training holds", "training took", "return"]
    print("\n" + table(header, [[name, *one.cells] for name, one in rows.items()], n_left=2))
    print(f"Returns: means of {args.n_episodes} episodes from the same starts. Times: of the processor, pruning included.")
    for cut in early["cuts"]:
        print(f"The early cut came at {cut['timesteps']:,} of {args.n_timesteps:,} steps: {describe_cut(cut)}")
    print("\nDifferences of returns with 95 % intervals:\n" + verdict(rows))
    picture = plot_comparison(args.out / "comparison.png", reports)
    print(f"\nThe learning curves: {picture}. Type next:")
    print(f"  .venv/bin/rl-crop inspect {zip_file}")
    print(f"  .venv/bin/rl-crop export {zip_file} --env Pendulum-v1 --out {args.out}/policy.c")
    print(f"  .venv/bin/rl-crop compare {args.out}/dense/{MODEL} {zip_file} --env Pendulum-v1")


if __name__ == "__main__":
    sys.exit(command(main, Args, __doc__ or ""))
