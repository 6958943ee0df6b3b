"""Training after the cut: dense, pruned, built small, masked, and pruned by Torch-Pruning, in turns."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch as th

from lab.performance.agent_rows import agent_entries
from lab.performance.learners import build_agent, gradient_steps
from lab.performance.options import Options
from lab.performance.rivals import mask, native, torch_pruning
from lab.performance.table import SUBJECT, Column
from lab.performance.timing import Times, in_turns, median_ratio, milliseconds, repeat
from rl_crop.evaluation.networks import count_parameters, read_widths
from rl_crop.sb3.agent import prune_policy

WIDTHS, SPARSITIES = (64, 256, 1024), (0.9, 0.95, 0.99)
LEARN_EPOCHS = 10
"""Passes of PPO over a rollout, in whole ``learn()`` calls."""


def build_arms(algo: str, width: int, sparsity: float, options: Options, device: th.device) -> dict[str, Any]:
    """
    :param algo: ``"sac"`` or ``"ppo"``
    :param width: of both hidden layers of every network
    :param sparsity: of every network
    :param options: environment, batch size and transitions
    :param device: where they are
    :return: agents that learn from the same data: ``dense``, ``pruned``, ``native`` (the pruned one's widths and weights,
        built so), ``masks`` and ``torch_pruning`` (the pruned one's widths)
    """

    def build(arch: Any) -> Any:
        return build_agent(algo, arch, options, device)

    arms = {name: build([width, width]) for name in ("dense", "pruned", "masks", "torch_pruning")}
    gradient_steps(arms["pruned"], options.batch_size)(options.steps)  # something to score, and a state to cut
    prune_policy(arms["pruned"], sparsity, batch_size=options.batch_size)
    mask(arms["masks"], sparsity)
    widths = read_widths(arms["pruned"])
    assert isinstance(widths, dict)
    torch_pruning(arms["torch_pruning"], widths)
    return arms | {"native": native(arms["pruned"], build)}


def training_speed(algo: str, width: int, sparsity: float, options: Options, device: th.device) -> dict[str, Any]:
    """
    :param algo: ``"sac"`` or ``"ppo"``
    :param width: of both hidden layers of every network
    :param sparsity: of every network
    :param options: rounds and steps
    :param device: where they are
    :return: by arm, milliseconds a gradient step, environment steps a second of ``learn()``, parameters, and how many
        times faster than dense both are; and the pruned agent's gradient step in steps of the one built small
    """
    arms = build_arms(algo, width, sparsity, options, device)
    steps = {name: gradient_steps(model, options.batch_size) for name, model in arms.items()}
    trained = measured({name: partial(step, options.steps) for name, step in steps.items()}, options, device)
    per_call = options.steps if algo == "sac" else options.data
    if algo == "ppo":
        for model in arms.values():
            model.n_epochs = LEARN_EPOCHS
    learned = measured({name: partial(learn, model, per_call) for name, model in arms.items()}, options, device)
    found: dict[str, Any] = {
        name: {
            "gradient_step_ms": milliseconds(trained, name, options.steps),
            "times_faster": median_ratio(trained, "dense", name),
            "steps_per_second": 1e3 / milliseconds(learned, name, per_call),
            "learns_times_faster": median_ratio(learned, "dense", name),
            "parameters": count_parameters(model)["total"],
        }
        for name, model in arms.items()
    }
    return {
        "pruned_to_native": median_ratio(trained, "pruned", "native"),
        "learn_pruned_to_native": median_ratio(learned, "pruned", "native"),
        "widths": read_widths(arms["pruned"]), "rounds": len(trained["dense"]), "arms": found,
    }  # fmt: skip


def learn(model: Any, timesteps: int) -> None:
    """Go on with a run for some environment steps."""
    model.learn(timesteps, reset_num_timesteps=False)


def measured(calls: Mapping[str, Callable[[], None]], options: Options, device: th.device) -> Times:
    """
    :param calls: what is compared, by name
    :param options: rounds
    :param device: where they work
    :return: seconds by name, round after round, once each has been called for warm-up
    """
    for call in calls.values():
        call()  # warm-up
    return repeat(in_turns(calls, device), options.rounds, options.max_seconds)


def by_arm(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """:return: one line an arm, for a table"""
    return [{**row, "arm": name, **arm} for row in rows for name, arm in row["arms"].items()]


COLUMNS = (
    *SUBJECT,
    Column("arm", "arm"),
    Column("parameters", "parameters", ","),
    Column("gradient step, ms", "gradient_step_ms", ".3f"),
    Column("× dense", "times_faster", ".2f"),
    Column("learn, steps/s", "steps_per_second", ".0f"),
    Column("× dense", "learns_times_faster", ".2f"),
    Column("pruned/native", "pruned_to_native", ".3f"),
)

ENTRIES = agent_entries("training", training_speed, WIDTHS, SPARSITIES)
