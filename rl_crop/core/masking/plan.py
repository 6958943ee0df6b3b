"""Single weights scored and masked: the plan of unstructured pruning."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import module_of
from rl_crop.core.masking.masks import Masks, attached_masks, release_masks
from rl_crop.core.masking.weights import Weights
from rl_crop.core.model import Subject
from rl_crop.core.pruning.cutting import check_runs, finite_outputs
from rl_crop.core.pruning.plan import PruningPlan
from rl_crop.core.pruning.planning import trace
from rl_crop.core.pruning.report import PruningReport, mask_notes, summary_lines, table
from rl_crop.core.pruning.settings import Settings, Target, check_sparsity, is_auto, sparsity_by_network
from rl_crop.core.pruning.surgery import Transaction
from rl_crop.core.rng import isolated_rng, undisturbed


@dataclass(frozen=True)
class MaskPlan(PruningPlan):
    """
    Which weights would stay; making it changed nothing, :meth:`apply` masks the others. No width changes.

    :param keep: boolean masks by parameter name, ``True`` where kept.
    :param scores: one score a weight, by parameter name.
    :param sparsity: share of the weights of linear and convolution layers that will be masked, what is masked already
        included, by network and in ``"total"``.
    :param held: the masks that were attached when the plan was made.
    """

    held: Mapping[str, th.Tensor] = field(default_factory=dict, repr=False)

    @property
    def _widths(self) -> dict[str, tuple[int, int]]:
        """By parameter, its elements and how many of them stay."""
        return {name: (mask.size, int(mask.sum())) for name, mask in self.keep.items()}

    def __str__(self) -> str:
        rows = [[name, *map(str, counts)] for name, counts in self._widths.items()]
        notes = [f"note: {note}" for note in self._notes()]
        return "\n".join([table(["parameter", "elements", "kept"], rows), *summary_lines(self, structured=False), *notes])

    def _notes(self) -> tuple[str, ...]:
        return (*self.subject.notes, *self.notes, *mask_notes(self._widths))

    def _changes(self) -> bool:
        return any(not self._whole(name, mask) for name, mask in self.keep.items())

    def _whole(self, name: str, mask: np.ndarray) -> bool:
        return bool(mask.all()) if name not in self.held else bool((mask == self.held[name].cpu().numpy()).all())

    def _report(self, notes: tuple[str, ...], seconds: float) -> PruningReport:
        return replace(super()._report(notes, seconds), structured=False)

    def _check_unchanged(self) -> None:
        super()._check_unchanged()
        now = attached_masks(self.subject.trained.tensors)
        if now.keys() != self.held.keys() or any(not th.equal(mask, self.held[name]) for name, mask in now.items()):
            raise PruningError("The masks have changed since this plan was made: make a new plan.")

    def _cut_and_repair(self, transaction: Transaction) -> tuple[str, ...]:
        subject, dense = self.subject, finite_outputs(self.subject)
        keep = dict(self.held) | {name: th.from_numpy(mask) for name, mask in self.keep.items()}
        release_masks([tensor for copy in subject.copies for tensor in copy.tensors.values()], transaction)
        modules = [] if subject.optimizers else [module for copy in subject.copies for module in copy.modules]
        masks = Masks([copy.tensors for copy in subject.copies], keep, subject.optimizers, modules)
        masks.apply(transaction)
        transaction.call(masks.detach)
        masks.attach()
        notes = tuple(subject.after_cut(transaction))
        check_runs(subject, dense)
        return notes


def make_mask_plan(subject: Subject, sparsity: Target | None, settings: Settings) -> MaskPlan:
    """
    Score and rank single weights; nothing is changed, generators and modes included.

    :param subject: the model as its task describes it.
    :param sparsity: one for every network that has linear or convolution layers, or by network name; networks not named
        stay as they are. What is masked already counts, and stays masked.
    :param settings: the rest, with ``structured=False``.
    :return: the plan.
    :raises PruningError: the arguments, the loss or the data do not allow it.
    """
    start = time.perf_counter()
    if sparsity is None or is_auto(sparsity):
        raise PruningError("structured=False needs a sparsity: only widths can be found by themselves (sparsity='auto').")
    check_sparsity(sparsity)
    with isolated_rng(settings.seed or 0), undisturbed(subject.root):
        graph = trace(subject, settings.ignore)
        weights = Weights.of(subject, graph, settings.ignore, int(settings.min_units))
        if not weights.names:
            raise PruningError("The model has no linear or convolution layer whose weights can be masked.")
        targets = sparsity_by_network(sparsity, list(weights.names), settings.scope)
        targets = {network.name: targets[network.name] for network in subject.networks if targets.get(network.name)}
        held = {name: mask.clone() for name, mask in attached_masks(subject.trained.tensors).items()}
        scores = weights.saliency(subject, settings.criterion, settings.seed or 0, held, networks=targets)
        now = {name: th.ones_like(weight, dtype=th.bool) for name, weight in weights.tensors.items()} | held
        if settings.scope == "global" and targets:
            targets = {"total": next(iter(targets.values()))}
        after = now | weights.select(scores, targets, settings.scope, now)
    (params_before, flops_before), (params_after, flops_after) = weights.left(now), weights.left(after)
    shares = weights.sparsities(after)
    reached = {name: shares[name] for name in (["total"] if settings.scope == "global" else weights.names)}
    widths = {name: group.n_units for name, group in graph.groups.items()}
    done = {module_of(name) for name in weights.tensors}
    untouched = {name: reason for name, reason in graph.untouched.items() if name not in done}
    return MaskPlan(
        keep={name: after[name].cpu().numpy() for name in scores},
        scores={name: score.cpu().numpy() for name, score in scores.items()},
        widths_before=widths,
        widths_after=dict(widths),
        sparsity=shares,
        budget_sparsity=reached,
        dormant={},
        n_params_before=params_before,
        n_params_after=params_after,
        flops_before=flops_before,
        flops_after=flops_after,
        graph=replace(graph, untouched=untouched),
        kept_units={},
        subject=subject,
        settings=settings,
        seconds=time.perf_counter() - start,
        held=held,
    )
