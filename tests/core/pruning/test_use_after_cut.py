"""What users do with a network after a cut: save, copy, rebuild, schedule, hook, compile, cut again."""

import copy
import io
import pickle

import pytest
import torch as th
from torch import nn

from rl_crop.core.prune import prune_model
from tests.zoo.networks import Residual, batches, mlp, mse, settled
from tests.zoo.snapshots import same


def step(model, optimizer, data, n=5):
    for _ in range(n):
        optimizer.zero_grad()
        mse(model, data[0]).backward()
        optimizer.step()


def test_a_natively_built_network_takes_over():
    """A pruned network is a plain one: its checkpoint loads into a natively built network, and both train alike."""
    model, data = mlp((3, 16, 12, 2)), batches()
    optimizer = th.optim.Adam(model.parameters())
    step(model, optimizer, data)
    prune_model(model, mse, data, 0.7, optimizers=[optimizer])
    native = mlp((3, model[0].out_features, model[2].out_features, 2))
    native.load_state_dict(model.state_dict())
    follower = th.optim.Adam(native.parameters())
    follower.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for network, rule in ((model, optimizer), (native, follower)):
        step(network, rule, data, 30)
    assert same(list(model.parameters()), list(native.parameters()))
    assert repr(model) == repr(native) and all(parameter.is_contiguous() for parameter in model.parameters())


def test_saving_copying_and_pickling():
    model, data = settled(Residual(8), (2, 4, 4)).eval(), batches((2, 4, 4), 3)
    prune_model(model, mse, data, 0.6)
    file = io.BytesIO()
    th.save(model.state_dict(), file)
    file.seek(0)
    loaded = copy.deepcopy(model)
    loaded.load_state_dict(th.load(file))
    del model.activation, loaded.activation  # a function of a module cannot be pickled by every version
    again = pickle.loads(pickle.dumps(model))
    for other in (loaded, again):
        assert same(model.state_dict(), other.state_dict()) and other.norm1.num_features == model.norm1.num_features
    assert len(file.getvalue()) < 40_000


def test_every_tensor_moves_in_the_next_updates():
    model, data = settled(Residual(8), (2, 4, 4)), batches((2, 4, 4), 3)
    optimizer = th.optim.AdamW(model.parameters(), lr=1e-2)
    step(model, optimizer, data)
    prune_model(model, mse, data, 0.6, optimizers=[optimizer])
    before = [parameter.clone() for parameter in model.parameters()]
    step(model, optimizer, data, 2)
    assert all((old != new).any() for old, new in zip(before, model.parameters(), strict=True))


def test_optimizers_begin_anew_with_what_was_refitted():
    """Refitted weights are larger, and so are gradients: with second moments of before, Adam would leap."""
    longest = {}
    for forgets in (True, False):
        model, data = mlp((8, 128, 128, 2)), batches((8,))
        optimizer = th.optim.Adam(model.parameters(), lr=1e-3)
        step(model, optimizer, data, 60)
        state = dict(optimizer.state)
        prune_model(model, mse, data, 0.97, criterion="random", optimizers=[optimizer], seed=1)
        assert not optimizer.state
        if not forgets:
            optimizer.state.update(state)  # cut, as everything else is
        moves = []
        for _ in range(5):
            before = [parameter.detach().clone() for parameter in model.parameters()]
            step(model, optimizer, data, 1)
            moves += [float((old - new).detach().abs().max()) for old, new in zip(before, model.parameters(), strict=True)]
        longest[forgets] = max(moves)
    assert longest[True] <= 1.02e-3 < 1.5e-3 < longest[False]


def test_another_networks_optimizer_keeps_what_it_knows():
    model, beside, data = mlp((8, 32, 2)), mlp((2, 3)), batches((8,))
    optimizer = th.optim.Adam([*model.parameters(), *beside.parameters()])
    step(model, optimizer, data)
    optimizer.zero_grad()
    beside(data[0][1]).sum().backward()
    optimizer.step()
    prune_model(model, mse, data, 0.5, optimizers=[optimizer])
    assert set(optimizer.state) == set(beside.parameters())


def test_hooks_schedulers_and_clipping_go_on():
    model, data = mlp((3, 12, 2)), batches()
    optimizer = th.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = th.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    fired = []
    model[0].weight.register_hook(lambda grad: fired.append(tuple(grad.shape)))
    model[0].weight.register_post_accumulate_grad_hook(lambda parameter: fired.append(tuple(parameter.grad.shape)))
    step(model, optimizer, data, 1)
    prune_model(model, mse, data, 0.5, optimizers=[optimizer])
    fired.clear()
    mse(model, data[0]).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step(), scheduler.step()
    assert fired == [(6, 3)] * 2 and optimizer.param_groups[0]["lr"] == 0.05


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_of_an_earlier_loss_that_is_kept_alive(create_graph):
    """Losses that were computed before the cut, with and without a graph of their gradients, do not get in the way."""
    model, data = settled(Residual(8), (2, 4, 4)), batches((2, 4, 4), 3)
    optimizer = th.optim.Adam(model.parameters())
    earlier = mse(model, data[0])
    grads = th.autograd.grad(earlier, list(model.parameters()), create_graph=create_graph, retain_graph=True)
    prune_model(model, mse, data, 0.6, optimizers=[optimizer])
    step(model, optimizer, data, 3)
    assert earlier.grad_fn is not None and len(grads) == len(list(model.parameters()))
    assert all(parameter.grad.shape == parameter.shape for parameter in model.parameters())


def test_cuts_in_a_row_with_training_between_them():
    model, data = mlp((3, 32, 24, 2)), batches(n=40)
    mirror = copy.deepcopy(model).requires_grad_(False)
    optimizer = th.optim.Adam(model.parameters(), lr=1e-2)
    widths = []
    for _ in range(3):
        step(model, optimizer, data, 10)
        with th.no_grad():
            for slow, fast in zip(mirror.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 0.1)
        report = prune_model(model, mse, data, 0.5, criterion="span_crop", optimizers=[optimizer], mirrors=[mirror])
        widths.append(report.n_params_after)
    step(model, optimizer, data, 10)
    assert widths == sorted(widths, reverse=True) and widths[-1] < 0.2 * (32 * 28 + 24 * 3)
    assert [p.shape for p in mirror.parameters()] == [p.shape for p in model.parameters()]


def test_a_compiled_network_sees_the_cut():
    model, data = mlp((3, 12, 2)), batches()
    compiled = th.compile(model, backend="eager")
    compiled(data[0][0])
    prune_model(compiled, mse, data, 0.5)
    assert model[0].out_features == 6 and th.allclose(compiled(data[0][0]), model(data[0][0]))
