"""What happens at every optimizer step of a run: steps are counted, losers shrink, perturbations act."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from weakref import WeakSet

import torch as th
from torch.utils.hooks import RemovableHandle

_ATTACHED: "WeakSet[StepHooks]" = WeakSet()
"""All that act now."""

Act = Callable[[th.optim.Optimizer, int], None]
"""Called after a step with the optimizer, and the number of its steps between the last two changes of the network."""


class StepHooks:
    """
    Hooks of the optimizers of one run.

    :param act: what is to be done after a step.
    :param perturb: makes the context in which a network trains, where anything acts on its weights.
    :param running: whether the run still goes on: a loop that an exception has ended says so to nobody.
    """

    def __init__(
        self, act: Act, perturb: Callable[[], AbstractContextManager] | None, running: Callable[[], bool] = lambda: True
    ) -> None:
        self.act, self.perturb, self.running = act, perturb, running
        self.optimizers: tuple[th.optim.Optimizer, ...] = ()
        self.steps: dict[int, int] = {}  # of optimizers by id, since the last change
        self.pace: dict[int, int] = {}  # and between the last two
        self._perturbation = ExitStack()
        self._handles: list[RemovableHandle] = []

    def attach(self, optimizers: Sequence[th.optim.Optimizer], counting: bool) -> None:
        """
        :param optimizers: those of the run.
        :param counting: whether anything depends on their steps.
        """
        self.detach()
        release_ended()
        _ATTACHED.add(self)
        self.optimizers = tuple(optimizers)
        self._handles = [optimizer.register_step_post_hook(self._after_step) for optimizer in optimizers if counting]
        self._resume()

    def detach(self) -> None:
        """Nothing acts any longer."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._perturbation.close()
        _ATTACHED.discard(self)

    @property
    def n_steps(self) -> int:
        """Steps since the last change, of the optimizer that made most."""
        return max(self.steps.values(), default=0)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let no perturbation act while the network is changed."""
        self._perturbation.close()
        try:
            yield
        finally:
            self._resume()

    def changed(self) -> None:
        """The network has been changed."""
        self.pace, self.steps = self.steps, {}

    def _resume(self) -> None:
        if self.perturb is not None:
            self._perturbation.enter_context(self.perturb())

    def _after_step(self, optimizer: th.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if not self.running():
            return
        self.steps[id(optimizer)] = self.steps.get(id(optimizer), 0) + 1
        self.act(optimizer, self.pace.get(id(optimizer), 0))

    def state_dict(self) -> dict[str, list[int]]:
        """:return: counts in the order of the optimizers, whose ids mean nothing in another process."""
        ids = [id(optimizer) for optimizer in self.optimizers]
        return {"steps": [self.steps.get(one, 0) for one in ids], "pace": [self.pace.get(one, 0) for one in ids]}

    def load_state_dict(self, state: Mapping[str, Sequence[int]]) -> None:
        """Go on from there."""
        ids = [id(optimizer) for optimizer in self.optimizers]
        self.steps, self.pace = (dict(zip(ids, state[name], strict=True)) for name in ("steps", "pace"))


def release_ended() -> None:
    """Take away what runs have left that an exception has ended."""
    for hooks in [hooks for hooks in _ATTACHED if not hooks.running()]:
        hooks.detach()


@contextmanager
def released_after_errors(optimizers: Sequence[th.optim.Optimizer]) -> Iterator[None]:
    """Let nothing act on these optimizers any longer that was attached in a block which an exception ends."""
    before = list(_ATTACHED)
    try:
        yield
    except BaseException:
        own = {id(optimizer) for optimizer in optimizers}
        for hooks in list(_ATTACHED):
            if not any(hooks is other for other in before) and own & {id(one) for one in hooks.optimizers}:
                hooks.detach()
        raise
