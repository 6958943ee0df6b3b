"""What the next updates do to a cut agent: returns after the cut and after each of a few rollouts, for weak and strong
refits, with optimizers that keep their state and that begin anew.

Example::

    python scripts/after_cut.py configs/ppo_tracking.yaml
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Small networks on a CPU are fastest on one thread. It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import tyro

from rl_crop.evaluation import load_config
from rl_crop.evaluation.after_cut import WAYS, next_updates, played
from rl_crop.evaluation.building import build_env
from rl_crop.evaluation.partly_trained import partly_trained
from rl_crop.evaluation.text import number
from rl_crop.files import write_json, write_text


@dataclass(frozen=True)
class Args:
    config: tyro.conf.Positional[Path]
    """The task: a YAML file of `configs/`, of an on-policy algorithm."""
    criteria: tuple[str, ...] = ("random", "magnitude", "crop", "span_crop")
    """How units are scored."""
    sparsity: float = 0.9
    """Share of each network's prunable parameters to cut."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the cut; `random` differs most."""
    trained: float = 0.1
    """Share of the run that the agent is trained for before."""
    n_updates: int = 4
    """Rollouts trained on after the cut."""
    runs: Path = Path("runs/after_cut")
    """Where the trained agent is kept."""
    out: Path = Path("docs/results/after_cut")
    """Where the results go."""


def markdown(rows: list[dict[str, Any]]) -> str:
    """
    :param rows: one a criterion, way and seed
    :return: a table: one line a criterion and way, the seeds beside each other
    """
    columns = ("criterion", "ridge", "optimizers", "after the cut", "after the last update")
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for criterion in dict.fromkeys(row["criterion"] for row in rows):
        for way in WAYS:
            own = [row for row in rows if (row["criterion"], row["ridge"], row["keeps_state"]) == (criterion, *way)]
            cells = [criterion, f"{way[0]:g}", "go on" if way[1] else "begin anew"]
            cells += [", ".join(number(row["returns"][at]) for row in own) for at in (0, -1)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(args: Args) -> None:
    """Train the agent, cut it in every way, and write what followed."""
    config, task = load_config(args.config), args.config.stem
    env, test_env = build_env(config, 0), build_env(config, 10_000, 1, training=False)
    model, saved = partly_trained(config, env, task, 0, args.trained, args.runs)
    dense, rate = played(model, test_env), float(model.lr_schedule(1.0 - args.trained))
    rows = []
    for criterion in args.criteria:
        rows += next_updates(saved, config, env, test_env, rate, args.sparsity, criterion, args.seeds, args.n_updates)
    facts = {"task": task, "sparsity": args.sparsity, "trained": args.trained, "n_updates": args.n_updates, "dense": dense}
    write_json(args.out / f"{task}.json", facts | {"rows": rows})
    title = f"{task}, {args.sparsity:.0%} cut after {args.trained:.0%} of the run; return before the cut {number(dense)}"
    print(write_text(args.out / f"{task}.md", f"# {title}\n\n{markdown(rows)}").read_text())


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
