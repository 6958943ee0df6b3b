"""What a cut does at once to the action and value functions of half-trained agents, for every way of cutting.

Trains each agent densely for half of its run (once: it is kept in `--runs`), cuts copies of it, and compares their functions
with the dense ones on data that was not scored. Writes one JSON file a task and a Markdown table.

Example::

    python scripts/cut_quality.py configs/ppo_lunarlander.yaml configs/sac_halfcheetah.yaml
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Small networks on a CPU are fastest on one thread. It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import tyro

from rl_crop.evaluation import load_config
from rl_crop.evaluation.building import build_env
from rl_crop.evaluation.cut_quality import measure
from rl_crop.evaluation.partly_trained import partly_trained
from rl_crop.files import write_json, write_text

SPARSITIES = (0.8, 0.9, 0.95, 0.99)
CRITERIA = ("crop", "magnitude", "random", "span", "span_crop")
COMPENSATIONS = ("none", "bias", "least_squares", "distill")


@dataclass(frozen=True)
class Args:
    configs: tyro.conf.Positional[tuple[Path, ...]]
    """The tasks: YAML files of `configs/`."""
    seed: int = 0
    """Seeds the agents and the data."""
    trained: float = 0.5
    """Share of the run that the agents are trained for."""
    runs: Path = Path("runs/cut_quality")
    """Where the trained agents are kept."""
    out: Path = Path("docs/results/cut_quality")
    """Where the results go."""


def markdown(rows: list[dict[str, Any]], function: str) -> str:
    """
    :param rows: of one task
    :param function: ``action`` or ``value``
    :return: a table: one line a sparsity and criterion, one column a compensation
    """
    lines = ["| sparsity | criterion | " + " | ".join(COMPENSATIONS) + " |", "|---|---|" + "---|" * len(COMPENSATIONS)]
    for sparsity in SPARSITIES:
        for criterion in CRITERIA:
            cells = {
                row["compensation"]: row[function]
                for row in rows
                if row["sparsity"] == sparsity and row["criterion"] == criterion
            }
            values = [f"{cells[name]:.3f}" if cells[name] > -100 else f"{cells[name]:.1e}" for name in COMPENSATIONS]
            lines.append(f"| {sparsity:.0%} | {criterion} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def main(args: Args) -> None:
    """Measure every task and write its results."""
    for path in args.configs:
        config = load_config(path)
        env = build_env(config, args.seed)
        model, _ = partly_trained(config, env, path.stem, args.seed, args.trained, args.runs)
        rows = measure(model, SPARSITIES, CRITERIA, COMPENSATIONS, args.seed)
        write_json(
            args.out / f"{path.stem}.json", {"task": path.stem, "seed": args.seed, "trained": args.trained, "rows": rows}
        )
        tables = "\n\n".join(f"Explained variance of {name}s:\n\n{markdown(rows, name)}" for name in ("action", "value"))
        write_text(args.out / f"{path.stem}.md", f"# {path.stem}, trained for {args.trained:.0%} of its run\n\n{tables}\n")
        print(f"\n{path.stem}\n\n{tables}\n")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
