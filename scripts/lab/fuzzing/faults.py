"""Errors at any call within a cut and its recording, or while one is being undone; and what is then left behind."""

import itertools
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import CO_GENERATOR
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import rl_crop
from lab.fuzzing.building import build
from lab.fuzzing.checks import CheckError, check, check_consistent, check_finite, check_same, generators, optimizers_of, state
from lab.fuzzing.drawing import ACTIONS, ALGORITHMS, CONTINUOUS, Combination
from lab.fuzzing.ways import SCORING, n_steps_of
from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import named_tensors
from rl_crop.core.masking.masks import attached_masks
from rl_crop.core.pruning import planning
from rl_crop.core.pruning.surgery import Transaction
from rl_crop.core.recipes.engine import PruningEngine
from rl_crop.sb3 import rebuilding
from rl_crop.sb3.callback import PruningCallback

BAD = ("LEFT BEHIND", "FAILED")
"""How outcomes begin that must not be."""
PACKAGE = str(Path(rl_crop.__file__).parent)
GRADIENT_FREE = "random_units", "random_erk", "gmp", "masks", "magnitude"
"""Ways that an algorithm without a gradient can go."""


class Injected(RuntimeError):
    """No error that anything in the package raises or expects."""


ERRORS: tuple[type[BaseException], ...] = (Injected, MemoryError, KeyboardInterrupt)


@dataclass(frozen=True)
class Case:
    """
    An agent and a way of pruning it.

    :param algorithm: of the agent.
    :param way: a name for people.
    :param keywords: of the callback, or of ``prune_policy``.
    :param callback: whether a callback prunes, while the agent trains.
    """

    algorithm: str
    way: str
    keywords: Mapping[str, Any]
    callback: bool


def ways() -> dict[str, tuple[bool, dict[str, Any]]]:
    """:return: by name, whether a callback prunes, and its keywords: every recipe of one run, and further arguments."""
    recipes: dict[str, dict[str, Any]] = {
        name: {"recipe": name} for name, recipe in rl_crop.recipes.items() if recipe.driver == "single"
    }
    learning: dict[str, dict[str, Any]] = recipes | {
        "gradual": {"schedule": "gradual", "n_events": 3, "until": 0.8},
        "magnitude": {"criterion": "magnitude"},
    }
    learning["auto"] = {"sparsity": "auto", "tolerance": 0.1}
    learning["slower"] = {"learning_rate_factor": 2.0, "of": "original"}
    at_once: dict[str, dict[str, Any]] = {
        "one_shot": {}, "iterative": {"schedule": "iterative"}, "layer": {"scope": "layer", "compensation": "bias"},
        "global": {"scope": "global", "compensation": "none"}, "budget": {"sparsity": None, "max_params": 1500},
        "masks": {"structured": False, "criterion": "magnitude"}, "span": {"criterion": "span_crop"},
    }  # fmt: skip
    return {name: (True, given) for name, given in learning.items()} | {
        name: (False, given) for name, given in at_once.items()
    }


def cases(seed: int, algorithm: str | None = None) -> Iterator[Case]:
    """:return: without end, every way once a round, each time with other algorithms."""
    algorithms = list(ALGORITHMS) if algorithm is None else [algorithm]
    shuffled = random.Random(seed)
    while True:
        names = list(ways())
        shuffled.shuffle(names)
        shuffled.shuffle(algorithms)
        for name, chosen in zip(names, itertools.cycle(algorithms)):
            callback, keywords = ways()[name]
            free = chosen != "ARS" or name in GRADIENT_FREE
            yield Case(chosen if free else "PPO", name, {"sparsity": 0.5, **keywords}, callback)


@dataclass
class Injector:
    """
    Counts the calls of this package's functions within transactions, and raises at one of them.

    :param at: which transaction, and which call within; ``None`` fails at its very end, after the last call.
    :param error: what is raised.
    :param second: at which call of the undoing another error is raised; 0 for none.
    """

    at: tuple[int, int] | None = None
    error: type[BaseException] = Injected
    second: int = 0
    calls: list[int] = field(default_factory=list)
    changes_from: int = 0
    undoing: int = 0
    depth: int = 0
    paused: int = 0
    raised: bool = False
    where: str = "the end"
    raised_again: bool = False

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Inject within a block."""
        enter, leave, change = Transaction.__enter__, Transaction.__exit__, Transaction.set_data

        def entered(transaction: Transaction) -> Transaction:
            if not self.depth:
                self.calls.append(0)
                self.changes_from = 0
            self.depth += 1
            return enter(transaction)

        def left(transaction: Transaction, kind: Any, error: Any, trace: Any) -> None:
            self.depth -= 1
            at_end = self.at is None and error is None and not self.depth
            if at_end:  # as if the last thing that is done within had failed
                self.raised, kind, error = True, self.error, self.error("injected")
            if error is not None and self.raised:
                self.depth, depth = -1, self.depth
                sys.setprofile(self._look)  # python forgets it where it raises
                try:
                    leave(transaction, kind, error, trace)
                finally:
                    self.depth = depth
            else:
                leave(transaction, kind, error, trace)
            if at_end:
                raise error

        def changed(transaction: Transaction, *given: Any) -> None:
            self.changes_from = self.changes_from or self.calls[-1]
            change(transaction, *given)

        def apart(function: Callable[..., Any]) -> Callable[..., Any]:
            def run(*given: Any, **named: Any) -> Any:
                self.paused += 1
                try:
                    return function(*given, **named)
                finally:
                    self.paused -= 1

            return run

        # An error in them is an answer: the zip would not load, the network does not run in training mode.
        tried = patch.object(rebuilding, "why_not_loaded", apart(rebuilding.why_not_loaded))
        traced = patch.object(planning, "find_units", apart(planning.find_units))
        begun, ended = patch.object(Transaction, "__enter__", entered), patch.object(Transaction, "__exit__", left)
        with begun, ended, patch.object(Transaction, "set_data", changed), tried, traced:
            sys.setprofile(self._look)
            try:
                yield
            finally:
                sys.setprofile(None)

    def _look(self, frame: FrameType, event: str, value: Any) -> None:
        code = frame.f_code
        of_package = code.co_filename.startswith(PACKAGE) and not code.co_flags & CO_GENERATOR  # python ignores those at times
        if event != "call" or not self.depth or self.paused or not of_package:
            return
        if self.depth < 0:
            self.undoing += code.co_name != "__exit__"  # nothing can undo where undoing does not begin
            if self.second and self.undoing == self.second and not self.raised_again:
                self.raised_again = True
                raise self.error("injected while undoing")
        elif not self.raised:
            self.calls[-1] += 1
            if self.at == (len(self.calls), self.calls[-1]):
                self.raised, self.where = True, f"{Path(code.co_filename).stem}.{code.co_name}"
                raise self.error("injected")


def everything(model: Any, callback: PruningCallback | None = None) -> dict[str, Any]:
    """:return: what a failed cut must leave alone: agent, masks, hooks, learning rate, generators, the callback's state."""
    found = state(model) | generators() | {"rate": (model.learning_rate, id(getattr(model, "lr_schedule", None)))}
    found["masks"] = {name: mask.tolist() for name, mask in attached_masks(named_tensors(model.policy)).items()}
    found["policy class"], found["state"] = model.policy_class, repr(sorted(getattr(model, "pruning_state", None) or {}))
    hooks = [len(value) for module in model.policy.modules() for key, value in vars(module).items() if key.endswith("_hooks")]
    found["hooks"] = hooks + [
        len(value) for optimizer in optimizers_of(model) for key, value in vars(optimizer).items() if key.endswith("_hooks")
    ]
    if callback is not None and callback.engine is not None:
        engine = callback.engine
        found["engine"] = [engine.timetable.n_done, dict(engine.outcome.gone), engine.finished, engine._n_changes]
        found["memory"] = [id(part) for part in callback.memory.parts]
    return found


def faults(
    act: Callable[[], Any], look: Callable[[], dict[str, Any]], n: int, n_second: int, drawn: random.Random
) -> Iterator[tuple[str, str]]:
    """
    Let one cut fail at points that are drawn, and look at what is left behind each time.

    :param act: cuts; must be able to be tried again.
    :param look: what must stay as it is.
    :param n: how many faults.
    :param n_second: further ones, with a second error while the first is undone.
    :param drawn: chooses the points.
    :return: for each: ``"first"`` or ``"second"``, and what came of it.
    """
    before = look()
    first = Injector(None)
    outcome = _tried(act, first)
    yield "first", _judged(outcome, first, before, look)
    places = range(first.changes_from + 1, first.calls[-1] + 1) if first.calls else range(0)
    if not places:
        return
    for number in range(n - 1 + n_second):
        again = number >= n - 1
        injector = Injector((len(first.calls), drawn.choice(places)), ERRORS[number % len(ERRORS)])
        if again:
            injector = Injector(None, ERRORS[number % len(ERRORS)], drawn.randint(1, max(first.undoing, 1)))
        outcome = _tried(act, injector)
        yield "second" if again else "first", _judged(outcome, injector, before, look)
        if outcome is None:  # it was cut
            return


def _tried(act: Callable[[], Any], injector: Injector) -> BaseException | None:
    try:
        with injector.armed():
            act()
    except BaseException as error:
        return error
    return None


def _judged(
    outcome: BaseException | None, injector: Injector, before: Mapping[str, Any], look: Callable[[], dict[str, Any]]
) -> str:
    if not injector.raised:
        return f"refused ({str(outcome)[:80]})" if outcome is not None else "not reached"
    if injector.second and not injector.raised_again:
        return "the second error came too late"
    if outcome is None:
        return f"the cut went on, after an error in {injector.where}"
    try:
        check_same(before, look(), "a failed cut")
    except CheckError as error:
        return f"LEFT BEHIND: {error} (at {injector.where}, {injector.error.__name__}, second at {injector.second})"
    return "everything as it was"


def try_case(case: Case, n: int, n_second: int, seed: int) -> Iterator[tuple[str, str]]:
    """
    :param case: an agent, and how it is pruned.
    :param n: faults.
    :param n_second: further ones, each with a second error while the first is undone.
    :param seed: of everything.
    :return: for each fault: ``"first"`` or ``"second"``, and what came of it; then ``"after"``, and whether the agent is
        pruned once nothing fails, and trains on.
    """
    drawn = random.Random(seed)
    model: Any = build(_agent(case.algorithm, seed))
    found: list[tuple[str, str]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if case.callback:
                _learn(model, case, (n, n_second), drawn, found)
            else:
                model.learn(n_steps_of(model))

                def act() -> Any:
                    return rl_crop.prune_policy(model, **case.keywords, **SCORING)

                found += faults(act, lambda: everything(model), n, n_second, drawn)
                if not getattr(model, "pruning_history", None):
                    act()
            check(bool(model.pruning_history), "nothing was pruned")
            check_consistent(model)
            model.learn(n_steps_of(model), reset_num_timesteps=False)
            check_finite(model)
            found.append(("after", "pruned and trained on"))
        except PruningError as error:
            found.append(("after", f"refused: {str(error)[:80]}"))
        except Exception as error:
            found.append(("after", f"FAILED: {type(error).__name__}: {error}"))
    yield from found


def _learn(model: Any, case: Case, wanted: tuple[int, int], drawn: random.Random, found: list[tuple[str, str]]) -> None:
    """Faults in the first two changes that a callback makes; then these are made."""
    callback = PruningCallback(**case.keywords, verbose=0, **SCORING)
    change, several = PruningEngine._change, callback.resolved.n_events != 1
    n_left = [(wanted[0] - wanted[0] // 2, wanted[1]), (wanted[0] // 2, 0)] if several else [wanted]

    def changed(engine: PruningEngine, *given: Any) -> Any:
        if n_left:
            n, n_second = n_left.pop(0)
            before = engine._n_changes
            found.extend(faults(lambda: change(engine, *given), lambda: everything(model, callback), n, n_second, drawn))
            if engine._n_changes > before:
                return None
        return change(engine, *given)

    with patch.object(PruningEngine, "_change", changed):
        model.learn(3 * n_steps_of(model), callback=callback)


def _agent(algorithm: str, seed: int) -> Combination:
    critics = 2 if algorithm in CONTINUOUS else 0
    return Combination(
        seed=seed % 1000, algorithm=algorithm, policy="Mlp", observations="vector", actions=ACTIONS[algorithm][-1], n_envs=2,
        normalize=False, own_extractor=algorithm != "ARS", share=None, net_arch=[16, 12], activation="Tanh",
        optimizer="default", use_sde=False, n_critics=critics, n_steps=1, lstm="both" if algorithm == "RecurrentPPO" else "",
        extra={}, way="callback", batches="", again=False, schedule="one_shot", when="", sparsity=0.5, networks=None,
        settings={},
    )  # fmt: skip
