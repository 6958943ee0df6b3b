"""The tables of a study, for people (Markdown) and for programs (CSV)."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rl_crop.evaluation.aggregate import Improvement, Interval, Overall, Separation, summaries
from rl_crop.evaluation.figures.style import label, percent
from rl_crop.evaluation.results import CELL, DENSE, Results, pd, pick
from rl_crop.evaluation.text import extent, number, share

NOTHING = "–"
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")


@dataclass(frozen=True)
class Table:
    """
    A table, with the cells of the study that each row is of.

    :param title: what it shows
    :param columns: their names
    :param rows: the text of every cell
    :param tags: for every row the attributes by which a page filters it: ``task``, ``arm``, ``sparsity``, ``seed``
    """

    title: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    tags: list[dict[str, str]] = field(default_factory=list)

    def to_markdown(self) -> str:
        """:return: the table as Markdown"""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"

    def to_csv(self) -> str:
        """:return: the table as CSV"""
        plain = [[_THOUSANDS.sub("", cell) for cell in row] for row in self.rows]
        return pd.DataFrame(plain, columns=self.columns).to_csv(index=False, lineterminator="\n")


def runs_table(results: Results, task: str) -> Table:
    """:return: one row a run of a task, failures among them"""
    columns = (
        "task", "arm", "sparsity", "seed", "final return", "last 10 % of evaluations", "normalised", "parameters", "widths",
        "cut at", "decided by", "wall-clock, s", "CPU, s",
    )  # fmt: skip
    rows = []
    for arm, sparsity in results.groups(task):
        for run in results.of(task, arm, sparsity).itertuples():
            scaled = results.normalised(task, [run.score])
            rows.append([
                task, arm, sparsity, str(run.seed), number(run.score), number(run.last),
                NOTHING if scaled is None else f"{scaled[0]:.3f}", f"{run.n_params:,}", widths_text([run.widths]),
                shares(run.cuts), ", ".join(run.decided_by) or NOTHING, f"{run.seconds:.0f}", f"{run.cpu_seconds:.0f}",
            ])  # fmt: skip
        for cell in pick(results.failures, task, arm, sparsity).itertuples():
            rows.append([task, arm, sparsity, str(cell.seed), f"failed: {cell.why}", *[NOTHING] * 8])
    return Table("Runs", columns, rows, [dict(zip(CELL, row)) for row in rows])


def arms_table(results: Results, task: str) -> Table:
    """:return: one row an arm of a task, the best first"""
    columns = (
        "arm", "seeds", "final return by seed", "IQM [95 %]", "normalised IQM [95 %]", "non-inferior", "parameters", "widths",
        "cut at", "mean", "last 10 % of evaluations", "wall-clock, s", "CPU, s",
    )  # fmt: skip
    found = sorted(summaries(results, task), key=lambda one: -one.iqm)
    rows = []
    for one in found:
        n_failed = len(one.scores) - len(one.runs)
        verdict = NOTHING if one.non_inferior is None or one.arm == DENSE else verdict_text(one.non_inferior, one.margin)
        rows.append([
            label(one.arm, one.sparsity), f"{len(one.scores)}, {n_failed} failed" if n_failed else str(len(one.scores)),
            ", ".join(map(number, one.scores)), estimate(one.iqm, one.interval, number),
            NOTHING if one.normalised is None else estimate(one.normalised, one.normalised_interval, "{:.2f}".format),
            verdict, NOTHING if one.runs.empty else extent(one.runs["n_params"]), widths_text(one.runs["widths"]),
            "; ".join(dict.fromkeys(map(shares, one.runs["cuts"]))) or NOTHING,
            *(mean_text(values) for values in (one.scores, *(one.runs[name] for name in ("last", "seconds", "cpu_seconds")))),
        ])  # fmt: skip
    return Table("Arms", columns, rows, [{"task": task, "arm": one.arm, "sparsity": one.sparsity} for one in found])


def improvement_table(found: Sequence[Improvement], where: str = "") -> Table:
    """
    :param found: the comparisons
    :param where: what the title adds
    :return: one row a comparison
    """
    columns = ("arm", "over", "environments", "probability of improvement [95 %]", "wins–ties–losses on paired seeds")
    rows, tags = [], []
    for one in found:
        sparsity = "0" if one.arm == DENSE else one.sparsity
        rows.append([
            label(one.arm, sparsity), label(one.rival, one.sparsity), ", ".join(one.tasks),
            estimate(one.probability, one.interval, "{:.2f}".format), f"{one.wins}–{one.ties}–{one.losses}",
        ])  # fmt: skip
        tags.append({"arm": one.arm, "sparsity": sparsity})
    return Table(f"Probability of improvement{where}", columns, rows, tags)


def separation_table(found: Sequence[Separation]) -> Table:
    """:return: one row an environment and sparsity"""
    rows = [[one.task, percent(one.sparsity), "yes" if one.separates else "no, left out", one.reason] for one in found]
    tags = [{"task": one.task, "sparsity": one.sparsity} for one in found]
    return Table("Which environments tell the arms apart", ("task", "sparsity", "tells arms apart", "why"), rows, tags)


def overall_table(found: Sequence[Overall]) -> Table:
    """:return: one row an arm over several environments"""
    rows = [
        [
            label(one.arm, one.sparsity), ", ".join(one.scores), str(sum(map(len, one.scores.values()))),
            estimate(one.iqm, one.interval, "{:.2f}".format),
            NOTHING if one.arm == DENSE else verdict_text(one.non_inferior, one.margin),
        ]
        for one in found
    ]  # fmt: skip
    columns = ("arm", "environments", "runs", "normalised IQM [95 %]", "non-inferior")
    return Table("Normalised returns", columns, rows, [{"arm": one.arm, "sparsity": one.sparsity} for one in found])


def missing_table(results: Results) -> Table:
    """:return: one row a cell without a result"""
    failed = results.failures.assign(why="failed: " + results.failures["why"]).sort_values(CELL)
    rows = pd.concat([failed, results.missing]).astype(str).to_numpy().tolist()
    return Table("Cells without a result", (*CELL, "why"), rows, [dict(zip(CELL, row)) for row in rows])


def verdict_text(non_inferior: bool, margin: float) -> str:
    """:return: the verdict with its margin"""
    return f"{'yes' if non_inferior else 'not shown'} (margin {margin:.2f})"


def estimate(value: float, interval: Interval | None, text: Callable[[float], str]) -> str:
    """:return: a value with its interval, for example ``"1.00 [0.95, 1.10]"``"""
    return text(value) if interval is None else f"{text(value)} [{text(interval[0])}, {text(interval[1])}]"


def shares(cuts: Sequence[float]) -> str:
    """:return: shares of a run, for example ``"5 %, 14 %"``"""
    return ", ".join(map(share, cuts)) or NOTHING


def widths_text(runs: Iterable[Mapping[str, list[int]]]) -> str:
    """
    :param runs: the widths of runs of one arm, by head
    :return: the smallest and the largest width of every layer, for example ``"pi 21–23, 90–95; qf 53, 42"``
    """
    heads = list(dict.fromkeys(head for run in runs for head in run))
    return "; ".join(f"{head} {', '.join(extent(layer) for layer in zip(*(run[head] for run in runs)))}" for head in heads)


def mean_text(values: "pd.Series") -> str:
    """:return: the mean of one number a run, as text"""
    return NOTHING if values.empty else number(float(np.mean(values)))
