"""Lack of memory is told as such, wherever it comes: it is no answer to what was tried."""

import pytest
import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn

from rl_crop.core.errors import PruningError, lacks_memory
from rl_crop.core.graph import propagation
from rl_crop.core.prune import prune_model
from tests.zoo.networks import Calls, batches
from tests.zoo.snapshots import same, state

ERRORS = [
    MemoryError("none left"),
    th.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
]


class Failing:
    """A point of a network or a loss that fails the k-th time it is passed, in some mode."""

    def __init__(self, k, error, mode=None, wrapped=False):
        self.k, self.error, self.mode, self.wrapped, self.failed = k, error, mode, wrapped, False

    def __call__(self, training):
        self.k -= self.mode in (None, training)
        if self.k == 0 and not self.failed:
            self.failed = True
            if self.wrapped:
                raise PruningError("no such batch") from self.error
            raise self.error


def prune(failing, where):
    """:return: what pruning raised, if anything; the network is then as it was."""

    def forward(m, x):
        if where != "loss":
            failing(m.training)
        return m.b(th.tanh(m.a(x)))

    def loss(m, batch):
        if where == "loss":
            failing(m.training)
        return F.mse_loss(m(batch[0]), batch[1])

    model, data = Calls(forward, a=nn.Linear(3, 6), b=nn.Linear(6, 2)), batches(n=5, count=1)
    loss_and_data = (None, []) if where == "alone" else (loss, data)
    given = {"example_inputs": (data[0][0],), "criterion": "magnitude"} if where == "alone" else {}
    before = state(model)
    try:
        prune_model(model, *loss_and_data, 0.5, compensation="none", **given)
    except PruningError as error:
        assert same(before, state(model))
        return error
    assert model.a.out_features == 3
    return None


@pytest.mark.parametrize("calls", [range(3, 200, 4), pytest.param(range(1, 200), marks=pytest.mark.long)])
@pytest.mark.parametrize("where", ["network", "loss"])
def test_at_every_call(where, calls):
    for k in calls:
        failing = Failing(k, ERRORS[k % 3], wrapped=k % 3 == 1)
        error = prune(failing, where)
        if not failing.failed:
            break
        assert error is not None and lacks_memory(error), k
    assert k > 5


@pytest.mark.parametrize("where", ["network", "loss", "alone"])
@pytest.mark.parametrize("kind", ["plain", "torch's", "of a CPU", "wrapped", "another"])
def test_in_training_mode(kind, where):
    error = dict(zip(["plain", "torch's", "of a CPU"], ERRORS, strict=True)).get(kind, ERRORS[0])
    failing = Failing(1, ValueError("not in this mode") if kind == "another" else error, mode=True, wrapped=kind == "wrapped")
    raised = prune(failing, where)
    assert failing.failed and (raised is None) == (kind == "another")
    if raised is not None:
        assert lacks_memory(raised) and raised.__cause__ is error
        assert kind == "wrapped" or "Fewer or smaller scoring batches" in str(raised)


def test_in_a_rule_of_a_call(monkeypatch):
    rule, failing = propagation._follow, Failing(1, ERRORS[2])
    monkeypatch.setattr(propagation, "_follow", lambda *args: failing(True) or rule(*args))
    assert lacks_memory(prune(Failing(0, None), "loss")) and failing.failed


def test_other_errors_are_told_apart():
    again = ValueError("again")
    again.__cause__ = again
    assert not lacks_memory(again) and not lacks_memory(None) and not lacks_memory(ValueError("out of memory"))
