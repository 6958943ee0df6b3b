"""Tables, pictures and a report of a study, from its results. The study need not be finished.

Examples::

    python scripts/random_policy.py runs/returns   # once: the zero of normalised returns
    python scripts/plot.py runs/returns
    python scripts/plot.py docs/results/returns.jsonl.gz   # what is recorded of this project's studies

Writes `report.html` (one page, opens in any browser), `tables.md`, `tables/*.csv` and `pictures/*.png` and `*.svg`.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

# It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from command_line import tyro
from random_policy import read_random_returns
from rl_crop.evaluation import ConfigError
from rl_crop.evaluation.command import command
from rl_crop.evaluation.report_html import write_page
from rl_crop.evaluation.results import Results, load_results
from rl_crop.evaluation.store import Store
from rl_crop.evaluation.study import load_study
from rl_crop.evaluation.study_report import study_sections, write_files


@dataclass(frozen=True)
class Args:
    results: tyro.conf.Positional[Path]
    """The folder of the results, as `scripts/sweep.py` writes it, or the file into which it merged them."""
    study: Path | None = None
    """The study, which says what is missing; by default `configs/study_<name>.yaml`, where there is one."""
    random_policy: tuple[Path, ...] = (Path("runs/random_policy"), Path("docs/results/random_policy"))
    """Where `scripts/random_policy.py` wrote the returns of random policies; the first that has an environment counts."""
    out: Path | None = None
    """Where to write; by default `runs/<name>_report`."""


def random_returns(results: Results, folders: Sequence[Path]) -> dict[str, list[float]]:
    """
    :param results: the results of a study
    :param folders: the measurements of random policies
    :return: their returns by task, where they have been measured
    """
    found: dict[str, list[float]] = {}
    for run in results.runs.drop_duplicates("task").itertuples():
        for folder in folders:
            returns = read_random_returns(folder, run.env, run.env_kwargs)
            if returns is not None:
                found.setdefault(run.task, returns)
    return found


def load_study_results(args: Args) -> Results:
    """:return: the study's results, beside random policies where they have been measured"""
    store = Store.at(args.results)
    if not store.folder.is_dir() and not store.merged.is_file():
        raise ConfigError(f"There are no results at {args.results}: run scripts/sweep.py first")
    default = Path("configs") / f"study_{store.folder.name}.yaml"
    study = args.study or (default if default.exists() else None)
    results = load_results(args.results, None if study is None else load_study(study))
    return replace(results, random=random_returns(results, args.random_policy))


def folder_of(args: Args) -> Path:
    """:return: where to write"""
    return args.out or Path("runs") / f"{Store.at(args.results).folder.name}_report"


def main(args: Args) -> None:
    """
    Write everything.

    :param args: the arguments
    """
    results, out = load_study_results(args), folder_of(args)
    title, command = f"Study: {Store.at(args.results).folder.name}", f"python scripts/plot.py {args.results}"
    sections = study_sections(results)
    write_files(sections, out, title)
    page = write_page(results, sections, out / "report.html", title, command)
    for section in sections:
        print(f"## {section.title}", *section.notes, sep="\n", end="\n\n")
        for table in section.tables:
            if table.title != "Runs":
                print(table.to_markdown() if table.rows else "None.\n")
    unknown = [task for task in results.tasks if task not in results.random]
    if unknown:
        print(f"Not normalised: {', '.join(unknown)}. Run: python scripts/random_policy.py {args.results}")
    print(f"Open {page}; tables and pictures are in {out}/")


if __name__ == "__main__":
    sys.exit(command(main, Args, __doc__ or ""))
