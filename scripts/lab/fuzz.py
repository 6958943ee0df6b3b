"""Random combinations of agent and pruning: pruned, rightly refused with nothing changed, or failed.

Hypothesis draws each combination of algorithm, policy, architecture and way of pruning. The first failure ends the search: it
is made as small as it can be, printed, and kept in `.hypothesis/`, so that the same command begins with it.

Examples::

    python scripts/lab/fuzz.py --examples 200
    python scripts/lab/fuzz.py --examples 50 --algorithm TQC
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

# Small networks on a CPU are fastest on one thread. It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))  # where `lab` is

import tyro

from lab.fuzzing import Combination, fuzz


@dataclass(frozen=True)
class Args:
    examples: int = 200
    """Combinations to try."""
    algorithm: str | None = None
    """Agents of this algorithm alone, such as `PPO`."""


def say(chosen: Combination, verdict: str) -> None:
    """Print a line."""
    print(f"{chosen.algorithm}, {chosen.policy}, {chosen.way}: {verdict}", flush=True)


def main(args: Args) -> None:
    """Try combinations, then print how many were pruned, refused for which reason, or could not be built."""
    counts = fuzz(args.examples, args.algorithm, say)
    print("\n| verdict | combinations |\n|---|---|")
    for verdict, count in sorted(counts.items(), key=lambda item: -item[1]):
        print(f"| {verdict} | {count} |")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
