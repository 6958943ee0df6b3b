"""What a pruning event costs: score, plan, compensate, cut, in gradient steps and in Hessian-gradient products."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch as th

from lab.performance.footprint import bytes_of, part_of, peak_bytes
from lab.performance.learners import FURTHER, Learner, agent_learner, build_agent
from lab.performance.options import Options
from lab.performance.table import SUBJECT, Column
from lab.performance.timing import median_ratio, milliseconds, repeat, seconds_of
from rl_crop.core.importance.context import ImportanceContext, Saliency, unit_scores
from rl_crop.core.importance.criteria import resolve_criterion
from rl_crop.core.importance.curvature import gradient, hessian_gradient_product
from rl_crop.core.pruning.plan import PruningPlan
from rl_crop.core.pruning.surgery import Transaction
from rl_crop.core.rng import undisturbed

WIDTHS, SPARSITIES = (256,), (0.95,)
STAGES = ("score", "plan", "compensate", "cut")


class Undone(Exception):  # noqa: N818
    """Ends an event so that it leaves nothing behind."""


class TimedCriterion:
    """
    A criterion that knows how long it takes, and what it was asked about.

    :param name: of the criterion
    :param device: where it works
    """

    def __init__(self, name: str, device: th.device) -> None:
        self.criterion, self.device = resolve_criterion(name), device
        self.seconds = 0.0
        self.asked: list[ImportanceContext] = []

    def __call__(self, context: ImportanceContext) -> Saliency:
        found: list[Saliency] = []
        self.seconds += seconds_of(lambda: found.append(self.criterion(context)), self.device)
        self.asked.append(context)
        return found[0]

    def forget(self) -> None:
        """Begin anew."""
        self.seconds, self.asked = 0.0, []


def undo_apply(plan: PruningPlan, compensation: str) -> None:
    """
    Cut, and put everything back.

    :param plan: what is cut
    :param compensation: instead of the plan's own
    """
    try:
        with Transaction() as transaction:
            replace(plan, settings=replace(plan.settings, compensation=compensation)).apply(transaction)
            raise Undone
    except Undone:
        pass


def products(asked: list[ImportanceContext]) -> None:
    """Gradients and Hessian-gradient products of all networks over all batches, and nothing else."""
    for context in asked:
        tensors = list(context.parameters.values())
        flow = gradient(context.loss, tensors, context.batches, context.seed)  # type: ignore[arg-type]
        hessian_gradient_product(context.loss, tensors, context.batches, flow, seed=context.seed)  # type: ignore[arg-type]


def event_cost(
    learner: Learner, sparsity: float, criterion: str, compensation: str, rounds: int, steps: int, max_seconds: float
) -> dict[str, Any]:
    """
    Each round measures a block of gradient steps, the Hessian-gradient products alone, planning, and the cut without and
    with compensation, which are undone.

    :param learner: what is pruned
    :param sparsity: of every network
    :param criterion: its name
    :param compensation: its name
    :param rounds: how many
    :param steps: gradient steps in a block, fewer where they would take a quarter of the time
    :param max_seconds: see :func:`~lab.performance.timing.repeat`
    :return: medians: milliseconds; the event and its stages in gradient steps; the event in products (gradient and
        Hessian-gradient product of all batches); and bytes, see :func:`event_memory`
    """
    timed = TimedCriterion(criterion, learner.device)
    made: list[PruningPlan] = []

    def plan() -> None:
        timed.forget()
        made[:] = [learner.plan(sparsity, criterion=timed, compensation=compensation)]

    def one_round(number: int) -> dict[str, float]:
        step = seconds_of(lambda: learner.step(steps), learner.device) / steps
        planning = seconds_of(plan, learner.device)
        with undisturbed(made[0].subject.root):
            alone = seconds_of(lambda: products(timed.asked), learner.device)
        cut = seconds_of(lambda: undo_apply(made[0], "none"), learner.device)
        applying = seconds_of(lambda: undo_apply(made[0], compensation), learner.device)
        stages = {"score": timed.seconds, "plan": planning - timed.seconds, "compensate": applying - cut, "cut": cut}
        return {"step": step, "products": alone, "event": planning + applying, **stages}

    steps = learner.block(steps, max_seconds / (4 * rounds))
    one_round(0)  # warm-up
    times = repeat(one_round, rounds, max_seconds)
    found = {
        "gradient_steps": median_ratio(times, "event", "step"), "event_ms": milliseconds(times, "event"),
        "gradient_step_ms": milliseconds(times, "step"), "products_ms": milliseconds(times, "products"),
        "event_in_products": median_ratio(times, "event", "products"),
        **{f"{stage}_steps": median_ratio(times, stage, "step") for stage in STAGES},
        "rounds": len(times["event"]), "steps": steps,
    }  # fmt: skip
    return found | event_memory(learner.device, plan, lambda: undo_apply(made[0], compensation), timed)


def event_memory(
    device: th.device, plan: Callable[[], None], cut: Callable[[], None], timed: TimedCriterion
) -> dict[str, Any]:
    """
    :param device: where everything is
    :param plan: plans, with the criterion
    :param cut: cuts what was planned, and undoes it
    :param timed: the criterion, which has been asked
    :return: bytes: of the parameters that are scored, and the most that planning and cutting hold beyond what was there. Of
        the network for which this is most: how many copies of its parameters there are while they are scored, the
        parameters themselves included; the most that this holds; what one batch's forward pass with its
        graph holds; and how often that goes into what is not copies. Copies are what is left when batches shrink.
    """
    networks = []
    for context in timed.asked:
        own, batch = bytes_of(context.parameters.values()), context.batches[0]
        activations = peak_bytes(lambda context=context, batch=batch: context.loss(batch), device)  # type: ignore[misc]
        held = {
            divisor: peak_bytes(lambda part=part: unit_scores(timed.criterion(part), part.groups), device)  # type: ignore[misc]
            for divisor in (1, 8, 16)
            for part in [replace(context, batches=[part_of(batch, divisor) for batch in context.batches])]
        }
        copied = 2 * held[16] - held[8]
        networks.append((1 + copied / own, held[1], activations, (held[1] - copied) / activations))
    copies, scores, activations, batches = max(networks)
    total = sum(bytes_of(context.parameters.values()) for context in timed.asked)
    return {
        "parameters_bytes": total, "plan_bytes": peak_bytes(plan, device), "cut_bytes": peak_bytes(cut, device),
        "score_bytes": scores, "activations_bytes": activations, "score_activations": batches, "score_copies": copies,
    }  # fmt: skip


def entries(options: Options) -> Iterator[tuple[dict[str, Any], Callable[[], Mapping[str, Any]]]]:
    """:return: what tells each row from the others, and a function that measures it"""

    def learner_of(name: str, width: int | None, device: th.device) -> Learner:
        if width is None:
            return FURTHER[name](device)
        return agent_learner(build_agent(name, [width, width], options, device), name, options.batch_size)

    widths = WIDTHS if options.widths is None else options.widths
    subjects: list[tuple[str, int | None]] = [(algo, width) for width in widths for algo in options.agents]
    subjects += [(name, None) for name in options.networks]
    for device in options.torch_devices():
        for name, width in subjects:
            built = cache(partial(learner_of, name, width, device))  # not at all where all rows are there
            for sparsity in SPARSITIES if options.sparsities is None else options.sparsities:
                for case in options.cases:
                    criterion, _, compensation = case.partition("+")
                    identity = {
                        "part": "cost", "agent": name, "width": width, "device": device.type, "sparsity": sparsity,
                        "criterion": criterion, "compensation": compensation,
                    }  # fmt: skip
                    yield identity, partial(_measure, built, options, sparsity, criterion, compensation)


def _measure(
    built: Callable[[], Learner], options: Options, sparsity: float, criterion: str, compensation: str
) -> dict[str, Any]:
    return event_cost(built(), sparsity, criterion, compensation, options.rounds, options.steps, options.max_seconds)


COLUMNS = (
    *SUBJECT,
    Column("criterion", "criterion"),
    Column("compensation", "compensation"),
    Column("step, ms", "gradient_step_ms", ".2f"),
    Column("event, ms", "event_ms", ".0f"),
    Column("event, steps", "gradient_steps", ".1f"),
    *(Column(stage, f"{stage}_steps", ".1f") for stage in STAGES),
    Column("event, products", "event_in_products", ".2f"),
    Column("score, copies", "score_copies", ".1f"),
    Column("score, activations", "score_activations", ".1f"),
)
