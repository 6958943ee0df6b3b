"""
``rl-crop``: saved agents from the command line.

    rl-crop inspect model.zip
    rl-crop prune model.zip --env Pendulum-v1
    rl-crop evaluate model.zip --env Pendulum-v1
    rl-crop export small.zip --out policy.onnx
    rl-crop compare model.zip small.zip --env Pendulum-v1
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

import rl_crop
from rl_crop.core.errors import PruningError
from rl_crop.core.pruning.report import table
from rl_crop.evaluation.agents import episode_returns
from rl_crop.evaluation.command import in_one_line
from rl_crop.evaluation.networks import count_parameters, read_widths
from rl_crop.evaluation.statistics import worst_tenth
from rl_crop.evaluation.zips import find_zip, load_agent, make_env, save_slim, statistics_beside
from rl_crop.files import write_atomically, write_json

N_ENVS = 10


def _loaded(path: Path, args: argparse.Namespace, needs_env: bool) -> tuple[Path, BaseAlgorithm, Any]:
    """:return: the zip, the agent, and environments to play in (``None`` where none were named)."""
    zip_file = find_zip(path)
    if args.env is None:
        if args.vecnormalize is not None:
            raise PruningError("--vecnormalize is of an environment: name it with --env.")
        if needs_env:
            raise PruningError("This plays episodes: name the environment with --env.")
        return zip_file, load_agent(zip_file, args.algo, None), None
    statistics = args.vecnormalize or statistics_beside(zip_file)
    env = make_env(args.env, statistics, min(N_ENVS, args.episodes), args.seed)
    return zip_file, load_agent(zip_file, args.algo, env), env


def _played(model: BaseAlgorithm, env: Any, episodes: int) -> str:
    returns, _ = episode_returns(model, env, episodes)
    spread = f"{np.mean(returns):.1f} ± {np.std(returns):.1f}"
    return f"return {spread} in {len(returns)} episodes, worst tenth {worst_tenth(returns):.1f}"


def inspect(args: argparse.Namespace) -> None:
    """Say what a saved agent is, and what has been cut of it."""
    path, model, _ = _loaded(args.agent, args, needs_env=False)
    print(f"{path}: {type(model).__name__} with {type(model.policy).__name__}, {model.num_timesteps:,} timesteps")
    print(f"observations {model.observation_space}, actions {model.action_space}")
    widths = [[name, str(width)] for name, width in _flat(read_widths(model))]
    print(table(["layers", "units"], widths))
    print(f"{count_parameters(model)['total']:,} parameters")
    for event in getattr(model, "pruning_history", []):
        before, after = event["n_params_before"], event["n_params_after"]
        print(f"pruned at {event['timesteps']:,} timesteps by {event['criterion']}: {before:,} -> {after:,} parameters")


def _flat(widths: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(widths, dict):
        return [pair for key, value in widths.items() for pair in _flat(value, f"{name}.{key}".strip("."))]
    return [(name, widths)]


def prune(args: argparse.Namespace) -> None:
    """Make a saved agent small; the original stays as it is."""
    path, model, env = _loaded(args.agent, args, needs_env=True)
    out = args.out or path.with_name(f"{path.stem}_pruned.zip")
    if out.suffix != ".zip" or out.resolve() == path.resolve():
        raise PruningError(f"--out {out} must end in .zip, and be another file than the agent, which is kept.")
    if args.tolerance is not None and (args.sparsity, args.max_params, args.max_flops) != (None, None, None):
        raise PruningError("--tolerance is of a size that is found: give it without --sparsity, --max-params and --max-flops.")
    given = {"criterion": args.criterion, "networks": args.networks}
    keywords = {name: value for name, value in given.items() if value is not None}
    sizes = {"max_params": args.max_params, "max_flops": args.max_flops, "tolerance": args.tolerance}
    plan = rl_crop.plan_policy_pruning(model, args.sparsity, seed=args.seed, **sizes, **keywords)
    print(plan)
    print(f"\nbefore: {_played(model, env, args.episodes)}")
    report = plan.apply()
    print(f"after:  {_played(model, env, args.episodes)}")
    write_atomically(out, partial(save_slim, model) if args.slim else model.save)
    write_json(out.with_name(f"{out.stem}.report.json"), report.to_dict())
    print(f"\nThe pruned agent is {out}; {path} is as it was.")
    print(f"Next:  rl-crop export {out} --env {args.env} --out policy.onnx")


def evaluate(args: argparse.Namespace) -> None:
    """Play episodes with deterministic actions."""
    _, model, env = _loaded(args.agent, args, needs_env=True)
    print(_played(model, env, args.episodes))


def export(args: argparse.Namespace) -> None:
    """Write a saved agent's actor to a file that runs without Stable-Baselines3."""
    path, model, env = _loaded(args.agent, args, needs_env=False)
    print(rl_crop.export_actor(model, args.out or path.with_suffix(".onnx"), env=env))


def compare(args: argparse.Namespace) -> None:
    """Play the same episodes with several saved agents."""
    rows = []
    if len(set(args.agents)) < len(args.agents):
        raise PruningError("An agent is named twice: name each once.")
    for path in args.agents:
        zip_file, model, env = _loaded(path, args, needs_env=True)
        returns, _ = episode_returns(model, env, args.episodes)
        sizes = [f"{count_parameters(model)['total']:,}", f"{zip_file.stat().st_size:,}"]
        rows.append([str(path), *sizes, f"{np.mean(returns):.1f}", f"{worst_tenth(returns):.1f}"])
    print(table(["agent", "parameters", "bytes of the zip", "return", "worst tenth"], rows))


def parser() -> argparse.ArgumentParser:
    """:return: what reads the command line."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--env", help="the environment's name in gymnasium")
    shared.add_argument("--algo", help="the algorithm, where the zip does not say it (ppo, sac, tqc, ...)")
    shared.add_argument("--vecnormalize", type=Path, help="statistics of VecNormalize; found beside the zip by default")
    shared.add_argument("--episodes", type=_positive, default=20, help="episodes that are played (20)")
    shared.add_argument("--seed", type=_seed, default=0, help="of environments and scoring (0)")
    whole = argparse.ArgumentParser("rl-crop", description="Structured pruning of saved Stable-Baselines3 agents.")
    whole.add_argument("--version", action="version", version=rl_crop.__version__)
    commands = whole.add_subparsers(dest="command", required=True)
    for function in (inspect, prune, evaluate, export, compare):
        command = commands.add_parser(function.__name__, parents=[shared], help=function.__doc__, description=function.__doc__)
        command.set_defaults(run=function)
        if function is compare:
            command.add_argument("agents", type=Path, nargs="+", help="zips or directories")
        else:
            command.add_argument("agent", type=Path, help="a zip, a run directory, or a directory of RL Zoo's logs")
        if function in (prune, export):
            command.add_argument("--out", type=Path, help="the file to write")
        if function is prune:
            command.add_argument("--sparsity", type=float, help="share of the parameters to remove; else it is found")
            command.add_argument("--max-params", type=_positive, help="how many parameters may be left")
            command.add_argument("--max-flops", type=_positive, help="how many operations an observation may cost")
            command.add_argument("--tolerance", type=float, help="share of the outputs' variance that may be lost (0.001)")
            command.add_argument(
                "--slim", action="store_true", help="leave out the optimizer's state: to deploy, not to train on"
            )
            command.add_argument("--criterion", help="how units are ranked")
            command.add_argument("--networks", nargs="+", help="which networks: actor, critic, features")
    return whole


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be 1 or more")
    return number


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"{text} must be at least 0, and below 2**32")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: of the command line.
    :return: the exit status: 1 where something was wrong, which is said in one line.
    """
    args = parser().parse_args(arguments)
    return in_one_line(lambda: args.run(args), "rl-crop")


if __name__ == "__main__":
    sys.exit(main())
