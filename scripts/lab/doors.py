"""What every recipe does through every door: the callback, `run_recipe` and a loop of one's own, on the same small cases.

One line of JSON a recipe and door: when something was cut or masked, what was kept, and digests of what came out. Lines that
the file has already are not made again. `--compare` takes the file of another version, and ends with 1 where they differ.

Example::

    python scripts/lab/doors.py runs/doors.jsonl
    python scripts/lab/doors.py runs/doors.jsonl --compare runs/doors_before.jsonl
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Small networks on a CPU are fastest on one thread. It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))  # where `lab` is

import tyro

import rl_crop
from lab.door_cases import DOORS, TRIGGERED, line_of
from lab.kept import keep_lines, kept_lines
from rl_crop.files import write_text

PAIRS = (("callback:ppo", "task:ppo"), ("callback:td3", "task:td3"), ("trainer", "loop"))
"""Doors that lead to the same training."""


@dataclass(frozen=True)
class Args:
    out: tyro.conf.Positional[Path]
    """Where the lines are kept."""
    recipes: tuple[str, ...] = (*rl_crop.recipes, *TRIGGERED)
    """Which recipes; all by default."""
    doors: tuple[str, ...] = ()
    """Which doors, as `callback:ppo`; all by default."""
    compare: Path | None = None
    """Lines of another version, for the same recipes and doors."""
    table: Path | None = None
    """Where a table in Markdown goes."""


def lines_of(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """:return: the lines of a file by recipe and door; none where there is no file."""
    return {(line["recipe"], line["door"]): line for line in kept_lines(path)}


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """:return: in what two lines differ, the most telling first; nothing where they are equal."""
    if "error" in one or "error" in other:
        return [] if one.get("error") == other.get("error") else ["refused"]
    facts: dict[str, Callable[[dict[str, Any]], Any]] = {
        "times": lambda line: [event["progress"] for event in line["events"]],
        "widths": lambda line: [event["kept"] for event in line["events"]],
        "what is kept": lambda line: [(event["masks"], event["cuts"]) for event in line["events"]],
        "sparsity": lambda line: {name: round(share, 6) for name, share in line["sparsity"].items()},
        "weights": lambda line: line["parameters"],
    }
    return [name for name, fact in facts.items() if fact(one) != fact(other)]


def in_short(line: dict[str, Any]) -> str:
    """:return: when something happened, and what was left in the end."""
    if "error" in line:
        return line["error"].split(". ")[0][:100]
    times = [f"{event['progress']:.3f}" for event in line["events"]]
    short = ", ".join(times if len(times) < 6 else [*times[:3], f"... ({len(times)})", times[-1]])
    kept = line["events"][-1]["kept"] if line["events"] else {}
    masked = [str(number) for name, number in kept.items() if name.endswith(("weight", "bias"))]
    return f"{short}: {'-'.join(masked or map(str, kept.values()))}" if times else "nothing"


def tables(lines: dict[tuple[str, str], dict[str, Any]]) -> str:
    """:return: one table for each pair of doors: a line a recipe."""
    parts = []
    for pair in PAIRS:
        rows = [f"| recipe | {pair[0]} | {pair[1]} | they differ in |", "|---|---|---|---|"]
        for name in dict.fromkeys(name for name, _ in lines):
            both = [lines[name, door] for door in pair if (name, door) in lines]
            if len(both) == 2:
                rows.append(" | ".join([f"| `{name}`", *map(in_short, both), f"{', '.join(differences(*both))} |"]))
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def main(args: Args) -> None:
    """Make the lines that are missing, and compare."""
    lines = lines_of(args.out)
    for name in args.recipes:
        for door in args.doors or DOORS:
            if (name, door) not in lines:
                lines[name, door] = line_of(door, name)
                keep_lines(args.out, lines.values())
                print(f"{name:24} {door:14} {in_short(lines[name, door])}", flush=True)
    if args.table is not None:
        write_text(args.table, tables(lines))
    if args.compare is not None:
        others = lines_of(args.compare)
        found = {key: differences(lines[key], others[key]) for key in lines if key in others}
        for (name, door), differs in found.items():
            if differs:
                print(f"{name:24} {door:14} {', '.join(differs)}")
                print(f"    now    {in_short(lines[name, door])}\n    before {in_short(others[name, door])}")
        n_changed = sum(map(bool, found.values()))
        print(f"{len(found)} lines compared, {n_changed} differ.")
        sys.exit(n_changed > 0)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
