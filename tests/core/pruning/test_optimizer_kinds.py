"""Optimizers of many kinds: their state is cut with the parameters, forgotten, or the cut is refused."""

import copy

import pytest
import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.prune import prune_model
from tests.zoo.networks import batches, mlp, mse
from tests.zoo.snapshots import same, state


class Remembering(th.optim.SGD):
    """SGD that keeps something about every parameter under the key ``"past"``."""

    def __init__(self, parameters, remember):
        super().__init__(parameters, lr=0.01)
        self.remember = remember

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["past"] = self.remember(self.state[parameter].get("past"), parameter.grad)
        super().step(closure)


def gram(past, grad):
    return [grad @ grad.T, grad.T @ grad] if grad.dim() == 2 else [grad.outer(grad)]


def left_gram(past, grad):
    return grad @ grad.T if grad.dim() == 2 else grad.clone()


def basis(past, grad):
    return [th.linalg.qr(side)[0] for side in gram(past, grad)]


ELEMENTWISE = {
    "list": lambda past, grad: [*(past or []), grad.clone()][-3:],
    "tuple": lambda past, grad: (grad.clone(), grad.square()),
    "dictionary": lambda past, grad: {"first": grad.clone(), "nested": [grad.abs()], "count": 3},
    "one tensor": lambda past, grad: grad.clone(),
    "factors": lambda past, grad: [grad.mean(0, keepdim=True), grad.mean(-1, keepdim=True)],
}
MATRICES = {"grams": gram, "left gram": left_gram, "bases": basis, "flat": lambda past, grad: grad.flatten()}


def trained(make, n_steps=2):
    model, data = mlp((3, 8, 8, 2)), batches()
    optimizer = make(model.parameters())
    for _ in range(n_steps):
        step(model, optimizer, data)
    return model, optimizer, data


def step(model, optimizer, data):
    def closure():
        optimizer.zero_grad()
        value = mse(model, data[0])
        value.backward()
        return value

    optimizer.step(closure) if isinstance(optimizer, th.optim.LBFGS) else (closure(), optimizer.step())


@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_nested_state_is_cut_and_the_next_step_runs(kind):
    model, optimizer, data = trained(lambda parameters: Remembering(parameters, ELEMENTWISE[kind]))
    prune_model(model, mse, data, 0.5, optimizers=[optimizer], compensation="none")
    if kind in ("list", "tuple"):
        for parameter in model.parameters():
            assert all(tensor.shape == parameter.shape for tensor in optimizer.state[parameter]["past"])
    step(model, optimizer, data)


@pytest.mark.parametrize("kind", MATRICES)
def test_matrices_of_rows_and_columns_are_refused(kind):
    model, optimizer, data = trained(lambda parameters: Remembering(parameters, MATRICES[kind]))
    before = state(model)
    with pytest.raises(PruningError, match="cannot be cut"):
        prune_model(model, mse, data, 0.5, optimizers=[optimizer], compensation="none")
    assert same(before, state(model))
    step(model, optimizer, data)


@pytest.mark.parametrize("remember", [gram, left_gram, basis])
def test_matrices_of_a_square_weight_alone_are_refused(remember):
    model, data = mlp((3, 8, 8, 2)), batches()
    optimizer = Remembering([model[2].weight], remember)
    step(model, optimizer, data)
    with pytest.raises(PruningError, match="rows, to the columns or to the elements"):
        prune_model(model, mse, data, 0.5, optimizers=[optimizer], compensation="none")


def test_lbfgs_goes_on_once_its_state_is_cleared():
    model, optimizer, data = trained(lambda parameters: th.optim.LBFGS(parameters, max_iter=3))
    with pytest.raises(PruningError, match="LBFGS.*clear it"):
        prune_model(model, mse, data, 0.5, optimizers=[optimizer])
    step(model, optimizer, data)
    optimizer.state.clear()
    size = optimizer._numel_cache
    with pytest.raises(PruningError):
        prune_model(model, mse, data, 0.999, optimizers=[optimizer])
    assert optimizer._numel_cache == size
    prune_model(model, mse, data, 0.5, optimizers=[optimizer])
    step(model, optimizer, data)


BUILT_IN = ["Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adadelta", "Adagrad", "ASGD", "Adafactor", "RMSprop", "Rprop", "SGD"]


@pytest.mark.parametrize("compensation", ["none", "least_squares"])
@pytest.mark.parametrize("name", BUILT_IN)
def test_every_optimizer_of_torch_goes_on(name, compensation):
    model, optimizer, data = trained(lambda parameters: getattr(th.optim, name)(parameters, lr=1e-3))
    prune_model(model, mse, data, 0.5, optimizers=[optimizer], compensation=compensation)
    before = copy.deepcopy([*model.parameters()])
    step(model, optimizer, data)
    assert not any(th.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


class Wrapper(th.optim.Optimizer):
    """Steps another optimizer, as Lookahead and SAM do."""

    def __init__(self, inner, copies=None):
        super().__init__(inner.param_groups, {})
        self.inner = inner
        self.param_groups = inner.param_groups
        if copies is not None:
            self.slow = copies

    def step(self, closure=None):
        self.inner.step(closure)


def test_the_optimizer_inside_a_wrapper_is_cut_and_copies_beside_the_state_are_refused():
    model, optimizer, data = trained(lambda parameters: Wrapper(th.optim.Adam(parameters)))
    prune_model(model, mse, data, 0.5, optimizers=[optimizer], compensation="none")
    step(model, optimizer, data)
    for kind in (list, tuple, lambda items: dict(enumerate(items))):
        copies = kind([parameter.detach().clone() for parameter in model.parameters()])
        wrapper = Wrapper(th.optim.Adam(model.parameters()), copies)
        with pytest.raises(PruningError, match="beside its state .slow"):
            prune_model(model, mse, data, 0.2, optimizers=[wrapper])
