"""One combination from the draw to the verdict: built, trained, pruned, then checked as an agent that trains on."""

import re
import time
import traceback
import warnings
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy

from lab.fuzzing.accounting import Account
from lab.fuzzing.alive import check_alive
from lab.fuzzing.building import build
from lab.fuzzing.checks import CheckError, check, check_finite, check_same, check_same_objects, generators, state
from lab.fuzzing.drawing import Combination, draw
from lab.fuzzing.ways import n_steps_of, way_of
from rl_crop.core.errors import PruningError

MAX_ATTEMPTS = 20
REASONS = {
    "sparsity out of reach with min_units": r"cannot be reached with min_units",
    "nothing to prune": r"no layer whose units can be removed",
    "the network named has no units": r"Unknown networks|but the networks with units are",
    "scope='global' with a sparsity by network": r"has one budget",
    "criterion needs a gradient": r"trained without a gradient",
}
"""What may be refused, and how the error says so; any other refusal is a finding."""


@dataclass(frozen=True)
class Outcome:
    """
    The verdict on one combination.

    :param combination: what was drawn, as a dictionary.
    :param verdict: ``"pruned"``, ``"refused"`` (rightly, nothing changed) or ``"failed"``.
    :param reason: of a refusal; of a failure, the error.
    :param gone: share of each network's parameters that was removed.
    :param not_built: what Stable-Baselines3 said of earlier draws that it could not build or train.
    :param seconds: of the whole.
    :param trace: of a failure.
    """

    combination: dict[str, Any]
    verdict: str
    reason: str
    gone: dict[str, float]
    not_built: list[str]
    seconds: float
    trace: str = ""


def run(seed: int) -> Outcome:
    """
    :param seed: of the combination.
    :return: the verdict; no exception of the package goes through.
    """
    start = time.perf_counter()
    refused: list[str] = []
    for attempt in range(MAX_ATTEMPTS):
        chosen = draw(seed, attempt)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                model = build(chosen)
                dense = build(chosen) if chosen.way == "callback" else model
                dense.learn(n_steps_of(dense))  # what cannot be trained dense proves nothing pruned
                check_finite(dense)
            except Exception as error:
                refused.append(f"{chosen.algorithm}: {type(error).__name__}: {str(error)[:150]}")
                continue
            found = _judge(model, chosen)
        return replace(found, not_built=refused, seconds=round(time.perf_counter() - start, 2))
    raise RuntimeError(f"None of {MAX_ATTEMPTS} draws of seed {seed} could be built: {refused}")


def _judge(model: BaseAlgorithm, chosen: Combination) -> Outcome:
    def outcome(verdict: str, reason: str = "", gone: Any = None, trace: str = "") -> Outcome:
        return Outcome(asdict(chosen), verdict, reason, gone or {}, [], 0.0, trace)

    try:
        agent = model.policy if chosen.way == "policy" else model
        before = state(agent)
        try:
            account = Account(agent, chosen)
        except PruningError as error:
            check_same(before, state(agent), "a plan")
            check("no layer whose units" in str(error), f"no plan of sparsity 0: {error}")
            return outcome("refused", "nothing to prune")
        check_same(before, state(agent), "a plan")
        report, reason = _prune(model, chosen)
        if report is None:
            _check_reason(reason, account)
            return outcome("refused", reason)
        check_same_objects(before, state(agent))
        if not any(account.targets().values()) and chosen.way in ("plan", "prune_policy", "policy"):  # the others train
            check_same(before, {**state(agent), "pruning_history": before.get("pruning_history")}, "a sparsity of 0")
        check(account.refused() is None, f"pruned, although {account.refused()}")
        check(account.reachable() is not False, "pruned, although the sparsity is out of reach")
        account.check_cut(model.policy, *report)
        check_alive(model, chosen)
        return outcome("pruned", gone=_gone(account, model.policy))
    except Exception as error:
        return outcome("failed", f"{type(error).__name__}: {str(error)[:300]}", trace=traceback.format_exc())


def _check_reason(reason: str, account: Account) -> None:
    expected = account.refused()
    if expected is not None:
        check(reason == expected, f"refused for {reason!r} instead of {expected!r}")
    else:
        check(reason == "sparsity out of reach with min_units" and not account.reachable(), f"refused without need: {reason}")


def _prune(model: BaseAlgorithm, chosen: Combination) -> tuple[Any, str]:
    """Prune; (widths and parameters of the report, "") or (None, reason of a refusal that left everything as it was)."""
    agent = model.policy if chosen.way == "policy" else model
    act, watch = way_of(model, chosen)
    before, numbers = state(agent), generators()
    try:
        result = act()
    except PruningError as error:
        check_same(watch.before if watch is not None and watch.before else before, state(agent), "a refusal")
        reasons = [reason for reason, pattern in REASONS.items() if re.search(pattern, str(error))]
        if not reasons:
            raise CheckError(f"refused for an unknown reason: {error}") from error
        return None, reasons[0]
    if watch is None:
        check_same(numbers, generators(), "pruning")
    return result, ""


def _gone(account: Account, policy: BasePolicy) -> dict[str, float]:
    now = {name: value.numel() for name, value in policy.named_parameters()}
    return {
        network: round(1 - sum(now[name] for name in own) / max(sum(int(np.prod(account.shapes[name])) for name in own), 1), 4)
        for network, own in account.parameters.items()
    }
