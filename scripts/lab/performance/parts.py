"""The parts of the benchmark, and how they are run: row after row into one file, then a table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch as th

from lab.performance import acting, cost, growth, memory, training, update, whole_runs
from lab.performance.agent_rows import Entries
from lab.performance.ledger import Ledger, Row
from lab.performance.machine import is_busy, load_average, machine_facts
from lab.performance.options import Options
from lab.performance.table import Column, rows_table
from rl_crop.evaluation.results import load_results

SHARED = ("batch_size", "data", "steps", "sac_env", "ppo_env")
"""Options that all rows of a file have in common."""


@dataclass(frozen=True)
class Part:
    """
    :param entries: what tells its rows from all others, and functions that measure them
    :param columns: of its table
    :param lines: the lines of the table, made of rows
    :param footer: what is said below it
    """

    entries: Entries
    columns: Sequence[Column]
    lines: Callable[[list[Row]], list[Row]] = lambda rows: rows
    footer: Callable[[list[Row]], str] = lambda rows: ""


PARTS: Mapping[str, Part] = {
    "cost": Part(cost.entries, cost.COLUMNS),
    "training": Part(training.ENTRIES, training.COLUMNS, training.by_arm),
    "acting": Part(acting.ENTRIES, acting.COLUMNS, acting.by_way),
    "memory": Part(memory.ENTRIES, memory.COLUMNS, training.by_arm),
    "growth": Part(growth.entries, growth.COLUMNS, footer=growth.footer),
    "update": Part(update.ENTRIES, update.COLUMNS, training.by_arm),
}
"""Those that measure; ``runs`` only reads."""


def run(options: Options, say: Callable[[str], object] = print) -> list[Row]:
    """
    Measure what was asked for and tell it as tables.

    :param options: what
    :param say: prints
    :return: the rows
    :raises PruningError: the file holds rows that do not compare with these
    """
    th.set_num_threads(options.threads)
    if is_busy(load_average(), 0.0):
        say(f"Something else runs on this machine (load average {load_average():.1f}): times are worth little.")
    facts = {"machine": machine_facts(), "settings": {name: getattr(options, name) for name in SHARED}}
    ledger = Ledger(options.out, facts, options.own_load, options.fresh)
    found: list[Row] = []
    for name in options.part:
        if name == "runs":
            say(f"\n{name}\n{rows_table(whole_runs.COLUMNS, whole_runs.whole_runs(load_results(options.study)))}")
            continue
        part = PARTS[name]
        rows = []
        for identity, measure in part.entries(options):
            say(", ".join(str(value) for value in identity.values() if value is not None))
            rows.append(ledger.row(identity, measure))
        say(f"\n{name}\n{rows_table(part.columns, part.lines(rows))}")
        if footer := part.footer(rows):
            say(footer)
        found += rows
    if options.out is not None:
        say(f"Written to {options.out}")
    return found
