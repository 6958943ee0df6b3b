"""Second moments of what layers receive, with the ridge that the repair of a cut uses."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import Group
from rl_crop.core.graph.observer import LayerObserver
from rl_crop.core.graph.tracer import no_grad_trace
from rl_crop.core.importance.activations import patches_of
from rl_crop.core.model import Subject
from rl_crop.core.pruning.compensation import ROUNDING, ridge_strength


@dataclass(frozen=True)
class Received:
    """
    What one layer receives, or several that read the same.

    :param layers: the weights that read it, by name.
    :param gram: by convolution group (one for a linear layer), AᵀA / rows of what an output is a linear function of, centred
        where a bias can restore the mean: float64, shape (groups, features, features).
    :param squares: by convolution group, the mean square of a feature before centring: what rounding is measured by.
    """

    layers: tuple[str, ...]
    gram: np.ndarray
    squares: np.ndarray

    def ridge(self, group: int) -> float:
        """:return: what the repair adds to the diagonal of a convolution group's moments, as long as no feature is gone."""
        variance, square = self.gram[group].diagonal().mean(), self.squares[group]
        return float(ridge_strength(th.as_tensor(variance), th.as_tensor(square)))

    def noise(self, group: int) -> float:
        """:return: variance of a feature of a convolution group that can be rounding."""
        return float(ROUNDING * self.squares[group])


class ReceivedMoments:
    """
    Second moments of what the consumers of groups receive, computed when first asked for, in one run of the networks.

    :param subject: the model, with observations.
    :param groups: all that will be asked for.
    """

    def __init__(self, subject: Subject, groups: Iterable[Group]) -> None:
        self.subject = subject
        self.consumers = {group.name: group.tensors("in") for group in groups}

    def __call__(self, groups: Iterable[Group]) -> dict[str, list[Received]]:
        """
        :param groups: some of those.
        :return: by group name, what its consumers receive, each input once.
        :raises PruningError: there are no observations, or the layers' inputs cannot be looked at.
        """
        wanted = [group.name for group in groups]
        return {name: [item for item in self._found if set(item.layers) & set(self.consumers[name])] for name in wanted}

    @cached_property
    def _found(self) -> list[Received]:
        if not self.subject.has_observations:
            raise PruningError("This criterion looks at activations: give batches of observations.")
        tensors = self.subject.trained.tensors
        own = {id(tensor) for tensor in tensors.values()}
        readers: dict[tuple[Any, ...], list[str]] = {}
        moments: dict[tuple[Any, ...], tuple[np.ndarray, np.ndarray]] = {}
        held: list[th.Tensor] = []
        pending = {name for names in self.consumers.values() for name in names}

        def look(name: str, x: th.Tensor, weight: th.Tensor, bias: Any, call: Any) -> None:
            if name not in pending:  # as for the repair, the first call counts
                return
            pending.discard(name)
            centred = id(bias) in own
            # Linear layers of one input receive the same; convolutions may differ in stride, padding and kernel.
            key = (id(x), centred) if weight.dim() == 2 else (name,)
            readers.setdefault(key, []).append(name)
            if key not in moments:
                held.append(x)  # so that no other input gets its id
                moments[key] = _moments(patches_of(x, weight, call), centred)

        try:
            with no_grad_trace(LayerObserver({id(tensors[name]): name for name in sorted(pending)}, look)):
                for run in self.subject.trained.runs:
                    run()
        except (IndexError, RuntimeError) as error:
            raise PruningError(f"The layers' inputs could not be looked at ({error}): use a criterion without.") from error
        return [Received(tuple(layers), *moments[key]) for key, layers in readers.items()]


def _moments(patches: th.Tensor, centred: bool) -> tuple[np.ndarray, np.ndarray]:
    """:return: moments and mean squares of patches of shape (rows, groups, features)"""
    rows = patches.cpu().numpy()
    squares = np.array([np.vdot(group, group) / group.size for group in rows.swapaxes(0, 1)])
    if centred:
        rows = rows - rows.mean(0)
    # numpy knows a product of a matrix with itself, which takes half of the time.
    return np.stack([group.T @ group / len(group) for group in rows.swapaxes(0, 1)]), squares
