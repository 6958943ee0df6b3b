"""Tables and pictures of a study of recipes, or of other arms on small tasks, from its results.

The study need not be finished.

Examples::

    python scripts/sweep.py configs/study_recipes.yaml --jobs 2
    python scripts/lab/recipe_tables.py configs/study_recipes.yaml

Writes `README.md`, `tables/*.csv` and `pictures/*.png` and `*.svg` in a folder of their own.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where `lab` is

import tyro

from lab.recipe_report.picture import recipe_picture
from lab.recipe_report.tables import NOTES, outcome, recipe_tables
from rl_crop.core.errors import PruningError
from rl_crop.evaluation.results import DENSE, load_results
from rl_crop.evaluation.store import Store
from rl_crop.evaluation.study import default_results, load_study
from rl_crop.files import write_text


@dataclass(frozen=True)
class Args:
    study: tyro.conf.Positional[Path]
    """The study: a YAML file such as `configs/study_recipes.yaml`."""
    results: Path | None = None
    """The folder of the results, or the file into which they were merged; by default `runs/` and the study's name."""
    out: Path | None = None
    """Where to write; by default `runs/<name>_report`."""


def main(args: Args) -> None:
    """
    Write everything.

    :param args: the arguments
    """
    results = args.results or default_results(args.study)
    found = load_results(results, load_study(args.study), outcome)
    name = Store.at(results).folder.name
    out = args.out or Path("runs") / f"{name}_report"
    counts = (
        f"{len(found.runs)} cells have a result, {len(found.failures)} none for an error, {len(found.missing)} are to run."
    )
    lines = [
        f"# Every arm of the study of {name}",
        "",
        f"Made by `python scripts/lab/recipe_tables.py {args.study}`. {counts}",
        "",
    ]
    lines += [f"- {note}" for note in NOTES]
    tables = recipe_tables(found)
    for task in found.tasks:
        lines += ["", f"## {task}"]
        if any(arm != DENSE for arm, _ in found.groups(task)):
            picture = recipe_picture(found, task)
            picture.save(out / "pictures")
            lines += ["", f"![{picture.title}](pictures/{picture.name}.png)"]
        for table in tables:
            if table.tags[0]["task"] == task:
                write_text(out / "tables" / f"{task}_{table.tags[0]['sparsity']}.csv", table.to_csv())
                lines += ["", f"### {table.title}", "", table.to_markdown().rstrip()]
    page = write_text(out / "README.md", "\n".join(lines) + "\n")
    print(f"{counts} Open {page}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except PruningError as error:
        sys.exit(f"Error: {error}")
