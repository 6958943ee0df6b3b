"""Undoing survives a second failure: every other step is undone, and the one that failed is tried again."""

import copy

import pytest
import torch as th

from rl_crop.core.errors import PruningError, UndoError, explained
from rl_crop.core.prune import plan_pruning, prune_model
from rl_crop.core.pruning import surgery
from rl_crop.core.pruning.compensation import Compensator
from rl_crop.core.pruning.surgery import TRIES, Transaction
from tests.zoo.networks import Residual, batches, mse, settled
from tests.zoo.snapshots import same, state


@pytest.fixture
def agent():
    """A model in training, its optimizer, a mirror and data."""
    model, data = settled(Residual(6), (2, 4, 4)), batches((2, 4, 4), 3)
    optimizer = th.optim.Adam(model.parameters())
    mse(model, data[0]).backward()
    optimizer.step()
    return model, optimizer, copy.deepcopy(model), data


class Second:
    """A function that fails at its k-th call once ``armed``, before or after its work, ``n`` times running."""

    def __init__(self, function, k, error, after=False, n=1):
        self.function, self.k, self.error, self.after, self.n = function, k, error, after, n
        self.armed, self.calls, self.raised = False, 0, 0

    def __call__(self, *args):
        self.calls += self.armed
        fails = self.k <= self.calls < self.k + self.n
        if not fails or self.after:
            self.function(*args)
        if fails:
            self.raised += 1
            raise self.error


def interrupted_cut(agent, monkeypatch, second, first=KeyboardInterrupt, **settings):
    """The state before and after a cut that fails in its repair, with a second failure while it is undone."""
    model, optimizer, mirror, data = agent
    before = state(model, mirror, optimizers=[optimizer])

    def fail(*args):
        second.armed = True
        raise first

    with monkeypatch.context() as patch:
        patch.setattr(surgery, "_replace", second)
        patch.setattr(Compensator, "refit", fail)
        with pytest.raises(BaseException) as error:
            prune_model(model, mse, data, 0.5, optimizers=[optimizer], mirrors=[mirror], **settings)
    return before, state(model, mirror, optimizers=[optimizer]), error.value


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, SystemExit])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 8, 13, 21])
def test_a_second_failure_while_undoing(agent, monkeypatch, k, error, after):
    second = Second(surgery._replace, k, error, after)
    before, now, raised = interrupted_cut(agent, monkeypatch, second)
    assert second.raised == 1 and same(before, now) and isinstance(raised, KeyboardInterrupt)
    model, optimizer, _, data = agent
    mse(model, data[0]).backward()
    optimizer.step()


def test_a_second_failure_twice_running(agent, monkeypatch):
    second = Second(surgery._replace, 4, KeyboardInterrupt, n=TRIES - 1)
    before, now, _ = interrupted_cut(agent, monkeypatch, second, schedule="iterative")
    assert second.raised == TRIES - 1 and same(before, now)


def test_an_interrupt_of_the_undoing_is_not_swallowed(agent, monkeypatch):
    """An error that callers may take for a warning must not hide that the user wants to stop."""
    before, now, raised = interrupted_cut(agent, monkeypatch, Second(surgery._replace, 2, KeyboardInterrupt), ValueError)
    assert same(before, now) and isinstance(raised, KeyboardInterrupt) and isinstance(raised.__cause__, PruningError)


def test_what_cannot_be_undone_is_said_and_all_else_is_undone():
    owner, done = {"a": 1, "b": 2}, []

    def never():
        done.append("tried")
        raise OSError("gone")

    with pytest.raises(UndoError, match="OSError.*after ZeroDivisionError.*go back to a saved one") as error:
        with Transaction() as transaction:
            transaction.set_item(owner, "a", 5)
            transaction.call(never)
            transaction.set_item(owner, "c", 6)
            _ = 1 / 0
    assert owner == {"a": 1, "b": 2} and done == ["tried"] * TRIES and isinstance(error.value.__cause__, ZeroDivisionError)


def test_damage_is_no_pruning_error():
    """A caller that warns of a failed cut and trains on must not train on with what is broken."""
    with pytest.raises(UndoError), explained("Pruning failed"):
        raise UndoError("broken")


class Owner:
    """Has a class attribute, an attribute of its own, and room for more."""

    shared = 1

    def __init__(self):
        self.own = 2


def test_attributes_come_back_or_go_again():
    owner = Owner()
    with pytest.raises(ZeroDivisionError), Transaction() as transaction:
        transaction.keep_attributes(owner, "own", "new")
        transaction.set_attribute(owner, "other", 3)
        owner.own, owner.new = 5, 6
        _ = 1 / 0
    assert vars(owner) == {"own": 2}
    with pytest.raises(ZeroDivisionError), Transaction() as transaction:
        transaction.keep_attributes(owner, "own")
        del owner.own
        _ = 1 / 0
    assert vars(owner) == {"own": 2}


@pytest.mark.parametrize(
    ("structured", "place"),
    [
        (True, "pruning.plan.PruningReport"),
        (True, "pruning.plan.unit_notes"),
        (False, "pruning.plan.PruningReport"),
        (False, "masking.plan.mask_notes"),
    ],
)
def test_a_report_that_fails_undoes_the_cut(agent, monkeypatch, structured, place):
    model, optimizer, mirror, data = agent
    before = state(model, mirror, optimizers=[optimizer])
    plan = plan_pruning(model, mse, data, 0.5, optimizers=[optimizer], mirrors=[mirror], structured=structured)
    with monkeypatch.context() as patch:
        patch.setattr(f"rl_crop.core.{place}", lambda *args, **keywords: 1 / 0)
        with pytest.raises((PruningError, ZeroDivisionError)):
            plan.apply()
    assert same(before, state(model, mirror, optimizers=[optimizer]))
    hooks = [getattr(one, name) for one in (optimizer, *model.parameters()) for name in vars(one) if "post_hooks" in name]
    assert not any(hooks)
    plan.apply()
