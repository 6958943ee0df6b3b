"""When to cut: rules that watch a run from check to check."""

from collections import deque
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch as th

from rl_crop.core.errors import PruningError

SETTLED = 0.03
"""Default κ of :class:`LazyTrigger`."""
STABLE = 0.983
"""Threshold of :class:`EarlyPruningIndicator` for proposals by magnitude (by gradient 0.944)."""


class _Watch:
    """
    How far the weights of every network have gone, d_t = ‖θ_t − θ_0‖ / ‖θ_0‖, from check to check.

    :param parameters: by network, the prunable parameters.
    """

    counters: tuple[str, ...] = ("distance",)

    def __init__(self, parameters: Mapping[str, Sequence[th.Tensor]]) -> None:
        self.parameters = {name: list(tensors) for name, tensors in parameters.items()}
        self.start = {name: _flat(tensors) for name, tensors in self.parameters.items()}
        for counter in self.counters:
            setattr(self, counter, dict.fromkeys(self.parameters, 0.0))
        self.distance: dict[str, float]

    def check(self) -> bool:
        """
        Look at the weights once.

        :return: whether every network has settled, now or at an earlier check running on to now.
        """
        for name, tensors in self.parameters.items():
            now, start = _flat(tensors), self.start[name]
            if now.shape != start.shape:  # something else has cut this network: its way begins here
                self._begin(name, now)
                continue
            distance = float((now - start).norm() / start.norm().clamp_min(1e-30))
            step = abs(distance - self.distance[name])
            self.distance[name] = distance
            self._look(name, step, now)
        return bool(self.parameters) and all(self._settled(name) for name in self.parameters)

    def _begin(self, name: str, now: th.Tensor) -> None:
        self.start[name] = now
        for counter in self.counters:
            getattr(self, counter)[name] = 0.0

    def _look(self, name: str, step: float, now: th.Tensor) -> None:
        raise NotImplementedError

    def _settled(self, name: str) -> bool:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """:return: what has been seen so far, by network: numbers, and θ_0 as a tensor on the CPU."""
        counters = {counter: dict(getattr(self, counter)) for counter in self.counters}
        return {"start": {name: tensor.cpu() for name, tensor in self.start.items()}, **counters}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Go on from what another trigger of the same networks has seen.

        :param state: its :meth:`state_dict`.
        :raises PruningError: it is of other networks, or of other shapes; nothing was changed.
        """
        sizes = {name: tensor.numel() for name, tensor in self.start.items()}
        if {name: tensor.numel() for name, tensor in state["start"].items()} != sizes:
            raise PruningError("a trigger has watched networks of other names or shapes.")
        self.start = {name: state["start"][name].to(tensor) for name, tensor in self.start.items()}
        for counter in self.counters:
            setattr(self, counter, dict(state[counter]))


class LazyTrigger(_Watch):
    """
    Fires when the weights of every network have entered the lazy regime.

    With d_t = ‖θ_t − θ_0‖ / ‖θ_0‖ at check t, a network has settled when |d_t − d_{t−1}| has been below κ times its
    largest value so far at three checks running. (The paper's rule |d_t − d_{t−1}| < τ carries no unit that fits
    every reinforcement-learning run; the ratio does.)

    :param parameters: by network, the prunable parameters.
    :param kappa: κ, in (0, 1].
    :param patience: checks running.
    :raises PruningError: κ is not.
    """

    counters = ("distance", "largest", "below", "ratio")

    def __init__(self, parameters: Mapping[str, Sequence[th.Tensor]], kappa: float = SETTLED, patience: int = 3) -> None:
        self.kappa, self.patience = check_kappa(kappa), patience
        super().__init__(parameters)
        self.largest: dict[str, float]
        self.below: dict[str, int]
        self.ratio: dict[str, float] = dict.fromkeys(self.parameters, 1.0)

    def _look(self, name: str, step: float, now: th.Tensor) -> None:
        if step == 0.0 and self.largest[name] == 0.0:
            return  # not trained yet (a replay buffer that is still filling)
        self.largest[name] = max(self.largest[name], step)
        self.ratio[name] = step / self.largest[name]
        self.below[name] = self.below[name] + 1 if self.ratio[name] < self.kappa else 0

    def _settled(self, name: str) -> bool:
        return self.below[name] >= self.patience


class DistanceTrigger(_Watch):
    """
    EarlyCroP's trigger: fires when |d_t − d_{t−1}| < τ in every network.

    As read from the paper, θ_0 is the initialisation and τ = 1 − ρ for the sparsity ρ. In the released code θ_0 is what the
    first check sees (there, the weights after the first epoch) and τ = d_first (1 − ρ), d_first being the first distance
    after that; for structured pruning τ = d_first min(1 − ρ − 0.1, 0.99), which from ρ = 0.9 on is never above zero, so
    that it never fires. Mended here: (1 − ρ) / 2 where that is more than 1 − ρ − 0.1 (from ρ = 0.8 on).

    :param parameters: by network, the prunable parameters.
    :param sparsity: ρ, one for all or by network.
    :param released: the form of the released code.
    :param structured: whether units are pruned (the released code then has another τ).
    """

    counters = ("distance", "first", "small", "n_checks")

    def __init__(
        self,
        parameters: Mapping[str, Sequence[th.Tensor]],
        sparsity: float | Mapping[str, float],
        released: bool = False,
        structured: bool = True,
    ) -> None:
        super().__init__(parameters)
        self.rest = {name: 1.0 - (sparsity[name] if isinstance(sparsity, Mapping) else sparsity) for name in parameters}
        self.released, self.structured = released, structured
        self.first: dict[str, float]
        self.small: dict[str, float]
        self.n_checks: dict[str, int]

    def tau(self, name: str) -> float:
        """:return: the bound of a network's step; 0 where the released form has not seen its first distance."""
        rest = self.rest[name]
        if not self.released:
            return rest
        return self.first[name] * (min(max(rest - 0.1, rest / 2), 0.99) if self.structured else rest)

    def _look(self, name: str, step: float, now: th.Tensor) -> None:
        if step == 0.0 and self.distance[name] == 0.0 and not self.n_checks[name]:
            return  # not trained yet
        self.n_checks[name] += 1
        if self.released and self.n_checks[name] == 1:
            self.start[name], self.distance[name] = now, 0.0
        elif self.released and self.n_checks[name] == 2:
            self.first[name] = self.distance[name]
        else:
            self.small[name] = float(step < self.tau(name))

    def _settled(self, name: str) -> bool:
        return bool(self.small[name])


def weight_trigger(
    rule: str,
    parameters: Mapping[str, Sequence[th.Tensor]],
    sparsity: float | Mapping[str, float],
    structured: bool = True,
    kappa: float = SETTLED,
) -> LazyTrigger | DistanceTrigger:
    """:return: the trigger called ``"lazy"``, ``"distance"`` or ``"distance_released"``, watching from now on."""
    if rule == "lazy":
        return LazyTrigger(parameters, kappa)
    return DistanceTrigger(parameters, sparsity, rule == "distance_released", structured)


def check_kappa(kappa: Any) -> float:
    """
    :param kappa: κ of :class:`LazyTrigger`.
    :return: the same.
    :raises PruningError: it is no number in (0, 1].
    """
    if not isinstance(kappa, Real) or isinstance(kappa, bool) or not 0 < float(kappa) <= 1:
        raise PruningError(f"kappa={kappa!r} must be a number in (0, 1]: a share of a network's fastest step.")
    return float(kappa)


def _flat(tensors: Sequence[th.Tensor]) -> th.Tensor:
    return th.cat([tensor.detach().flatten() for tensor in tensors])


class EarlyPruningIndicator:
    """
    Fires when the widths that pruning would leave no longer change (EPI, "When to Prune?", CVPR 2022).

    Ψ of two proposals is 1 − the mean over layers of |n₁ − n₂| / (n₁ + n₂). The indicator is the mean Ψ of a proposal
    with the five before it; it fires at or above a threshold, and not below any of its own five last values.

    :param threshold: the threshold.
    :param memory: how many earlier proposals are compared.
    """

    def __init__(self, threshold: float = STABLE, memory: int = 5) -> None:
        self.threshold, self.memory = threshold, memory
        self.proposals: deque[dict[str, int]] = deque(maxlen=memory)
        self.values: deque[float] = deque(maxlen=memory)
        self.value = 0.0

    def check(self, widths: Mapping[str, int]) -> bool:
        """
        Look at one proposal.

        :param widths: kept units by layer.
        :return: whether to prune now.
        """
        similar = [structure_similarity(widths, earlier) for earlier in self.proposals]
        self.proposals.append(dict(widths))
        if len(similar) < self.memory:
            return False
        self.value = float(np.mean(similar))
        fires = len(self.values) == self.memory and self.value >= max(self.threshold, *self.values)
        self.values.append(self.value)
        return fires

    def state_dict(self) -> dict[str, Any]:
        """:return: what has been seen so far: proposals, oldest first, and the indicator's values."""
        proposals = [dict(widths) for widths in self.proposals]
        return {"proposals": proposals, "values": list(self.values), "value": self.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Go on from what another indicator has seen.

        :param state: its :meth:`state_dict`.
        """
        self.proposals, self.values = deque(state["proposals"], self.memory), deque(state["values"], self.memory)
        self.value = state["value"]


def structure_similarity(first: Mapping[str, int], second: Mapping[str, int]) -> float:
    """:return: Ψ of two structures: 1 where every layer keeps as many units in both."""
    return 1.0 - float(np.mean([abs(n - second[name]) / max(n + second[name], 1) for name, n in first.items()]))
