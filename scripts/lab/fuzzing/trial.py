"""One combination from the draw to the verdict: built, trained, pruned, then checked as an agent that trains on."""

import re
import warnings
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from lab.fuzzing.accounting import Account
from lab.fuzzing.alive import check_alive
from lab.fuzzing.building import build
from lab.fuzzing.checks import CheckError, check, check_finite, check_same, check_same_objects, generators, state
from lab.fuzzing.drawing import Combination
from lab.fuzzing.ways import n_steps_of, way_of
from rl_crop.core.errors import PruningError

REASONS = {
    "sparsity out of reach with min_units": r"cannot be reached with min_units",
    "nothing to prune": r"no layer whose units can be removed",
    "the network named has no units": r"Unknown networks|but the networks with units are",
    "scope='global' with a sparsity by network": r"has one budget",
    "criterion needs a gradient": r"trained without a gradient",
    "no one width meets the shares": r"must end with one width .* give alike shares",
}
"""What may be refused, and how the error says so; any other refusal is a finding."""


class NotBuilt(Exception):
    """Stable-Baselines3 cannot build or train the agent, dense: it proves nothing."""


def run(chosen: Combination) -> str:
    """
    :param chosen: a combination.
    :return: ``"pruned"``, or ``"refused: "`` and the reason of a right refusal that changed nothing.
    :raises NotBuilt: there is no such agent.
    :raises CheckError: something is not as it must be. Whatever else is raised is a finding too.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = build(chosen)
            dense = build(chosen) if chosen.way == "callback" else model
            dense.learn(n_steps_of(dense))  # what cannot be trained dense proves nothing pruned
            check_finite(dense)
        except Exception as error:
            raise NotBuilt(f"{chosen.algorithm}: {type(error).__name__}: {str(error)[:150]}") from error
        return _judged(model, chosen)


def _judged(model: BaseAlgorithm, chosen: Combination) -> str:
    agent = model.policy if chosen.way == "policy" else model
    before = state(agent)
    try:
        account = Account(agent, chosen)
    except PruningError as error:
        check_same(before, state(agent), "a plan")
        check("no layer whose units" in str(error), f"no plan of sparsity 0: {error}")
        return "refused: nothing to prune"
    check_same(before, state(agent), "a plan")
    report, reason = _prune(model, chosen)
    if report is None:
        _check_reason(reason, account)
        return f"refused: {reason}"
    check_same_objects(before, state(agent))
    if not any(account.targets().values()) and chosen.way in ("plan", "prune_policy", "policy"):  # the others train
        check_same(before, {**state(agent), "pruning_history": before.get("pruning_history")}, "a sparsity of 0")
    check(account.refused() is None, f"pruned, although {account.refused()}")
    check(account.reachable() is not False, "pruned, although the sparsity is out of reach")
    check(account.one_width() is not False, "pruned, although no one width meets the shares")
    account.check_cut(model.policy, *report)
    check_alive(model, chosen)
    return "pruned"


def _check_reason(reason: str, account: Account) -> None:
    expected = account.refused()
    if expected is not None:
        check(reason == expected, f"refused for {reason!r} instead of {expected!r}")
    elif reason == "no one width meets the shares":
        check(account.one_width() is not True, f"refused without need: {reason}")
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
