"""Single weights scored and masked: the plan of unstructured pruning."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch as th

from rl_crop.core.densities import n_kept, select
from rl_crop.core.elements import element_scores, element_weights
from rl_crop.core.errors import PruningError
from rl_crop.core.masks import Masks, attached_masks, release_masks
from rl_crop.core.plan import PruningPlan, trace
from rl_crop.core.report import PruningReport, summary_lines, table
from rl_crop.core.rng import isolated_rng, undisturbed
from rl_crop.core.settings import Settings, Target, check_sparsity, sparsity_by_network
from rl_crop.core.subject import Subject
from rl_crop.core.surgery import Transaction
from rl_crop.core.units import OUTPUT, UnitGraph, module_of

NO_FASTER = "masked weights are stored and computed as zeros: masks alone make nothing faster or smaller"


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
    def _counts(self) -> dict[str, tuple[int, int]]:
        """By parameter, its elements and how many of them stay."""
        return {name: (mask.size, int(mask.sum())) for name, mask in self.keep.items()}

    def __str__(self) -> str:
        rows = [[name, *map(str, counts)] for name, counts in self._counts.items()]
        notes = [f"note: {note}" for note in self._narrow()]
        return "\n".join([table(["parameter", "elements", "kept"], rows), *summary_lines(self, structured=False), *notes])

    def _narrow(self) -> list[str]:
        empty = [f"{name} keeps no weight: its layer's outputs are constant" for name, (_, n) in self._counts.items() if not n]
        return [NO_FASTER, *empty]

    def _changes(self) -> bool:
        return any(not self._whole(name, mask) for name, mask in self.keep.items())

    def _whole(self, name: str, mask: np.ndarray) -> bool:
        return bool(mask.all()) if name not in self.held else bool((mask == self.held[name].cpu().numpy()).all())

    def _report(self, notes: tuple[str, ...], seconds: float) -> PruningReport:
        return replace(super()._report(notes, seconds), widths=self._counts, structured=False)

    def _check_unchanged(self) -> None:
        super()._check_unchanged()
        now = attached_masks(self.subject.trained.tensors)
        if now.keys() != self.held.keys() or any(not th.equal(mask, self.held[name]) for name, mask in now.items()):
            raise PruningError("The masks have changed since this plan was made: make a new plan.")

    def _cut_and_repair(self, transaction: Transaction) -> tuple[str, ...]:
        subject = self.subject
        keep = dict(self.held) | {name: th.from_numpy(mask) for name, mask in self.keep.items()}
        release_masks([tensor for copy in subject.copies for tensor in copy.tensors.values()], transaction)
        modules = [] if subject.optimizers else [module for copy in subject.copies for module in copy.modules]
        masks = Masks([copy.tensors for copy in subject.copies], keep, subject.optimizers, modules)
        masks.apply(transaction)
        transaction.call(masks.detach)
        masks.attach()
        subject.after_cut(transaction)
        self._check_runs()
        return ()


def make_mask_plan(subject: Subject, sparsity: Target, settings: Settings) -> MaskPlan:
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
    check_sparsity(sparsity)
    with isolated_rng(settings.seed or 0), undisturbed(subject.root):
        graph = trace(subject, settings.ignore)
        weights = element_weights(subject, graph, settings.ignore)
        if not weights:
            raise PruningError("The model has no linear or convolution layer whose weights can be masked.")
        targets = sparsity_by_network(sparsity, list(weights), settings.scope)
        chosen = [network for network in subject.networks if targets.get(network.name)]
        held = {name: mask.clone() for name, mask in attached_masks(subject.trained.tensors).items()}
        scores = {
            network.name: element_scores(subject, network, weights[network.name], settings.criterion, settings.seed or 0, held)
            for network in chosen
        }
        everything = {name: th.ones_like(weight, dtype=th.bool) for own in weights.values() for name, weight in own.items()}
        now, after = everything | held, everything | held
        together = [[network.name for network in chosen]] if settings.scope == "global" else [[n.name] for n in chosen]
        for names in filter(None, together):
            ranked = {name: score for network in names for name, score in scores[network].items()}
            among = {name: now[name] for name in ranked}
            if settings.scope in ("network", "global"):
                ranked = _protected(ranked, among, graph, settings.min_units, targets[names[0]], " and ".join(names))
            after |= select(ranked, targets[names[0]], settings.scope, among)
    return _describe(subject, graph, weights, scores, held, now, after, settings, time.perf_counter() - start)


def _protected(
    scores: Mapping[str, th.Tensor],
    among: Mapping[str, th.Tensor],
    graph: UnitGraph,
    min_units: int,
    sparsity: float,
    what: str,
) -> dict[str, th.Tensor]:
    """
    A ranking over several layers can take all of one (a head that starts near zero), and nothing before it learns any more.

    :return: the scores, infinite for the best ``min_units`` weights of every layer, and of every output of the network.
    :raises PruningError: more weights are protected than may stay.
    """
    found = {}
    for name, score in scores.items():
        rows = score.shape[0] if graph.untouched.get(module_of(name)) == OUTPUT else 1
        best = score.masked_fill(~among[name], -th.inf).reshape(rows, -1).argsort(dim=1, descending=True, stable=True)
        chosen = th.zeros_like(best, dtype=th.bool).scatter_(1, best[:, :min_units], True).reshape(score.shape)
        found[name] = score.masked_fill(chosen & among[name], th.inf)
    total, n_safe = sum(score.numel() for score in scores.values()), sum(int(score.isinf().sum()) for score in found.values())
    if n_safe > n_kept(total, sparsity):
        raise PruningError(
            f"sparsity {sparsity:g} of {what} cannot be reached with min_units={min_units}, the weights that every layer and "
            f"every output keep: the largest reachable is {math.floor((1 - n_safe / total) * 1e4) / 1e4:g}. Ask for less."
        )
    return found


def _describe(
    subject: Subject,
    graph: UnitGraph,
    weights: Mapping[str, Mapping[str, th.Tensor]],
    scores: Mapping[str, Mapping[str, th.Tensor]],
    held: Mapping[str, th.Tensor],
    now: Mapping[str, th.Tensor],
    after: Mapping[str, th.Tensor],
    settings: Settings,
    seconds: float,
) -> MaskPlan:
    total = {name: sum(weight.numel() for weight in own.values()) for name, own in weights.items()}
    masked = {name: sum(int((~after[weight]).sum()) for weight in own) for name, own in weights.items()}
    sparsity = {name: masked[name] / total[name] for name in weights}
    sparsity["total"] = sum(masked.values()) / sum(total.values())
    parameters = {name: t for name, t in subject.trained.tensors.items() if isinstance(t, th.nn.Parameter)}
    n_params = sum(tensor.numel() for tensor in parameters.values())
    each = {name: 2 * graph.applications.get(name, 0) for name in parameters}
    flops = sum(each[name] * tensor.numel() for name, tensor in parameters.items())
    widths = {name: group.n_units for name, group in graph.groups.items()}
    done = {module_of(name) for own in weights.values() for name in own}
    untouched = {name: reason for name, reason in graph.untouched.items() if name not in done}
    flat = {name: score for own in scores.values() for name, score in own.items()}

    def left(keep: Mapping[str, th.Tensor]) -> tuple[int, int]:
        gone = {name: int((~mask).sum()) for name, mask in keep.items()}
        return n_params - sum(gone.values()), round(flops - sum(each[name] * count for name, count in gone.items()))

    (params_before, flops_before), (params_after, flops_after) = left(now), left(after)
    reached = {"total": sparsity["total"]} if settings.scope == "global" else {name: sparsity[name] for name in weights}
    return MaskPlan(
        {name: after[name].cpu().numpy() for name in flat}, {name: score.cpu().numpy() for name, score in flat.items()},
        widths, dict(widths), sparsity, reached, {}, params_before, params_after, flops_before, flops_after,
        replace(graph, untouched=untouched), {}, subject, settings, seconds, held,
    )  # fmt: skip
