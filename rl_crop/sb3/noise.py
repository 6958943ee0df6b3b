"""
State-dependent exploration noise (gSDE) and a cut.

The variance of an action is a sum over the latent features, σ² = Σ hᵢ² sᵢ². With most features gone most of it would be
gone too: exploration would shrink at the cut without a word, and a policy's updates would grow by as much, measured in
what its actions vary. What remains is scaled back. (rl_crop's own.)
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch as th
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from torch import nn

from rl_crop.core.graph.observer import LayerObserver
from rl_crop.core.graph.tracer import no_grad_trace
from rl_crop.core.pruning.surgery import Transaction

LARGEST = 10.0
"""By how much a standard deviation may grow: features that are hardly active here would make wild noise where they are."""


class StateDependentNoise:
    """
    The noise of one actor.

    :param distribution: holds the kind of the noise, its size, and the matrices drawn last.
    :param log_std: shape (latent features, actions), or (latent features, 1) where actions share their noise.
    :param head: the layer that computes the mean actions from the same latent features.
    """

    def __init__(self, distribution: StateDependentNoiseDistribution, log_std: nn.Parameter, head: nn.Linear) -> None:
        self.distribution, self.log_std, self.head = distribution, log_std, head

    def measure(self, runs: Sequence[Callable[[], Any]]) -> Callable[[Transaction], None]:
        """
        Measure the noise before a cut.

        :param runs: functions that run the actor on observations.
        :return: scales ``log_std``, after the cut, so that the mean variance of every action over these observations (of all
            actions together, where they share it) is what it was, or up to ``LARGEST`` times (of the standard deviation)
            what the cut left of it. Where it left none at all, nothing is scaled.
        """
        wanted = self._variance(runs)

        def restore(transaction: Transaction) -> None:
            factor = (wanted / self._variance(runs)).sqrt().nan_to_num(1.0, posinf=1.0).clamp_max(LARGEST)
            if bool((factor == 1).all()):  # an actor that was not cut keeps its parameters to the bit
                return
            transaction.set_data(self.log_std, self._log_of(self._std() * factor).to(self.log_std.dtype))

        return restore

    def resize(self, transaction: Transaction) -> None:
        """Bring the distribution in line with ``log_std``, and draw its matrices anew: they have a row for every feature."""
        if self.distribution.latent_sde_dim == len(self.log_std):
            return
        for name in ("latent_sde_dim", "exploration_mat", "exploration_matrices", "weights_dist"):
            transaction.set_attribute(self.distribution, name, getattr(self.distribution, name))
        self.distribution.latent_sde_dim = len(self.log_std)
        self.distribution.sample_weights(self.log_std, batch_size=len(self.distribution.exploration_matrices))

    def _variance(self, runs: Sequence[Callable[[], Any]]) -> th.Tensor:
        """:return: mean variance by column of ``log_std``, of all observations."""
        latents: list[th.Tensor] = []
        with no_grad_trace(LayerObserver({id(self.head.weight): "head"}, lambda name, x, *_: latents.append(x))):
            for run in runs:
                run()
        return th.cat(latents).double().square().mean(0) @ self._std().square()

    def _std(self) -> th.Tensor:
        """:return: ``log_std`` as a standard deviation, float64."""
        value = self.log_std.detach().double()
        if not self.distribution.use_expln:
            return value.exp()
        return th.where(value <= 0, value.exp(), 1 + value.clamp_min(0).log1p())

    def _log_of(self, std: th.Tensor) -> th.Tensor:
        """:return: what :meth:`_std` makes of it."""
        if not self.distribution.use_expln:
            return std.log()
        return th.where(std <= 1, std.log(), (std - 1).expm1())
