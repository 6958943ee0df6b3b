"""All or nothing: a failure at any stage leaves everything bit for bit as it was, and training goes on."""

import copy
import json

import pytest
import torch as th
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.prune import plan_pruning, prune_model
from rl_crop.core.pruning import cutting
from rl_crop.core.pruning.compensation import Compensator
from rl_crop.core.pruning.distillation import Distiller
from rl_crop.core.pruning.surgery import Transaction
from tests.zoo.networks import Calls, Residual, batches, mlp, mse, settled
from tests.zoo.snapshots import same, state


class Injected(RuntimeError):
    pass


def fail(*args, **kwargs):
    raise Injected("injected")


def fail_at(method, place):
    """The method as it is, until its call number ``place``."""
    calls = []

    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == place:
            raise Injected("injected")
        return method(*args, **kwargs)

    return wrapped


def fail_after(method):
    def wrapped(*args, **kwargs):
        method(*args, **kwargs)
        raise Injected("injected")

    return wrapped


def fail_narrow(forward, place):
    """The forward pass, until the call number ``place`` after the cut that is not on the data: whether the networks run."""
    failing = fail_at(forward, place)
    return lambda model, x: (failing if model.head.in_features < 6 and len(x) < 12 else forward)(model, x)


STAGES = {
    "sizes before": lambda patch: patch.setattr(cutting, "update_sizes", fail),
    "sizes after": lambda patch: patch.setattr(cutting, "update_sizes", fail_after(cutting.update_sizes)),
    "refit before": lambda patch: patch.setattr(Compensator, "refit", fail),
    "refit after": lambda patch: patch.setattr(Compensator, "refit", fail_after(Compensator.refit)),
    "first run after the cut": lambda patch: patch.setattr(Residual, "forward", fail_narrow(Residual.forward, 1)),
    "last run after the cut": lambda patch: patch.setattr(Residual, "forward", fail_narrow(Residual.forward, 4)),
    "fit before": lambda patch: patch.setattr(Distiller, "fit", fail),
    "fit after": lambda patch: patch.setattr(Distiller, "fit", fail_after(Distiller.fit)),
    "within the fit": lambda patch: patch.setattr(th.optim.Adam, "step", fail_at(th.optim.Adam.step, 4)),
    "first item": lambda patch: patch.setattr(Transaction, "set_item", fail_at(Transaction.set_item, 1)),
    "last attribute": lambda patch: patch.setattr(Transaction, "set_attribute", fail_at(Transaction.set_attribute, 5)),
    **{
        f"write {place}": lambda patch, place=place: patch.setattr(
            Transaction, "set_data", fail_at(Transaction.set_data, place)
        )
        for place in (1, 2, 7, 20, 26, 40)
    },
}


@pytest.fixture
def agent():
    """A model in training, its optimizer, a frozen mirror and data."""
    model, data = settled(Residual(6), (2, 4, 4)), batches((2, 4, 4), 3)
    model.norm1.eval()
    mirror = copy.deepcopy(model).requires_grad_(False)
    optimizer = th.optim.Adam(model.parameters(), amsgrad=True)
    step(model, optimizer, data)
    return model, optimizer, mirror, data


def step(model, optimizer, data):
    optimizer.zero_grad()
    mse(model, data[0]).backward()
    optimizer.step()


@pytest.mark.parametrize("stage", STAGES)
def test_a_failure_at_any_stage_undoes_everything(agent, stage, monkeypatch):
    model, optimizer, mirror, data = agent
    other = copy.deepcopy([model, optimizer.state_dict()])
    before, generator = state(model, mirror, optimizers=[optimizer]), th.get_rng_state()
    plan = plan_pruning(model, mse, data, 0.5, compensation="distill", optimizers=[optimizer], mirrors=[mirror])
    with monkeypatch.context() as patch:
        STAGES[stage](patch)
        with pytest.raises(
            PruningError, match="The cut (failed|network does not run) .*injected.*everything was put back"
        ) as error:
            plan.apply()
    assert isinstance(error.value.__cause__, Injected)
    assert same(before, state(model, mirror, optimizers=[optimizer])) and th.equal(generator, th.get_rng_state())
    step(model, optimizer, data)
    untouched, follower = other[0], th.optim.Adam(other[0].parameters(), amsgrad=True)
    follower.load_state_dict(other[1])
    step(untouched, follower, data)
    assert same([*model.parameters()], [*untouched.parameters()])
    report = plan.apply()  # and the same plan can be applied after all
    assert report.n_params_after < report.n_params_before


def test_an_interruption_undoes_everything_too(agent, monkeypatch):
    model, optimizer, mirror, data = agent
    before = state(model, mirror, optimizers=[optimizer])
    plan = plan_pruning(model, mse, data, 0.5, optimizers=[optimizer], mirrors=[mirror])

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Compensator, "refit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        plan.apply()
    assert same(before, state(model, mirror, optimizers=[optimizer]))


def test_a_failure_in_a_late_step_undoes_all_steps(agent, monkeypatch):
    model, optimizer, mirror, data = agent
    before = state(model, mirror, optimizers=[optimizer])
    monkeypatch.setattr(Compensator, "refit", fail_at(Compensator.refit, 5))  # of the third step's model
    with pytest.raises(PruningError, match="injected"):
        prune_model(model, mse, data, 0.8, schedule="iterative", optimizers=[optimizer], mirrors=[mirror])
    assert same(before, state(model, mirror, optimizers=[optimizer]))
    step(model, optimizer, data)


def test_a_failure_to_plan_a_late_step_undoes_all_steps(agent):
    model, optimizer, _, data = agent
    before = state(model, optimizers=[optimizer])
    calls = []

    def sometimes(model, batch):
        calls.append(1)
        return mse(model, batch) * (float("nan") if len(calls) > 30 else 1.0)

    with pytest.raises(PruningError, match="loss .* nan"):
        prune_model(model, sometimes, data, 0.8, schedule="iterative", optimizers=[optimizer])
    assert same(before, state(model, optimizers=[optimizer])) and len(calls) == 33


REFUSED = {
    "is nan: nothing was pruned. Check the batches": {"loss": lambda m, b: mse(m, b) * float("nan")},
    "must be a scalar": {"loss": lambda m, b: m(b[0])},
    "computed without gradients": {"loss": lambda m, b: mse(m, b).detach()},
    "Give batches and a loss": {"batches": []},
    "with tensors; or give example_inputs": {"loss": lambda m, b: m.stem(b[0]).square().mean()},
    "largest reachable": {"sparsity": 0.99},
    "LBFGS": {"optimizers": [th.optim.LBFGS([nn.Parameter(th.ones(1))])]},
    "not finite": {
        "batches": [(th.full((4, 2, 4, 4), float("nan"), dtype=th.float64), th.zeros(4, 3))],
        "criterion": "random",
    },
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused_changes_nothing(agent, message):
    model, optimizer, mirror, data = agent
    if message == "LBFGS":
        flat = REFUSED[message]["optimizers"][0]
        flat.state[flat.param_groups[0]["params"][0]]["d"] = th.zeros(1)
    before = state(model, mirror, optimizers=[optimizer])
    keywords = {"loss": mse, "batches": data, "sparsity": 0.5, "optimizers": [optimizer], "mirrors": [mirror]} | REFUSED[
        message
    ]
    with pytest.raises(PruningError, match=message):
        prune_model(model, **keywords)
    assert same(before, state(model, mirror, optimizers=[optimizer]))


def test_activations_that_overflow_are_refused():
    model, data = mlp((3, 6, 2), nn.ReLU), [(th.randn(4, 3) * 1e300, th.zeros(4, 2))]
    before = state(model)
    with pytest.raises(PruningError, match="not finite"):
        prune_model(model, None, data, 0.5, criterion="magnitude")
    assert same(before, state(model))


def test_a_forward_pass_that_needs_the_old_width_is_put_back():
    model = Calls(
        lambda m, x: m.b(th.tanh(m.a(x)) * th.ones(8)[: m.a.out_features].clone()), a=nn.Linear(3, 8), b=nn.Linear(8, 2)
    )
    with pytest.raises(PruningError, match="no layer .*a: is combined with a tensor of fixed size"):
        prune_model(model, mse, batches(), 0.5)
    model = Calls(lambda m, x: m.b(th.tanh(m.a(x)).view(-1, 8)), a=nn.Linear(3, 8), b=nn.Linear(8, 2))
    before = state(model)
    with pytest.raises(PruningError, match="no layer .*a: the forward pass expects its width"):
        prune_model(model, mse, batches(), 0.5)
    assert same(before, state(model))


def test_the_package_raises_one_kind_of_error():
    assert issubclass(PruningError, ValueError) and json.dumps(str(PruningError("plain"))) == '"plain"'
