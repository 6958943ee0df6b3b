"""Export a saved agent's actor to a file that runs without Stable-Baselines3, and time it.

The suffix says what is written: .onnx for ONNX Runtime, .c for one C99 source file.

Examples::

    python scripts/export.py runs/ppo_cartpole_span_crop_0.95_seed0
    python scripts/export.py runs/x/model.zip --out policy.onnx --out policy.c --dense runs/y/model.zip
"""

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")


import rl_crop
from command_line import tyro
from parts.latency import latency_cells, latency_rows
from rl_crop.core.pruning.report import table
from rl_crop.evaluation import ConfigError, SavedAgent
from rl_crop.evaluation.checks import check_seed
from rl_crop.evaluation.command import command


@dataclass(frozen=True)
class Args:
    agent: tyro.conf.Positional[Path]
    """A run directory or a zip; its configuration and normalisation are looked for beside it."""
    out: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """The file to write; may be given several times. By default an .onnx beside the agent."""
    dense: Path | None = None
    """Another agent to compare size and latency with."""
    config: Path | None = None
    """The configuration of the agents, where it does not lie beside them."""
    opset: int | None = None
    """The version of ONNX's operators; by default that of torch's exporter."""
    repetitions: int = 50
    """Blocks of calls that are timed; 0 times nothing."""
    seed: int = 0
    """Seeds the environments that give observations."""


def main(args: Args) -> None:
    """
    Export, then time.

    :param args: the arguments
    """
    if args.repetitions < 0:
        raise ConfigError("--repetitions must be at least 0")
    check_seed("--seed", args.seed)
    if args.opset is not None and args.out and not any(path.suffix == ".onnx" for path in args.out):
        raise ConfigError("--opset is of .onnx files, and --out names none")
    agent = SavedAgent.find(args.agent, args.config)
    out = args.out or (agent.path.with_suffix(".onnx"),)
    files = {path.suffix: path for path in out}
    if len(files) < len(out):
        raise ConfigError("--out names two files of the same kind")
    env = agent.build_env(args.seed, 1)
    model = agent.load()
    for path in out:
        print(rl_crop.export_actor(model, path, env=env, opset=args.opset if path.suffix == ".onnx" else None), end="\n\n")
    sizes = {"this": {suffix: path.stat().st_size for suffix, path in files.items()}}

    with tempfile.TemporaryDirectory() as folder:
        agents: dict[str, tuple[Any, dict[str, Path], Any]] = {"this": (model, files, env)}
        if args.dense is not None:
            other = SavedAgent.find(args.dense, args.config)
            other_env, other_model = other.build_env(args.seed, 1), other.load()
            other_files = {suffix: Path(folder) / f"dense{suffix}" for suffix in files}
            for path in other_files.values():
                rl_crop.export_actor(other_model, path, env=other_env)
            agents = {"dense": (other_model, other_files, other_env)} | agents
            sizes = {"dense": {suffix: path.stat().st_size for suffix, path in other_files.items()}} | sizes
        lines = [[name, *(f"{size:,}" for size in row.values())] for name, row in sizes.items()]
        print(table(["agent", *(f"{suffix}, bytes" for suffix in files)], lines), end="\n\n")
        if args.repetitions:
            print(table(*latency_cells(latency_rows(agents, args.repetitions)), n_left=2))
            print("\nMedians of one call on one thread, in processor time; × is how many times faster.")
    env.close()


if __name__ == "__main__":
    sys.exit(command(main, Args, __doc__ or ""))
