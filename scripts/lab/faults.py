"""Faults injected at any point of a cut, and of its recording: what is left behind, counted.

Agents of all algorithms are pruned in all ways: by `prune_policy`, and by `PruningCallback` with every recipe and schedule.
An error is raised at one call after another of this package's functions, from the first change until the event is recorded;
of the second kind, a further one while the first is being undone. Each time agent, optimizers, targets, history, hooks,
generators and the callback's state must be what they were. Afterwards the agent is pruned, and must train on.

The choice is determined by the seed; every case is printed with its number, and `--skip` goes on where a run was stopped.

Examples::

    python scripts/lab/faults.py --faults 500 --second 50
    python scripts/lab/faults.py --faults 16 --second 4 --algorithm SAC
"""

import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

# Small networks on a CPU are fastest on one thread. It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))  # where `lab` is

import tyro

from lab.fuzzing.faults import BAD, cases, try_case

PER_CASE = 20
"""Faults in one cut, of the first kind."""


@dataclass(frozen=True)
class Args:
    faults: int = 500
    """Faults to inject."""
    second: int = 50
    """Further ones, each with a second fault while the first is being undone."""
    algorithm: str | None = None
    """Agents of this algorithm alone, such as `PPO`."""
    seed: int = 0
    """Of the choice of agents, ways and points."""
    skip: int = 0
    """Cases to pass over."""


def main(args: Args) -> int:
    """Inject faults until there were as many. :return: 1 where anything was left behind, or failed afterwards."""
    counts: Counter[tuple[str, str]] = Counter()
    wanted = {"first": args.faults, "second": args.second}
    for number, case in enumerate(cases(args.seed, args.algorithm)):
        left = {kind: n - sum(count for (what, _), count in counts.items() if what == kind) for kind, n in wanted.items()}
        if max(left.values()) <= 0:
            break
        if number < args.skip:
            continue
        n_second = min(left["second"], -(-PER_CASE * args.second // max(args.faults, 1)))
        found = Counter(try_case(case, min(PER_CASE, max(left["first"], 1)), max(n_second, 0), args.seed + number))
        counts.update(found)
        told = "; ".join(f"{kind}: {outcome} ({count})" for (kind, outcome), count in found.items())
        print(f"{number} {case.algorithm}, {case.way}: {told}", flush=True)
    print("\n| fault | outcome | times |\n|---|---|---|")
    for (kind, outcome), count in sorted(counts.items(), key=lambda item: -item[1]):
        print(f"| {kind} | {outcome} | {count} |")
    return int(any(outcome.startswith(BAD) for _, outcome in counts))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
