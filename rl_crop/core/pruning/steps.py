"""Several cuts as one: the steps of an iterative event, undone together when one of them fails."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from rl_crop.core.errors import PruningError, explained
from rl_crop.core.pruning.plan import PruningPlan
from rl_crop.core.pruning.report import PruningReport
from rl_crop.core.pruning.schedules import INNER, MET, ScheduleOptions, relative_sparsity
from rl_crop.core.pruning.settings import Shares, check_choices, check_names_any, check_sparsity
from rl_crop.core.pruning.surgery import Transaction

STEPPED = ("one_shot", "iterative")

Record = Callable[[PruningReport, Transaction], None]
"""Keeps a report somewhere, while the cut can still be undone."""


def step_targets(sparsity: Shares, schedule: str) -> list[Shares]:
    """
    What is gone after each step of one event, of the network as it was before it.

    :param sparsity: of the whole event.
    :param schedule: ``"one_shot"`` or ``"iterative"`` (half of what is left to remove, at each of six steps, then the rest).
    :raises PruningError: another schedule, or a sparsity that is not in [0, 1).
    """
    check_choices({"schedule": (schedule, STEPPED)})
    check_names_any(sparsity)
    check_sparsity(sparsity)
    inner = "none" if schedule == "one_shot" else "halving"
    if isinstance(sparsity, Mapping):
        return list(inner_steps(sparsity, inner))
    return [step[""] for step in inner_steps({"": sparsity}, inner)]


def inner_steps(
    due: Mapping[str, float],
    inner: str,
    options: ScheduleOptions = ScheduleOptions(),  # noqa: B008
) -> list[dict[str, float]]:
    """:return: by network, what is gone after each step of one event that ends at ``due``; ``inner`` is one of ``INNER``."""
    columns = {name: INNER[inner](share, options) for name, share in due.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def event_steps(
    due: Mapping[str, float], gone: Mapping[str, float], inner: str, options: ScheduleOptions
) -> list[dict[str, float]]:
    """
    :param due: share of the original that is to be gone after the event, by network.
    :param gone: share of it that is gone before (0 where a network is not named).
    :param inner: one of ``INNER``, for what is left to go.
    :return: share of the original that is to be gone after each step.
    """
    before = {name: gone.get(name, 0.0) for name in due}
    rest = {name: relative_sparsity(max(share, before[name]), before[name]) for name, share in due.items()}
    return [
        {name: 1.0 - (1.0 - before[name]) * (1.0 - share) if before[name] else share for name, share in step.items()}
        for step in inner_steps(rest, inner, options)
    ]


def apply_steps(
    plan_for: Callable[[Shares], PruningPlan],
    targets: Sequence[Shares],
    first: PruningPlan | None = None,
    record: Record | None = None,
) -> PruningReport:
    """
    Plan and apply one step after the other; all of them, or none.

    :param plan_for: makes the plan of a step, given what it removes of the network as it then is.
    :param targets: what is gone after each step, of the network as it was at first.
    :param first: the plan of the first step, where it has been made already.
    :param record: called with the report while all can still be undone; what it raises undoes it.
    :return: one report over all steps.
    """
    reports: list[PruningReport] = []
    left: dict[str, float] = {}
    with Transaction() as transaction:
        for target in targets:
            rest = _rest(target, left)
            if reports and all(share <= MET for share in (rest.values() if isinstance(rest, Mapping) else [rest])):
                continue  # an earlier step had to remove a unit that was larger than it needed
            plan = first if first is not None and not reports else plan_for(rest)
            reports.append(plan.apply(transaction))
            if not plan.settings.structured:
                continue  # what masks are asked for counts what is masked already
            for name, share in plan.budget_sparsity.items():
                left[name] = left.get(name, 1.0) * (1.0 - share)
        return recorded(reports, transaction, record)


def apply_at_once(plan: PruningPlan, schedule: str, record: Record | None = None) -> PruningReport:
    """
    Apply the plan of a size that was found, or of a budget.

    :param schedule: must be ``"one_shot"``: what is not a share has no steps.
    :param record: as for :func:`apply_steps`.
    :raises PruningError: it is another one.
    """
    check_choices({"schedule": (schedule, STEPPED)})
    if schedule != "one_shot":
        raise PruningError(f"schedule={schedule!r} needs a sparsity: a size or a budget is met in one step.")
    with Transaction() as transaction:
        return recorded([plan.apply(transaction)], transaction, record)


def recorded(reports: Sequence[PruningReport], transaction: Transaction, record: Record | None) -> PruningReport:
    """:return: one report over all, once it is recorded; what goes wrong there undoes the transaction."""
    with explained("The cut could not be recorded", "everything was put back"):
        report = merge_reports(reports)
        if record is not None:
            record(report, transaction)
    return report


def _rest(target: Shares, left: Mapping[str, float]) -> Shares:
    """A step starts from what the earlier ones really removed, so that their overshoots do not add up."""

    def more(share: float, left: float) -> float:
        return relative_sparsity(share, 1.0 - left) if 1.0 - left < share - 1e-12 else MET if share else 0.0

    if isinstance(target, Mapping):
        return {name: more(share, left.get(name, 1.0)) for name, share in target.items()}
    if not left or "total" in left:
        return more(target, left.get("total", 1.0))
    return {name: more(target, share) for name, share in left.items()}


def merge_reports(reports: Sequence[PruningReport]) -> PruningReport:
    """:return: one report from before the first cut to after the last."""
    if len(reports) == 1:
        return reports[0]
    first, last = reports[0], reports[-1]
    remaining = {name: 1.0 for report in reports for name in report.sparsity}
    for report in reports:
        for name, share in report.sparsity.items():
            remaining[name] *= 1.0 - share
    widths: dict[str, tuple[int, int]] = {}
    for report in reports:
        for name, (before, after) in report.widths.items():
            widths[name] = (widths.get(name, (before, after))[0], after)
    return replace(
        last,
        n_params_before=first.n_params_before,
        flops_before=first.flops_before,
        sparsity={name: 1.0 - share for name, share in remaining.items()} if last.structured else last.sparsity,
        widths=widths,
        seconds=sum(report.seconds for report in reports),
        notes=tuple(dict.fromkeys(note for report in reports for note in report.notes)),
    )
