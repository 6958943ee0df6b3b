"""When to cut: rules that watch a run from check to check."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.recipes.indicator import STABLE, EarlyPruningIndicator, Propose
from rl_crop.core.recipes.stable_size import StableSize

SETTLED = 0.03
"""Default κ of :class:`LazyTrigger`."""


@dataclass(frozen=True)
class TriggerOptions:
    """
    Numbers of triggers, and the bounds between which they decide.

    :param earliest: a trigger does not fire before: a share of the run (float), or a time of the loop's own (int).
    :param latest: at this time the cut comes, whatever the trigger says.
    :param kappa: κ of ``"lazy"``, in (0, 1].
    :param threshold: of ``"epi"``.
    :raises PruningError: κ is not in (0, 1].
    """

    earliest: float = 0.1
    latest: float = 0.3
    kappa: float = SETTLED
    threshold: float = STABLE

    def __post_init__(self) -> None:
        check_kappa(self.kappa)


class Trigger(Protocol):
    """Looks at a run from check to check, at equal intervals, and says when to prune."""

    def look(self, propose: Propose) -> bool:
        """:return: whether to prune now."""

    def readings(self) -> dict[str, float]:
        """:return: what it sees, for a log."""

    def state_dict(self) -> dict[str, Any]:
        """:return: what a later part of the run has to know: plain values, and tensors on the CPU."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; a ``PruningError`` where it does not fit."""


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

    def look(self, propose: Propose) -> bool:
        """
        Look at the weights once.

        :param propose: is not needed.
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
            self._moved(name, step, now)
        return bool(self.parameters) and all(self._settled(name) for name in self.parameters)

    def _begin(self, name: str, now: th.Tensor) -> None:
        self.start[name] = now
        for counter in self.counters:
            getattr(self, counter)[name] = 0.0

    def _moved(self, name: str, step: float, now: th.Tensor) -> None:
        raise NotImplementedError

    def _settled(self, name: str) -> bool:
        raise NotImplementedError

    def readings(self) -> dict[str, float]:
        """:return: by network, how far its weights have gone, d_t."""
        return {f"distance/{name}": value for name, value in self.distance.items()}

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

    def _moved(self, name: str, step: float, now: th.Tensor) -> None:
        if step == 0.0 and self.largest[name] == 0.0:
            return  # not trained yet (a replay buffer that is still filling)
        self.largest[name] = max(self.largest[name], step)
        self.ratio[name] = step / self.largest[name]
        self.below[name] = self.below[name] + 1 if self.ratio[name] < self.kappa else 0

    def _settled(self, name: str) -> bool:
        return self.below[name] >= self.patience

    def readings(self) -> dict[str, float]:
        """:return: by network, how far its weights have gone, and the latest step as a share of the largest."""
        return super().readings() | {f"ratio/{name}": value for name, value in self.ratio.items()}


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

    def _moved(self, name: str, step: float, now: th.Tensor) -> None:
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


@dataclass(frozen=True)
class Watched:
    """
    What a trigger is made of.

    :param parameters: by network, the prunable parameters.
    :param sparsity: by network, to end with.
    :param structured: whether units are pruned.
    :param options: numbers.
    """

    parameters: Mapping[str, Sequence[th.Tensor]]
    sparsity: Mapping[str, float]
    structured: bool = True
    options: TriggerOptions = TriggerOptions()


TRIGGERS: dict[str, Callable[[Watched], Trigger]] = {
    "lazy": lambda watched: LazyTrigger(watched.parameters, watched.options.kappa),
    "stable": lambda watched: StableSize(),
    "epi": lambda watched: EarlyPruningIndicator(watched.options.threshold),
    "distance": lambda watched: DistanceTrigger(watched.parameters, watched.sparsity, structured=watched.structured),
    "distance_released": lambda watched: DistanceTrigger(
        watched.parameters, watched.sparsity, released=True, structured=watched.structured
    ),
}
"""Triggers by name, watching from now on."""
