"""What a pruning event costs, in gradient steps of the same dense agent. One thread; let nothing else run beside it.

Each repetition times a block of gradient steps and one whole event (data, scores, plan, compensation, cut), which is undone,
so that every pair is measured on the same agent. Reported are medians of the paired ratios.

Example::

    python scripts/benchmark.py --out docs/results/benchmark/event.json
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import tyro
from stable_baselines3 import PPO, SAC

from rl_crop import plan_policy_pruning
from rl_crop.core.report import table
from rl_crop.core.surgery import Transaction
from rl_crop.evaluation.run import versions
from rl_crop.files import write_json

BATCH_SIZE = 256
CASES = [
    ("crop", "least_squares"),
    ("span_crop", "least_squares"),
    ("span", "least_squares"),
    ("magnitude", "least_squares"),
    ("crop", "none"),
    ("crop", "distill"),
]


@dataclass(frozen=True)
class Args:
    repetitions: int = 7
    """Pairs of a block of gradient steps and an event."""
    steps: int = 40
    """Gradient steps in a block: a multiple of 8, as PPO trains by epochs of that many."""
    widths: tuple[int, ...] = (256,)
    """Hidden widths of both layers of every network."""
    sparsity: float = 0.95
    """Of actor and critic."""
    out: Path | None = None
    """A JSON file for the figures."""


class _Undo(Exception):
    """Ends an event so that it leaves nothing behind."""


def agents(width: int) -> dict[str, tuple[Any, Callable[[int], None]]]:
    """
    :param width: of every hidden layer
    :return: by name, an agent with data, and a function that makes a number of its gradient steps
    """
    arch = [width, width]
    sac = SAC("MlpPolicy", "HalfCheetah-v5", policy_kwargs={"net_arch": arch}, learning_starts=2000, device="cpu", seed=0)
    sac.learn(2100)
    ppo = PPO(
        "MlpPolicy", "LunarLander-v3", policy_kwargs={"net_arch": arch}, n_steps=2048, batch_size=BATCH_SIZE, n_epochs=1,
        device="cpu", seed=0,
    )  # fmt: skip
    ppo.learn(2048)

    def epochs(steps: int) -> None:
        for _ in range(steps * BATCH_SIZE // 2048):
            ppo.train()

    return {"SAC HalfCheetah-v5": (sac, lambda steps: sac.train(steps, BATCH_SIZE)), "PPO LunarLander-v3": (ppo, epochs)}


def event_seconds(model: Any, sparsity: float, criterion: str, compensation: str) -> float:
    """:return: wall-clock of one event, which is undone"""
    start = time.perf_counter()
    end = start
    try:
        with Transaction() as transaction:
            plan_policy_pruning(model, sparsity, criterion=criterion, compensation=compensation).apply(transaction)
            end = time.perf_counter()
            raise _Undo
    except _Undo:
        return end - start


def main(args: Args) -> None:
    """Measure, print a table, and write the figures."""
    if args.steps < 8 or args.steps % 8:
        raise SystemExit("--steps must be a multiple of 8.")
    rows: list[dict[str, Any]] = []
    for width in args.widths:
        for name, (model, gradient_steps) in agents(width).items():
            gradient_steps(args.steps)  # warm-up
            for criterion, compensation in CASES:
                ratios, steps, events = [], [], []
                for _ in range(args.repetitions):
                    start = time.perf_counter()
                    gradient_steps(args.steps)
                    steps.append((time.perf_counter() - start) / args.steps)
                    events.append(event_seconds(model, args.sparsity, criterion, compensation))
                    ratios.append(events[-1] / steps[-1])
                rows.append(
                    {
                        "agent": name, "width": width, "criterion": criterion, "compensation": compensation,
                        "gradient_steps": statistics.median(ratios), "event_ms": 1e3 * statistics.median(events),
                        "gradient_step_ms": 1e3 * statistics.median(steps),
                    }
                )  # fmt: skip
    header = ["agent", "width", "criterion", "compensation", "gradient step, ms", "event, ms", "event in gradient steps"]
    lines = [
        [
            row["agent"], str(row["width"]), row["criterion"], row["compensation"], f"{row['gradient_step_ms']:.2f}",
            f"{row['event_ms']:.0f}", f"{row['gradient_steps']:.1f}",
        ]
        for row in rows
    ]  # fmt: skip
    print(table(header, lines))
    if args.out is not None:
        write_json(args.out, {"rows": rows, "repetitions": args.repetitions, "batch_size": BATCH_SIZE, "versions": versions()})
        print(f"Written to {args.out}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
