"""What happens to losers: they are removed, masked, shrunk at every step, or driven to zero by a growing penalty."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch as th

from rl_crop.core.masking.masks import Keep, pack, unpack
from rl_crop.core.masking.regrowth import drop_and_grow, regrown_share
from rl_crop.core.masking.weights import Weights
from rl_crop.core.pruning.plan import PruningPlan
from rl_crop.core.pruning.schedules import MET
from rl_crop.core.recipes.state import State

EQUAL, STEEPNESS = 0.3, 50
"""Of a growing penalty: the share of its phase in which it is equal for all (GReg-2), and how early losers shrink."""

Decision = PruningPlan | Keep
"""A cut of units, or masks of single weights by name."""


@dataclass(frozen=True)
class StrategyOptions:
    """
    Numbers of strategies.

    :param share: of the kept weights that are dropped and regrown at first; falls by a cosine to ``share_end``.
    :param share_end: what it falls to.
    :param start_scope: scope of the random masks that regrowing begins with; the recipe's own where empty.
    :param alpha: what ``"shrink"`` multiplies losers by at every step.
    :param equal: share of every weight's size that ``"growing_l2"`` takes before it chooses (GReg-2).
    """

    share: float = 0.3
    share_end: float = 0.0
    start_scope: str = ""
    alpha: float = 0.95
    equal: float = 0.0


class Strategy:
    """
    What happens to losers. It knows nothing of the engine: it looks at a :class:`State`, and returns decisions.

    :param options: its numbers.
    :param regrow: what comes back: ``"none"``, ``"gradient"`` or ``"random"``.
    """

    masks = True
    """Whether single weights are masked in the end (also where units shrink before they are removed)."""
    continuous = False
    """Whether it acts at every optimizer step, by a factor that follows the schedule."""
    revives = False
    """Whether what is masked may come back."""

    def __init__(self, options: StrategyOptions = StrategyOptions(), regrow: str = "none") -> None:  # noqa: B008
        self.options, self.regrow = options, regrow

    def decide(self, state: State) -> Iterator[Decision]:
        """:return: what to do, one after the other; each is carried out before the next is asked for."""
        raise NotImplementedError

    def factor(self, n_steps: int) -> float:
        """
        :param n_steps: optimizer steps between the last two changes.
        :return: what losers are multiplied by after a step.
        """
        return 1.0

    def kept(self, weights: Weights, targets: Mapping[str, float], scope: str) -> Keep:
        """:return: by name, ``True`` where a weight is no loser and is left alone after a step."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """:return: what a resumed run has to know: plain values, and tensors on the CPU."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""


class Remove(Strategy):
    """Units are cut out, in one event or in several."""

    masks = False

    def decide(self, state: State) -> Iterator[Decision]:
        if state.first or any(share > MET for share in state.rest.values()):
            yield state.plan(state.rest) if state.found is None else state.found


class Mask(Strategy):
    """Weights are held at zero for good; where the recipe regrows, as many others come back as are dropped."""

    def decide(self, state: State) -> Iterator[Decision]:
        weights, options, seed = state.weights, self.options, state.settings.seed or 0
        if state.first and self.regrow != "none":  # what regrows begins with a random mask
            yield weights.select(weights.random(seed), state.due, options.start_scope or state.settings.scope)
        moves = {name: share for name, share in state.due.items() if self._moves(weights.sparsity(state.keep, name), share)}
        if moves:
            yield state.choose(state.scores(), moves, None if self.revives else state.keep)
        if not state.first and not state.last and self.regrow != "none":
            growth = weights.growth(self.regrow, state.subject, seed, state.keep, state.targets)
            magnitude, own = weights.magnitude(), {name: state.keep[name] for name in state.names}
            worth = weights.protected({name: magnitude[name] for name in own}, own)
            yield drop_and_grow(own, worth, growth, regrown_share(options.share, options.share_end, state.x))

    @staticmethod
    def _moves(now: float, due: float) -> bool:
        """:return: whether a network becomes sparser, or dense again."""
        return now < due or now > due == 0.0


class Revive(Mask):
    """Weights are held at zero until a later choice brings them back."""

    revives = True


class Shrink(Strategy):
    """The least weights are multiplied by α after every step, chosen anew each time; in the end they are masked (ISS-P)."""

    continuous = True

    def __init__(self, options: StrategyOptions = StrategyOptions(), regrow: str = "none") -> None:  # noqa: B008
        super().__init__(options, regrow)
        self.shrinking = False

    def decide(self, state: State) -> Iterator[Decision]:
        self.shrinking = state.x < 1.0
        if not self.shrinking:
            yield self.kept(state.weights, state.targets, state.settings.scope)

    def factor(self, n_steps: int) -> float:
        return self.options.alpha if self.shrinking else 1.0

    def kept(self, weights: Weights, targets: Mapping[str, float], scope: str) -> Keep:
        return weights.select(weights.magnitude(), targets, scope)

    def state_dict(self) -> dict[str, Any]:
        return {"shrinking": self.shrinking}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.shrinking = state["shrinking"]


class GrowPenalty(Strategy):
    """
    Losers are chosen once, and a penalty that grows drives them to zero: w ← (1 − λ) w after every step (GReg, ICLR 2021).

    The paper adds 1e-4 to λ every few steps until it is 1, and multiplies by the learning rate: how far losers get depends on
    the number of steps. Here a loser that nothing holds in place has (1 − x²)^50 of its size left when the share x of the
    phase has passed, in a run of any length: λ grows from 0, at first linearly, to 1 in the last interval. (With the paper's
    numbers and SGD a loser is at e⁻⁵ after 45 % of the phase, with momentum 0.9 after 14 %; here after 31 %.) With the option
    ``equal`` (c), a phase in which all weights would shrink to 1 − c x² comes first, so that those stay largest which the loss
    curves most (GReg-2); the paper's numbers take 2 to 25 % there.
    """

    continuous = True

    def __init__(self, options: StrategyOptions = StrategyOptions(), regrow: str = "none") -> None:  # noqa: B008
        super().__init__(options, regrow)
        self.keep: Keep = {}
        self.scores: dict[str, th.Tensor] = {}
        self.x = 0.0
        self.left = 1.0  # of a loser's size, at the next change of the penalty

    def decide(self, state: State) -> Iterator[Decision]:
        equal = self.options.equal
        split = EQUAL if equal else 0.0
        step, self.x = state.x - self.x, state.x
        if state.x < split:
            tensors = state.subject.trained.tensors
            self.keep = {name: th.zeros_like(tensors[name], dtype=th.bool) for name in state.names}
            self._grow(state.x / split, step / split, lambda share: 1.0 - equal * share**2)
            return
        first = not self.scores
        if first:
            self._choose(state)
        length = 0.0 if first else step / (1.0 - split)
        self._grow((state.x - split) / (1.0 - split), length, lambda share: (1.0 - share**2) ** STEEPNESS)
        if state.x >= 1.0:
            yield state.plan(state.rest, criterion=lambda context: self.scores) if state.settings.structured else self.keep

    def _choose(self, state: State) -> None:
        if state.settings.structured:
            plan = state.plan(state.targets)
            self.scores, self.keep = {name: th.from_numpy(score) for name, score in plan.scores.items()}, unit_keep(plan)
        else:
            self.scores = dict(state.scores())
            self.keep = state.choose(self.scores, state.targets)

    def _grow(self, x: float, step: float, left: Callable[[float], float]) -> None:
        """Let losers shrink from what is to be left at ``x`` to what is to be left an interval, as long as the last, later."""
        now, then = left(x), left(min(x + step, 1.0))
        self.left = then / now if now > 0.0 else 0.0

    def factor(self, n_steps: int) -> float:
        return self.left ** (1.0 / n_steps) if n_steps else 1.0

    def kept(self, weights: Weights, targets: Mapping[str, float], scope: str) -> Keep:
        return self.keep

    def state_dict(self) -> dict[str, Any]:
        scores = {name: score.cpu() for name, score in self.scores.items()}
        return {"losers": pack(self.keep), "scores": scores, "x": self.x, "left": self.left}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.keep, self.scores, self.x, self.left = unpack(state["losers"]), dict(state["scores"]), state["x"], state["left"]


STRATEGIES: dict[str, type[Strategy]] = {
    "removed": Remove, "zero": Mask, "revive": Revive, "shrink": Shrink, "growing_l2": GrowPenalty,
}  # fmt: skip
"""Strategies by name."""


def multiply(optimizer: th.optim.Optimizer, tensors: Mapping[str, th.Tensor], keep: Keep, factor: float) -> None:
    """
    Multiply the losers among an optimizer's own parameters, after its step: nothing reaches its moments, so that Adam, which
    would divide a penalty's gradient by its own size, shrinks them as SGD does.

    :param optimizer: the one that has stepped.
    :param tensors: parameters by name.
    :param keep: by name, ``True`` where a weight is left alone.
    :param factor: of the others.
    """
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    with th.no_grad():
        for name, mask in keep.items():
            if id(tensors[name]) in stepped:
                tensors[name].mul_(th.where(mask, 1.0, factor).to(tensors[name]))


def unit_keep(plan: PruningPlan) -> dict[str, th.Tensor]:
    """:return: by parameter name, ``False`` where it belongs to what produces a unit that a plan would remove."""
    keep: dict[str, th.Tensor] = {}
    for name, tensor in plan.subject.trained.tensors.items():
        for group, slot in plan.graph.slots_of(name):
            if isinstance(tensor, th.nn.Parameter) and slot.role != "in" and group.name in plan.kept_units:
                gone = th.ones(group.n_units, dtype=th.bool)
                gone[th.from_numpy(plan.kept_units[group.name])] = False
                mask = keep.setdefault(name, th.ones(tensor.shape, dtype=th.bool, device=tensor.device))
                mask.index_fill_(slot.axis, th.from_numpy(slot.index)[gone].flatten().to(tensor.device), False)
    return keep
