"""Prune a saved agent. The original stays as it is.

Examples::

    python scripts/prune.py runs/ppo_cartpole_dense_seed0
    python scripts/prune.py runs/ppo_cartpole_dense_seed0 --sparsity 0.9
    python scripts/prune.py runs/x/model.zip --sparsity 0.9 --criterion crop --out small.zip
"""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")


import rl_crop
from command_line import tyro
from rl_crop.evaluation import ConfigError, SavedAgent
from rl_crop.evaluation.agents import CONFIG, NORMALIZATION, REPORT, own_file
from rl_crop.evaluation.checks import check_seed
from rl_crop.evaluation.command import command
from rl_crop.files import write_atomically, write_json


@dataclass(frozen=True)
class Args:
    agent: tyro.conf.Positional[Path]
    """A run directory or a zip; its configuration and normalisation are looked for beside it."""
    sparsity: float | None = None
    """Share of the prunable parameters of every network to cut; by default the size is found at which it does the same."""
    max_params: int | None = None
    """Instead of a share, how many parameters may be left."""
    tolerance: float | None = None
    """Of a size that is found: the share of the variance of outputs that may be left unexplained; 0.001 by default."""
    criterion: str | None = None
    """How units are scored: obs_crop, crop, span_crop, span, magnitude, random, …"""
    compensation: str = "least_squares"
    """How what is cut is made up for: none, bias, least_squares, distill."""
    out: Path | None = None
    """The zip to write; by default beside the original, with the sparsity in its name."""
    config: Path | None = None
    """The agent's configuration, where it does not lie beside it."""
    seed: int = 0
    """Seeds the environments and the choice of what is scored."""


def main(args: Args) -> None:
    """
    Load, prune on fresh data, save.

    :param args: the arguments
    """
    if args.tolerance is not None and (args.sparsity, args.max_params) != (None, None):
        raise ConfigError("--tolerance is of a size that is found: give it without --sparsity and --max-params")
    check_seed("--seed", args.seed)
    agent = SavedAgent.find(args.agent, args.config)
    size = f"{args.sparsity:g}" if args.sparsity is not None else f"{args.max_params}_params" if args.max_params else "auto"
    out = args.out or agent.path.with_name(f"{agent.path.stem}_pruned_{size}.zip")
    if out.suffix != ".zip":
        raise ConfigError(f"--out {out}: the name must end in .zip")
    if out.resolve() == agent.path.resolve():
        raise ConfigError(f"--out {out} is the agent itself, which is kept: choose another name")
    env = agent.build_env(args.seed, normalize_rewards=True)
    model = agent.load(env)
    criterion: dict[str, Any] = {} if args.criterion is None else {"criterion": args.criterion}
    plan = rl_crop.plan_policy_pruning(
        model, args.sparsity, max_params=args.max_params, tolerance=args.tolerance, compensation=args.compensation,
        seed=args.seed, **criterion,
    )  # fmt: skip
    print(plan)
    report = plan.apply()

    write_atomically(out, lambda path: model.save(path))
    # Under names of their own: the folder may be another run's.
    write_atomically(own_file(out, CONFIG), lambda path: shutil.copyfile(agent.config_path, path))
    if agent.normalization is not None:
        normalization = agent.normalization
        write_atomically(own_file(out, NORMALIZATION), lambda path: shutil.copyfile(normalization, path))
    write_json(own_file(out, REPORT), report.to_dict())
    env.close()
    print(f"\nThe pruned agent is {out}, its report {own_file(out, REPORT)}; {agent.path} is as it was.")
    print(f"Compare them:  python scripts/evaluate.py {agent.path} {out}")


if __name__ == "__main__":
    sys.exit(command(main, Args, __doc__ or ""))
