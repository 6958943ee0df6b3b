"""The report of a study: its sections, and their files as Markdown, CSV and pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rl_crop.evaluation.aggregate import improvements, overall, separation, sparsities
from rl_crop.evaluation.figures.compose import Picture, curve_picture, overall_pictures, task_pictures
from rl_crop.evaluation.figures.style import percent
from rl_crop.evaluation.results import Results
from rl_crop.evaluation.statistics import interquartile_mean
from rl_crop.evaluation.tables import (
    Table,
    arms_table,
    improvement_table,
    missing_table,
    overall_table,
    runs_table,
    separation_table,
)
from rl_crop.evaluation.text import number
from rl_crop.files import write_text

METHODS = (
    "The score of a run is the mean return of its final policy over the episodes of the final evaluation, in a separate "
    "environment with deterministic actions; never the best checkpoint.",
    "Every run counts. A run that broke off counts with the return of a random policy, or with the lowest return of its task "
    "where that is not known.",
    "IQM is the interquartile mean over seeds; with three seeds or fewer it is their mean. Intervals are 95 % percentile "
    "bootstrap intervals, stratified by environment, 2,000 samples from a seeded generator. Those of three seeds reach from "
    "the lowest seed to the highest at most, and are too narrow rather than too wide.",
    "Normalised returns are 0 for a random policy and 1 for the dense arm, both the IQM of their own seeds and held fixed: "
    "the intervals do not hold the uncertainty of dense itself, which its own row shows.",
    "An arm is called non-inferior where the lower bound of its normalised IQM is above 0.95 (0.90 on MuJoCo, where seeds of "
    "one arm differ by hundreds; over several environments the stricter of theirs).",
    "The probability of improvement compares every run of one arm with every run of the other on the seeds that both have, "
    "ties as one half; its interval draws seeds for both arms at once. One seed has no interval: there it is 0, 0.5 or 1, and "
    "says little. Beside it: wins, ties and losses on paired seeds.",
    "Environments are put together only where they tell the arms apart: where random or dense_small stays below dense by more "
    "than its interval, and not most runs end at the same highest return. That is judged by the runs that are then compared, "
    "which speaks for arms over these two; beside it stands the probability of improvement over all environments.",
    "Small dots are single seeds. Widths are ranges over seeds, layer by layer; pi is the actor, vf and qf are the "
    "critic, net is the only network there is.",
)


@dataclass(frozen=True)
class Section:
    """
    A part of the report.

    :param name: for links and files
    :param title: its heading
    :param notes: sentences below the heading
    :param tables: its tables
    :param pictures: its figures as files
    :param panels: figures of a single arm each, which a page shows instead of the last of ``pictures``
    :param task: the task that it is of, if it is of one
    """

    name: str
    title: str
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    panels: tuple[Picture, ...] = ()
    task: str | None = None


COARSE = 0.98
"""Where all arms are above this share of dense, normalised returns say little."""


def study_sections(results: Results) -> list[Section]:
    """:return: what a study says over several environments, then by environment, then what is missing"""
    return [
        *(_overall_section(results, sparsity) for sparsity in sparsities(results)),
        *(_task_section(results, task) for task in results.tasks),
        _missing_section(results),
    ]


def write_files(sections: Sequence[Section], folder: Path, title: str) -> list[Path]:
    """Write ``tables.md``, a CSV file a table, and every picture as PNG and SVG. :return: the files written"""
    files, lines = [], [f"# {title}", ""]
    for section in sections:
        lines += [f"## {section.title}", "", *(f"{note}\n" for note in section.notes)]
        for table in section.tables:
            lines += [f"### {table.title}", "", table.to_markdown() if table.rows else "None.\n"]
            name = f"{section.name}_{table.title.lower().replace(' ', '_')}.csv"
            files.append(write_text(folder / "tables" / name, table.to_csv()))
        for picture in section.pictures:
            files += picture.save(folder / "pictures")
            lines += [f"![{picture.title}](pictures/{picture.name}.png)", ""]
    lines += ["## How the figures are made", "", *(f"- {sentence}" for sentence in METHODS), ""]
    return [*files, write_text(folder / "tables.md", "\n".join(lines))]


def _overall_section(results: Results, sparsity: str) -> Section:
    every = [task for task in results.tasks if sparsity in sparsities(results, task)]
    judged = [separation(results, task, sparsity) for task in every]
    tasks = [one.task for one in judged if one.separates]
    name, title = f"overall_{sparsity}", f"Environments together, {percent(sparsity)}"
    everywhere = []
    if len(every) not in (
        1,
        len(tasks),
    ):  # else the table of that environment, or of those that tell arms apart, says the same
        everywhere = [improvement_table(improvements(results, every, sparsity), " in all environments")]
    if not tasks:
        return Section(name, title, ("No environment tells the arms apart.",), (separation_table(judged), *everywhere))
    found, left_out = overall(results, tasks, sparsity)
    compared = improvements(results, tasks, sparsity)
    return Section(
        name, title,
        (*(f"Left out: {what}." for what in left_out), *_coarse([arm.iqm for arm in found])),
        (separation_table(judged), overall_table(found), improvement_table(compared), *everywhere),
        tuple(overall_pictures(results, tasks, sparsity, found)),
    )  # fmt: skip


def _coarse(normalised: list[float]) -> list[str]:
    lowest = min(normalised, default=0.0)
    if len(normalised) < 2 or lowest <= COARSE:
        return []
    return [
        f"Measured from a random policy, every arm is at {lowest:.3f} of dense or above: normalised returns, and what "
        f"is called non-inferior by them, do not tell the arms apart here. Compare the returns themselves."
    ]


def _task_section(results: Results, task: str) -> Section:
    groups = results.groups(task)
    run = results.runs[results.runs["task"] == task].iloc[0]
    scale = results.scale[task]
    notes = [f"{run.env}, {run.n_timesteps:,} environment steps."]
    if scale is None:
        notes.append("Returns are not normalised: the dense arm or the random policy is not measured, or dense does not lead.")
    else:
        notes.append(f"A random policy reaches {number(scale[0])}, dense {number(scale[1])}.")
        values = [results.normalised(task, results.scores(task, *group)) or [0.0] for group in groups]
        notes += _coarse([interquartile_mean(of_group) for of_group in values])
    missing = results.missing[results.missing["task"] == task]
    if not missing.empty:
        arms = ", ".join(dict.fromkeys(f"{cell.arm} {percent(cell.sparsity)}" for cell in missing.itertuples()))
        notes.append(f"{len(missing)} cells have no result yet: {arms}.")
    compared = [one for sparsity in sparsities(results) for one in improvements(results, [task], sparsity)]
    ended = [group for group in groups if not results.of(task, *group).empty]
    return Section(
        task, task, tuple(notes),
        (arms_table(results, task), improvement_table(compared), runs_table(results, task)),
        (*task_pictures(results, task), curve_picture(results, task, ended, f"{task}_curves")),
        tuple(curve_picture(results, task, [group], f"{task}_curves_{'_'.join(group)}") for group in ended),
        task,
    )  # fmt: skip


def _missing_section(results: Results) -> Section:
    total = len(results.runs) + len(results.failures) + len(results.missing)
    notes = [
        f"{len(results.runs)} of {total} cells have a result; {len(results.failures)} failed, "
        f"{len(results.missing)} have not been run to their end."
    ]
    if results.stale:
        notes.append(f"{len(results.stale)} files are no cells of the study and are left aside: {', '.join(results.stale)}.")
    return Section("missing", "What is missing", tuple(notes), (missing_table(results),))
