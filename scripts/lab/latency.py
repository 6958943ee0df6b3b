"""How long an agent takes for an action: dense and pruned, with `predict`, in torch, in ONNX Runtime and in C.

Builds each agent, trains it just long enough to have data (latency depends on shapes alone), prunes one of two, exports both
and times them in turns on one thread. Writes one JSON file a task and puts the table into a page. Let nothing else run beside
it.

Example::

    python scripts/lab/latency.py
"""

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))  # where `lab` is

import tyro
from stable_baselines3.common.base_class import BaseAlgorithm

import rl_crop
from parts.latency import latency_cells, latency_rows
from rl_crop.core.pruning.report import table
from rl_crop.evaluation import load_config
from rl_crop.evaluation.building import build_env, build_model
from rl_crop.evaluation.networks import read_widths
from rl_crop.evaluation.run import versions
from rl_crop.files import write_json, write_text

TASKS = {"ppo_lunarlander": {"n_envs": 1, "n_steps": 2048}, "sac_halfcheetah": {"learning_starts": 1000}}
TRAINED = 2048
BEGIN, END = "<!-- table of scripts/lab/latency.py -->\n", "<!-- end of the table -->"


@dataclass(frozen=True)
class Args:
    sparsity: float = 0.95
    """Of actor and critic."""
    repetitions: int = 200
    """Blocks of calls of each way of each agent."""
    seed: int = 0
    """Seeds agents and environments."""
    out: Path = Path("runs/latency")
    """Where the results go."""
    page: Path = Path("docs/export.md")
    """The page with the table."""


def trained(task: str, seed: int) -> BaseAlgorithm:
    """
    :param task: a configuration of `configs/`
    :param seed: of agent and environment
    :return: a dense agent that has data; the same one every time
    """
    config = load_config(Path("configs") / f"{task}.yaml", TASKS[task])
    return build_model(config, build_env(config, seed), seed).learn(TRAINED)


def measure(task: str, args: Args) -> dict[str, Any]:
    """
    :param task: a configuration of `configs/`
    :param args: the arguments
    :return: what goes into its file
    """
    dense, pruned = trained(task, args.seed), trained(task, args.seed)
    rl_crop.prune_policy(pruned, sparsity=args.sparsity)
    with tempfile.TemporaryDirectory() as folder:
        agents, sizes, widths = {}, {}, {}
        for name, model in {"dense": dense, "pruned": pruned}.items():
            files = {suffix: Path(folder) / f"{name}{suffix}" for suffix in (".onnx", ".c")}
            reports = [rl_crop.export_actor(model, path) for path in files.values()]
            agents[name] = (model, files, None)
            sizes[name] = {report.path.suffix: report.n_bytes for report in reports}
            widths[name] = read_widths(model)
        rows = latency_rows(agents, args.repetitions)
    return {
        "task": task, "sparsity": args.sparsity, "seed": args.seed, "repetitions": args.repetitions, "widths": widths,
        "bytes": sizes, "rows": rows, "versions": versions(),
    }  # fmt: skip


def markdown(results: list[dict[str, Any]]) -> str:
    """:return: the tables of all tasks"""
    parts = []
    for result in results:
        header, lines = latency_cells(result["rows"])
        widths = {name: "-".join(map(str, arch["pi"])) for name, arch in result["widths"].items()}
        sizes = ", ".join(
            f"{name} {widths[name]}: {files['.onnx']:,} bytes of ONNX, {files['.c']:,} of C"
            for name, files in result["bytes"].items()
        )
        table_lines = [header, ["---"] * len(header), *lines]
        parts.append(f"{result['task']}, {sizes}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in table_lines))
    return "\n\n".join(parts) + "\n"


def main(args: Args) -> None:
    """Measure every task, write its results and the page's table."""
    results = []
    for task in TASKS:
        results.append(measure(task, args))
        write_json(args.out / f"{task}.json", results[-1])
        print(f"{task}\n{table(*latency_cells(results[-1]['rows']), n_left=2)}\n")
    before, _, rest = args.page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    write_text(args.page, f"{before}{BEGIN}\n{markdown(results)}\n{END}{after}")
    print(f"Written to {args.out} and {args.page}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
