"""What is left of a pruned agent's gradient step: other ways to make it, and whether they change the results."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch as th

from lab.performance.agent_rows import agent_entries
from lab.performance.learners import build_agent, gradient_steps
from lab.performance.options import Options
from lab.performance.table import SUBJECT, Column
from lab.performance.timing import median_ratio, milliseconds
from lab.performance.training import learn, measured
from lab.performance.variants import VARIANTS, Variant, rounded
from rl_crop.sb3.agent import prune_policy

WIDTHS, SPARSITIES = (64, 256, 1024), (0.95,)
SEED = 1
"""Of the short run in which a variant is compared with the stock agent."""
ROUNDINGS = 10.0
"""A variant is equal where it strays no more than so many times as far as a stock agent whose weights differ by rounding."""


def updates(algo: str, width: int, sparsity: float, options: Options, device: th.device) -> dict[str, Any]:
    """
    Prune equal agents, let each make its gradient steps in another way, compare what they learn in a short run, and time them.

    :param algo: ``"sac"`` or ``"ppo"``
    :param width: of both hidden layers before pruning
    :param sparsity: of every network
    :param options: rounds, steps and the backend of torch.compile
    :param device: where they are
    :return: by variant, milliseconds a gradient step, how many times faster than stock that and ``learn()`` are,
        ``difference`` (see :func:`strayed`) and whether it is ``equal``; or the ``error`` that it ends in. ``rounding`` is the
        difference that rounding alone makes
    """
    per_call = options.steps if algo == "sac" else options.data

    def short_run(change: Callable[[Any], None]) -> tuple[Any, list[th.Tensor], list[th.Tensor]]:
        model = build_agent(algo, [width, width], options, device)
        gradient_steps(model, options.batch_size)(options.steps)
        prune_policy(model, sparsity, batch_size=options.batch_size)
        before = weights(model)
        change(model)
        model.set_random_seed(SEED)
        learn(model, per_call)
        return model, before, weights(model)

    stock, before, after = short_run(lambda model: None)
    rounding = strayed(short_run(rounded)[2], after, before)
    models: dict[str, Any] = {"stock": stock}
    arms: dict[str, dict[str, Any]] = {}
    for name, variant in VARIANTS[algo].items():
        try:
            models[name], _, own = short_run(partial(_apply, variant, options.compile_backend))
            difference = strayed(own, after, before)
            arms[name] = {"difference": difference, "equal": difference <= ROUNDINGS * rounding}
        except Exception as error:  # such as no compiler: the others are measured nevertheless
            arms[name] = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    steps = {name: gradient_steps(model, options.batch_size) for name, model in models.items()}
    trained = measured({name: partial(step, options.steps) for name, step in steps.items()}, options, device)
    learned = measured({name: partial(learn, model, per_call) for name, model in models.items()}, options, device)
    times = {
        name: {
            "gradient_step_ms": milliseconds(trained, name, options.steps),
            "times_faster": median_ratio(trained, "stock", name),
            "learns_times_faster": median_ratio(learned, "stock", name),
        }
        for name in models
    }
    return {
        "rounding": rounding,
        "arms": {name: arms.get(name, {}) | times.get(name, {}) for name in ("stock", *VARIANTS[algo])},
    }


def weights(model: Any) -> list[th.Tensor]:
    """:return: copies of everything that a policy learns, target networks too"""
    return [parameter.detach().clone() for parameter in model.policy.parameters()]


def strayed(found: list[th.Tensor], wanted: list[th.Tensor], start: list[th.Tensor]) -> float:
    """:return: ‖found − wanted‖ / ‖wanted − start‖: how far from where a run should have led, relative to its way"""

    def distance(first: list[th.Tensor], second: list[th.Tensor]) -> float:
        return sum(float((a.double() - b.double()).square().sum()) for a, b in zip(first, second, strict=True)) ** 0.5

    return distance(found, wanted) / distance(wanted, start)


def _apply(variant: Variant, backend: str, model: Any) -> None:
    variant(model, backend)


COLUMNS = (
    *SUBJECT,
    Column("arm", "arm"),
    Column("gradient step, ms", "gradient_step_ms", ".3f"),
    Column("× stock", "times_faster", ".2f"),
    Column("learn × stock", "learns_times_faster", ".2f"),
    Column("difference", "difference", ".1e"),
    Column("by rounding", "rounding", ".1e"),
    Column("equal", "equal"),
    Column("error", "error"),
)

ENTRIES = agent_entries("update", updates, WIDTHS, SPARSITIES)
