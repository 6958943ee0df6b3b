"""The single weights that can be masked: where they are, how much they matter, and which of them stay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch as th

from rl_crop.core.densities import select
from rl_crop.core.elements import element_scores, element_weights
from rl_crop.core.mask_plan import NO_FASTER
from rl_crop.core.masks import Keep, Masks, attached_masks
from rl_crop.core.report import PruningReport
from rl_crop.core.rng import isolated_rng, undisturbed
from rl_crop.core.scoring import Criterion, Saliency, Scoring, unit_scores
from rl_crop.core.subject import Subject
from rl_crop.core.units import UnitGraph

Tensors = Mapping[str, th.Tensor]


@dataclass(frozen=True)
class Weights:
    """
    The weights of linear and convolution layers, output layers included, by network (``"total"``: of all networks).

    :param names: of the weights, by network.
    :param tensors: the parameters by name.
    :param applications: how often each weight is applied for one observation.
    """

    names: Mapping[str, tuple[str, ...]]
    tensors: Tensors
    applications: Mapping[str, float]

    @classmethod
    def of(cls, subject: Subject, graph: UnitGraph, ignore: Sequence[str] = ()) -> "Weights":
        """:return: those of a subject, of which a graph of units has been made; ignored modules are left out."""
        found = element_weights(subject, graph, ignore)
        names = {network: tuple(own) for network, own in found.items()}
        return cls(names, {name: tensor for own in found.values() for name, tensor in own.items()}, graph.applications)

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
    ) -> dict[str, th.Tensor]:
        """:return: scores of all weights, each network by its own loss; see :func:`~rl_crop.core.elements.element_scores`."""
        scores: dict[str, th.Tensor] = {}
        with isolated_rng(seed), undisturbed(subject.root):
            for network in subject.networks:
                if network.name in self.names:
                    own = self.within(network.name)
                    scores |= element_scores(subject, network, own, criterion, seed, keep, initial, dense)
        return scores

    def growth(self, regrow: str, subject: Subject, seed: int, keep: Keep) -> dict[str, th.Tensor]:
        """:return: how much each weight is wanted back: ``"gradient"``, |g| of the masked network; or ``"random"``."""
        if regrow == "random":
            return self.random(seed)
        gradient = self.saliency(subject, lambda scoring: scoring.gradient, seed, keep)
        return {name: tensor.abs() for name, tensor in gradient.items()}

    def select(
        self, scores: Tensors, sparsity: Mapping[str, float], scope: str, among: Keep | None = None
    ) -> dict[str, th.Tensor]:
        """:return: masks that leave, in each network, exactly the weights with the highest scores that a sparsity allows."""
        keep: dict[str, th.Tensor] = {}
        for network, share in sparsity.items():
            keep |= select({name: scores[name] for name in self.within(network)}, share, scope, among)
        return keep

    def masks(self, subject: Subject, sparsity: Mapping[str, float]) -> Masks:
        """:return: masks of the networks that a sparsity names, which hold what is held already; not attached yet."""
        names = [name for network in sparsity for name in self.within(network)]
        keep = {name: th.ones_like(self.tensors[name], dtype=th.bool) for name in names}
        return Masks([copy.tensors for copy in subject.copies], keep | attached_masks(self.tensors), subject.optimizers)

    def sparsity(self, keep: Keep, network: str) -> float:
        """:return: the share of a network's weights that is masked."""
        masks = [keep[name] for name in self.within(network) if name in keep]
        total = sum(tensor.numel() for tensor in self.within(network).values())
        return sum(int((~mask).sum()) for mask in masks) / total

    def report(self, subject: Subject, keep: Keep, criterion: str, seconds: float) -> PruningReport:
        """:return: what masks leave."""
        n_params = sum(tensor.numel() for tensor in subject.trained.tensors.values() if isinstance(tensor, th.nn.Parameter))
        masked = {name: int((~mask).sum()) for name, mask in keep.items()}
        flops = sum(2 * count * subject.trained.tensors[name].numel() for name, count in self.applications.items())
        saved = sum(2 * self.applications[name] * count for name, count in masked.items())
        counts = {name: (mask.numel(), mask.numel() - masked[name]) for name, mask in keep.items()}
        sparsity = {network: self.sparsity(keep, network) for network in (*self.names, "total")}
        return PruningReport(
            n_params, n_params - sum(masked.values()), sparsity, round(flops), round(flops - saved), counts, {}, seconds,
            criterion, "none", (NO_FASTER,), structured=False,
        )  # fmt: skip


def shuffled(criterion: Criterion) -> Criterion:
    """:return: a criterion that gives every layer the same scores in random order: only the layers' shares are its own."""

    def random_within_layers(scoring: Scoring) -> Saliency:
        generator = np.random.default_rng(scoring.seed)
        saliency = criterion(scoring)
        if scoring.groups:
            return {name: generator.permutation(score) for name, score in unit_scores(saliency, scoring.groups).items()}
        flat = {name: th.as_tensor(score).flatten() for name, score in saliency.items()}
        order = {name: th.from_numpy(generator.permutation(len(score))).to(score.device) for name, score in flat.items()}
        return {name: score[order[name]].reshape(saliency[name].shape) for name, score in flat.items()}

    return random_within_layers
