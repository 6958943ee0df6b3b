"""Random combinations of agent and pruning: pruned, rightly refused with nothing changed, or failed.

Every seed draws one combination of algorithm, policy, architecture and way of pruning. Results are one line a seed; a seed
whose line is there already, for the combination that it still draws, does not run again unless it failed.

Examples::

    python scripts/lab/fuzz.py --n 200
    python scripts/lab/fuzz.py --seed 17
"""

import json
import os
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Small networks on a CPU are fastest on one thread. It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))  # where `lab` is

import tyro

from lab.fuzzing import draw, run
from rl_crop.files import plain, write_text


@dataclass(frozen=True)
class Args:
    n: int = 200
    """Seeds 0, 1, … of the study."""
    seed: int | None = None
    """Run this one alone, print what happened, write nothing."""
    out: Path = Path("runs/fuzz/combinations.jsonl")
    """Where the results go."""


def as_json(value: Any) -> str:
    """:return: one line."""
    return json.dumps(value, default=plain)


def stored(path: Path) -> dict[int, dict[str, Any]]:
    """:return: by seed, results that need not be found again."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = {}
    for line in map(json.loads, lines):
        drawn = line["combination"]
        now = json.loads(as_json(asdict(draw(drawn["seed"], drawn["attempt"]))))
        if line["verdict"] != "failed" and drawn == now:
            found[drawn["seed"]] = line
    return found


def table(results: list[dict[str, Any]]) -> str:
    """:return: how many were pruned, refused for which reason, or failed."""
    counts = Counter((line["verdict"], line["reason"]) for line in results)
    rows = [f"| {verdict} | {reason} | {count} |" for (verdict, reason), count in sorted(counts.items())]
    return "\n".join(["| verdict | reason | combinations |", "|---|---|---|", *rows])


def main(args: Args) -> None:
    """Run what is missing, then print the table."""
    if args.seed is not None:
        outcome = run(args.seed)
        print(json.dumps({**asdict(outcome), "trace": ""}, indent=2, default=plain))
        print(outcome.trace)
        return
    found = stored(args.out)
    for seed in range(args.n):
        if seed not in found:
            found[seed] = json.loads(as_json(asdict(run(seed))))
            write_text(args.out, "".join(as_json(found[one]) + "\n" for one in sorted(found)))
            print(f"seed {seed}: {found[seed]['verdict']} {found[seed]['reason']} ({found[seed]['seconds']} s)", flush=True)
    results = [found[seed] for seed in sorted(found)]
    print(table(results))
    refused = Counter(reason for line in results for reason in line["not_built"])
    print(f"{sum(refused.values())} further draws could not be built or trained by Stable-Baselines3:")
    for reason, count in refused.most_common():
        print(f"- {count} x {reason}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
