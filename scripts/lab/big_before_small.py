"""What a wide network takes, in memory and time: trained dense, pruned at once, pruned early, or small from the start.

Each arm runs in a process of its own: its memory is the peak beyond that of a process that has trained a tiny network of the
same kind. Then all arms run again with less memory than dense training takes, to see which of them still can. Writes one JSON
file a configuration, after every arm.

Examples::

    python scripts/lab/big_before_small.py configs/big_before_small/friedman_mlp.yaml
    python scripts/lab/big_before_small.py configs/big_before_small/sac_pendulum.yaml --seed 1
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))  # where `lab` is

import tyro

from lab.performance.machine import load_average, machine_facts
from lab.performance.wide_arms import arm_job, in_process, table, telling_limit, with_width
from rl_crop.core.errors import PruningError
from rl_crop.evaluation.config import read_yaml
from rl_crop.files import write_json


@dataclass(frozen=True)
class Args:
    configs: tyro.conf.Positional[tuple[Path, ...]]
    """YAML files of `configs/big_before_small/`."""
    seed: int = 0
    """Seeds everything random."""
    width: int | None = None
    """Units of every hidden layer, instead of the file's."""
    arms: tuple[str, ...] = ()
    """These arms alone; all by default."""
    limit: int | None = None
    """Bytes that arms get in the second part; by default halfway between dense training and the pruned arm next below it."""
    out: Path = Path("runs/big_before_small")
    """Where the results go."""


def measure(path: Path, args: Args) -> dict[str, Any]:
    """
    :param path: a configuration
    :param args: the arguments
    :return: the results by arm, without and with a limit
    """
    config = read_yaml(path)
    if args.width is not None:
        config = with_width(config, args.width)
    arms = {name: arm or {} for name, arm in config.pop("arms").items() if not args.arms or name in args.arms}
    results: dict[str, Any] = {"config": config, "arms": arms, "seed": args.seed, "machine": machine_facts(), "load": []}
    results |= {"free": {}, "limit": args.limit, "limited": {}}

    def run(part: str, limit: int | None) -> None:
        for name, arm in arms.items():
            results["load"].append(load_average())
            results[part][name] = in_process(arm_job(config, arm, results["free"], args.seed, limit))
            write_json(args.out / f"{path.stem}.json", results)
            print(f"{path.stem}, {name}, {part}: {'done' if results[part][name]['fits'] else 'out of memory'}", flush=True)

    run("free", None)
    results["limit"] = args.limit or telling_limit(results["free"])
    if results["limit"] is not None and sys.platform == "linux":
        run("limited", results["limit"])
    return results


def main(args: Args) -> None:
    """Measure every configuration and print a table of each."""
    for path in args.configs:
        results = measure(path, args)
        print(f"\n{path.stem}\n\n{table(results)}\n")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except PruningError as error:
        sys.exit(f"Error: {error}")
