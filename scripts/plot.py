"""Tables, pictures and a report of a study, from the folder of its results. The study need not be finished.

Examples::

    python scripts/random_policy.py docs/results/returns   # once: the zero of normalised returns
    python scripts/plot.py docs/results/returns

Writes `report.html` (one page, opens in any browser), `tables.md`, `tables/*.csv` and `pictures/*.png` and `*.svg`.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

# It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import tyro

from rl_crop.core.errors import PruningError
from rl_crop.evaluation import ConfigError
from rl_crop.evaluation.random_policy import read_random_returns
from rl_crop.evaluation.report_html import write_page
from rl_crop.evaluation.results import Results, load_results
from rl_crop.evaluation.scores import Scores
from rl_crop.evaluation.study import load_study
from rl_crop.evaluation.study_report import study_sections, write_files


@dataclass(frozen=True)
class Args:
    results: tyro.conf.Positional[Path]
    """A folder with one JSON file a run, as `scripts/sweep.py` writes it."""
    study: Path | None = None
    """The study, which says what is missing; by default `configs/study_<folder>.yaml`, where there is one."""
    random_policy: Path = Path("docs/results/random_policy")
    """Where `scripts/random_policy.py` wrote the returns of random policies."""
    out: Path | None = None
    """Where to write; by default beside the results, `<folder>_report`."""


def random_returns(results: Results, folder: Path) -> dict[str, list[float]]:
    """
    :param results: the results of a study
    :param folder: the measurements of random policies
    :return: their returns by task, where they have been measured
    """
    found = {}
    for key, run in results.runs.items():
        returns = None if key.task in found else read_random_returns(folder, run.env, run.env_kwargs)
        if returns is not None:
            found[key.task] = returns
    return found


def main(args: Args) -> None:
    """
    Write everything.

    :param args: the arguments
    """
    default = Path("configs") / f"study_{args.results.name}.yaml"
    study = args.study or (default if default.exists() else None)
    results = load_results(args.results, None if study is None else load_study(study))
    scores = Scores(results, random_returns(results, args.random_policy))
    out = args.out or args.results.with_name(f"{args.results.name}_report")
    title, command = f"Study: {args.results.name}", f"python scripts/plot.py {args.results}"
    sections = study_sections(scores)
    write_files(sections, out, title)
    page = write_page(scores, sections, out / "report.html", title, command)
    for section in sections:
        print(f"## {section.title}", *section.notes, sep="\n", end="\n\n")
        for table in section.tables:
            if table.title != "Runs":
                print(table.to_markdown() if table.rows else "None.\n")
    unknown = [task for task in results.tasks if task not in scores.random]
    if unknown:
        print(f"Not normalised: {', '.join(unknown)}. Run: python scripts/random_policy.py {args.results}")
    print(f"Open {page}; tables and pictures are in {out}/")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except (ConfigError, PruningError) as error:
        sys.exit(f"Error: {error}")
