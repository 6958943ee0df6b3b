"""The single weights that can be masked: where they are, how much they matter, and which of them stay."""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import DependencyGraph, module_of
from rl_crop.core.graph.looking import OUTPUT
from rl_crop.core.importance.context import Criterion, ImportanceContext, Saliency, unit_scores
from rl_crop.core.masking.distributions import highest, n_kept, select
from rl_crop.core.masking.masks import Keep, Masks, attached_masks, release_masks
from rl_crop.core.masking.scoring import element_scores
from rl_crop.core.model import Subject
from rl_crop.core.pruning.report import PruningReport, mask_notes
from rl_crop.core.pruning.surgery import Transaction
from rl_crop.core.rng import isolated_rng, undisturbed

Tensors = Mapping[str, th.Tensor]
TOGETHER = ("network", "global")
"""Scopes in which layers are ranked together, so that one can lose all to the others."""


@dataclass(frozen=True)
class Weights:
    """
    The weights of linear and convolution layers, output layers included, by network (``"total"``: of all networks).

    Biases, norms, recurrent cells and a free ``log_std`` are not among them.

    :param names: of the weights, by network; networks without any are left out.
    :param tensors: the parameters by name.
    :param applications: how often each weight of a layer is applied for one observation.
    :param heads: the weights whose outputs are the network's.
    :param n_params: all that is trained.
    :param flops: of one observation through all networks, nothing masked.
    :param min_units: weights that every layer and every output keep where layers are ranked together.
    """

    names: Mapping[str, tuple[str, ...]]
    tensors: Tensors
    applications: Mapping[str, float]
    heads: frozenset[str]
    n_params: int
    flops: float
    min_units: int

    @classmethod
    def of(cls, subject: Subject, graph: DependencyGraph, ignore: Sequence[str] = (), min_units: int = 1) -> "Weights":
        """:return: those of a subject, of which a graph of units has been made; ignored modules are left out."""
        modules = dict(subject.root.named_modules(remove_duplicate=False))
        ignored = {id(parameter) for name in ignore for parameter in modules[name].parameters()}
        trained = {name: t for name, t in subject.trained.tensors.items() if isinstance(t, th.nn.Parameter)}
        applications = {name: count for name, count in graph.applications.items() if name in trained}
        layers = {
            name: trained[name] for name in applications if name not in graph.composite and id(trained[name]) not in ignored
        }
        names = {net.name: tuple(name for name in layers if name in net.parameters) for net in subject.networks}
        names = {network: own for network, own in names.items() if own}
        tensors = {name: layers[name] for own in names.values() for name in own}
        heads = frozenset(name for name in tensors if graph.untouched.get(module_of(name)) == OUTPUT)
        flops = sum(2 * count * trained[name].numel() for name, count in applications.items())
        return cls(names, tensors, applications, heads, sum(t.numel() for t in trained.values()), flops, min_units)

    def within(self, network: str) -> dict[str, th.Tensor]:
        """:return: the weights of a network by name."""
        names = self.tensors if network == "total" else self.names[network]
        return {name: self.tensors[name] for name in names}

    def magnitude(self) -> dict[str, th.Tensor]:
        """:return: |w| by name."""
        return {name: tensor.detach().abs() for name, tensor in self.tensors.items()}

    def random(self, seed: int) -> dict[str, th.Tensor]:
        """:return: uniform scores by name."""
        generator = th.Generator().manual_seed(seed)
        return {name: th.rand(tensor.shape, generator=generator).to(tensor.device) for name, tensor in self.tensors.items()}

    def saliency(
        self,
        subject: Subject,
        criterion: str | Criterion,
        seed: int,
        keep: Keep,
        initial: Tensors | None = None,
        dense: Tensors | None = None,
        networks: Container[str] = ("total",),
    ) -> dict[str, th.Tensor]:
        """
        :return: scores of the weights of the networks named, each by its own loss; see
            :func:`~rl_crop.core.masking.context.element_scores`.
        """
        scores: dict[str, th.Tensor] = {}
        with isolated_rng(seed), undisturbed(subject.root):
            for network in subject.networks:
                if network.name in self.names and ("total" in networks or network.name in networks):
                    own = self.within(network.name)
                    scores |= element_scores(subject, network, own, criterion, seed, keep, initial, dense)
        return scores

    def growth(
        self, regrow: str, subject: Subject, seed: int, keep: Keep, networks: Container[str] = ("total",)
    ) -> dict[str, th.Tensor]:
        """:return: how much each weight is wanted back: ``"gradient"``, |g| of the masked network; or ``"random"``."""
        if regrow == "random":
            return self.random(seed)
        gradient = self.saliency(subject, lambda context: context.gradient, seed, keep, networks=networks)
        return {name: tensor.abs() for name, tensor in gradient.items()}

    def select(
        self, scores: Tensors, sparsity: Mapping[str, float], scope: str, among: Keep | None = None
    ) -> dict[str, th.Tensor]:
        """
        :return: masks that leave, in each network, exactly the weights with the highest scores that a sparsity allows, those
            that :meth:`protected` names among them where layers are ranked together.
        :raises PruningError: more weights are protected than may stay.
        """
        keep: dict[str, th.Tensor] = {}
        for network, share in sparsity.items():
            own = {name: scores[name] for name in self.within(network)}
            if scope in TOGETHER:
                own = self.protected(own, among)
                total = sum(score.numel() for score in own.values())
                n_safe = sum(int(score.eq(th.inf).sum()) for score in own.values())
                if n_safe > n_kept(total, share):
                    raise PruningError(
                        f"sparsity {share:g} of {' and '.join(self.names) if network == 'total' else network} cannot be "
                        f"reached with min_units={self.min_units}, the weights that every layer and every output keep: the "
                        f"largest reachable is {math.floor((1 - n_safe / total) * 1e4) / 1e4:g}. Ask for less."
                    )
            keep |= select(own, share, scope, among)
        return keep

    def shuffled(self, keep: Keep, scope: str, seed: int, among: Keep | None = None) -> dict[str, th.Tensor]:
        """:return: masks that keep as many weights of every layer, at random; what :meth:`select` protects counts here too."""
        drawn = self.random(seed)
        worth = {name: drawn[name] if among is None else drawn[name].masked_fill(~among[name], -th.inf) for name in keep}
        worth = self.protected(worth, among) if scope in TOGETHER else worth
        return {name: highest(worth[name].flatten(), int(mask.sum())).reshape(mask.shape) for name, mask in keep.items()}

    def protected(self, scores: Tensors, among: Keep | None = None) -> dict[str, th.Tensor]:
        """
        A ranking over several layers can take all of one (a head that starts near zero): nothing before it learns any more.

        :return: the scores, infinite for the best ``min_units`` weights of every layer, and of every output of a network.
        """
        found = {}
        for name, score in scores.items():
            free = th.ones_like(score, dtype=th.bool) if among is None else among[name]
            rows = score.shape[0] if name in self.heads else 1
            best = score.masked_fill(~free, -th.inf).reshape(rows, -1).argsort(dim=1, descending=True, stable=True)
            chosen = th.zeros_like(best, dtype=th.bool).scatter_(1, best[:, : self.min_units], True).reshape(score.shape)
            found[name] = score.masked_fill(chosen & free, th.inf)
        return found

    def hold(self, subject: Subject, sparsity: Mapping[str, float], transaction: Transaction) -> Masks:
        """
        :return: masks of the networks that a sparsity names, attached, and the only ones that hold these weights; they hold
            what others did.
        """
        names = [name for network in sparsity for name in self.within(network)]
        keep = {name: th.ones_like(self.tensors[name], dtype=th.bool) for name in names}
        modules = () if subject.optimizers else [module for copy in subject.copies for module in copy.modules]
        held = keep | attached_masks(self.tensors)
        masks = Masks([copy.tensors for copy in subject.copies], held, subject.optimizers, modules)
        release_masks([tensor for copy in masks.copies for tensor in copy.values()], transaction)
        transaction.call(masks.detach)
        masks.attach()
        return masks

    def sparsity(self, keep: Keep, network: str) -> float:
        """:return: the share of a network's weights that is masked."""
        masks = [keep[name] for name in self.within(network) if name in keep]
        total = sum(tensor.numel() for tensor in self.within(network).values())
        return sum(int((~mask).sum()) for mask in masks) / total

    def left(self, keep: Keep) -> tuple[int, int]:
        """:return: parameters that are not masked, and the floating-point operations of one observation with them."""
        masked = {name: int((~mask).sum()) for name, mask in keep.items()}
        saved = sum(2 * self.applications[name] * count for name, count in masked.items())
        return self.n_params - sum(masked.values()), round(self.flops - saved)

    def sparsities(self, keep: Keep) -> dict[str, float]:
        """:return: the share that is masked, by network and in ``"total"``."""
        return {network: self.sparsity(keep, network) for network in (*self.names, "total")}

    def report(self, keep: Keep, criterion: str, seconds: float) -> PruningReport:
        """:return: what masks leave of what was there without them."""
        (n_params, flops), counts = self.left(keep), {name: (mask.numel(), int(mask.sum())) for name, mask in keep.items()}
        return PruningReport(
            n_params_before=self.n_params,
            n_params_after=n_params,
            sparsity=self.sparsities(keep),
            flops_before=round(self.flops),
            flops_after=flops,
            widths=counts,
            untouched={},
            seconds=seconds,
            criterion=criterion,
            compensation="none",
            notes=mask_notes(counts),
            structured=False,
        )


def shuffled_units(criterion: Criterion) -> Criterion:
    """:return: a criterion that gives every layer the same scores in random order: only the layers' shares are its own."""

    def random_within_layers(context: ImportanceContext) -> Saliency:
        generator = np.random.default_rng(context.seed)
        return {name: generator.permutation(score) for name, score in unit_scores(criterion(context), context.groups).items()}

    return random_within_layers
