"""Masks hold through every step of every optimizer, and training is that of a network that multiplies by them."""

import copy
import gc
import json
import weakref

import pytest
import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.masking.masks import Masks, attached_masks, pack, release_masks, unpack
from rl_crop.core.pruning.surgery import Transaction
from tests.zoo.networks import batches, cnn, mlp, mse
from tests.zoo.snapshots import same, state

OPTIMIZERS = {
    "sgd": lambda p: th.optim.SGD(p, 0.1),
    "momentum": lambda p: th.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda p: th.optim.Adam(p, 0.05, amsgrad=True),
    "adam with coupled decay": lambda p: th.optim.Adam(p, 0.05, weight_decay=0.1),
    "adamw": lambda p: th.optim.AdamW(p, 0.05, weight_decay=0.1, foreach=True),
    "rmsprop": lambda p: th.optim.RMSprop(p, 0.05, momentum=0.9, centered=True),
    "adagrad": lambda p: th.optim.Adagrad(p, 0.05),
    "nadam": lambda p: th.optim.NAdam(p, 0.05),
    "fused adam": lambda p: th.optim.Adam(p, 0.05, fused=True),
}


def half(model, seed=3):
    """Random masks of the weights."""
    generator = th.Generator().manual_seed(seed)
    weights = {name: p for name, p in model.named_parameters() if name.endswith("weight")}
    return {name: th.rand(p.shape, generator=generator) < 0.5 for name, p in weights.items()}


def train(model, optimizer, data, steps=6):
    for step in range(steps):
        optimizer.zero_grad()
        mse(model, data[step % len(data)]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        optimizer.step()


class Multiplied(nn.Module):
    """The oracle: a network of linear layers that multiplies its weights by masks in every forward pass."""

    def __init__(self, model, keep):
        super().__init__()
        self.model, self.keep = model, keep

    def forward(self, x):
        for place, layer in enumerate(self.model):
            linear = isinstance(layer, nn.Linear)
            x = F.linear(x, layer.weight * self.keep[f"{place}.weight"], layer.bias) if linear else layer(x)
        return x


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_is_that_of_a_network_that_multiplies_by_its_masks(name):
    model, data = mlp((3, 6, 5, 2)), batches()
    oracle, keep = copy.deepcopy(model), half(model)
    with th.no_grad():
        for key, mask in keep.items():
            oracle.get_parameter(key).mul_(mask)
    optimizer, other = OPTIMIZERS[name](model.parameters()), OPTIMIZERS[name](oracle.parameters())
    masks = Masks([dict(model.named_parameters())], keep, optimizer)
    masks.apply()
    masks.attach()
    train(model, optimizer, data)
    train(Multiplied(oracle, keep), other, data)
    for key, parameter in model.named_parameters():
        th.testing.assert_close(parameter, oracle.get_parameter(key), rtol=1e-12, atol=1e-12)
        for moment, value in optimizer.state[parameter].items():
            expected = other.state[oracle.get_parameter(key)][moment]
            if isinstance(value, th.Tensor) and value.dim():
                th.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_moments_of_before_are_zeroed_at_once_and_stay_so(name):
    model, data = cnn(), batches((1, 5, 5))
    optimizer, keep = OPTIMIZERS[name](model.parameters()), half(model)
    train(model, optimizer, data)
    masks = Masks([dict(model.named_parameters())], keep, [optimizer, optimizer])
    masks.apply()
    masks.attach()
    for steps in (0, 1, 4):
        train(model, optimizer, data, steps)
        for key, mask in keep.items():
            weight = model.get_parameter(key)
            held = [v for v in optimizer.state[weight].values() if isinstance(v, th.Tensor) and v.shape == weight.shape]
            for tensor in (weight, weight.grad, *held):
                assert not tensor[~mask].any() and tensor[mask].any()


def test_targets_and_mirrors_are_masked_and_follow():
    model, data = mlp(), batches()
    target = copy.deepcopy(model).requires_grad_(False)
    optimizer, keep = th.optim.Adam(model.parameters()), half(model)
    masks = Masks([dict(model.named_parameters()), {"0.weight": target[0].weight}], keep, [optimizer])
    masks.apply()
    assert not target[0].weight[~keep["0.weight"]].any() and target[2].weight[~keep["2.weight"]].any()
    masks.attach()
    train(model, optimizer, data, 2)
    with th.no_grad():
        target[0].weight.lerp_(model[0].weight, 0.1)
    assert not target[0].weight[~keep["0.weight"]].any()


def test_a_weight_that_is_no_number_is_masked_all_the_same():
    model = mlp()
    keep = {"0.weight": th.ones(5, 3, dtype=th.bool)}
    keep["0.weight"][0, 0] = False
    with th.no_grad():
        model[0].weight[0, 0] = th.nan
    Masks([dict(model.named_parameters())], keep).apply()
    assert model[0].weight[0, 0] == 0 and model[0].weight[1:].all()


@pytest.mark.parametrize("dtype", [th.float16, th.bfloat16, th.float32])
def test_masks_are_of_any_precision(dtype):
    model, x = mlp().to(dtype), th.ones(4, 3, dtype=dtype)
    optimizer, keep = th.optim.Adam(model.parameters(), 0.1), half(model)
    masks = Masks([dict(model.named_parameters())], keep, optimizer)
    masks.apply()
    masks.attach()
    model(x).float().square().sum().backward()
    optimizer.step()
    for name, mask in keep.items():
        weight = model.get_parameter(name)
        assert weight.dtype == dtype and not weight[~mask].any() and weight[mask].any()


def test_without_an_optimizer_masks_hold_at_every_call_and_when_saved():
    model, keep = mlp(), half(mlp())
    masks = Masks([dict(model.named_parameters())], keep, modules=[model])
    masks.attach()
    candidate = copy.deepcopy(model)  # as random search makes them
    for network in (model, candidate):
        for act in (lambda: network(th.ones(2, 3)), network.state_dict):  # noqa: B023
            with th.no_grad():
                for parameter in network.parameters():
                    parameter.fill_(1.0)
            act()
            assert all(th.equal(network.get_parameter(name), mask.double()) for name, mask in keep.items())
            assert network[0].bias.all()
    masks.detach()
    with th.no_grad():
        model[0].weight.fill_(1.0)
    model(th.ones(2, 3))
    assert model[0].weight.all()


def test_what_comes_back_starts_at_zero_with_fresh_moments():
    model, data = mlp(), batches()
    optimizer, keep = th.optim.Adam(model.parameters()), half(model)
    masks = Masks([dict(model.named_parameters())], keep, optimizer)
    masks.apply()
    masks.attach()
    train(model, optimizer, data)
    moved = {name: mask.roll(1, 1) for name, mask in keep.items()}
    masks.set(moved)
    for name, mask in moved.items():
        weight, back = model.get_parameter(name), mask & ~keep[name]
        moments = [optimizer.state[weight][key] for key in ("exp_avg", "exp_avg_sq")]
        assert back.any() and not any(tensor[back].any() or tensor[~mask].any() for tensor in (weight, *moments))
    train(model, optimizer, data, 2)
    for name, mask in moved.items():
        weight = model.get_parameter(name)
        assert weight[mask & ~keep[name]].any() and not weight[~mask].any()
    masks.set({"0.weight": moved["0.weight"]})
    train(model, optimizer, data, 2)
    assert model[2].weight.all() and not model[0].weight[~moved["0.weight"]].any()
    masks.detach()
    train(model, optimizer, data, 2)
    assert model[0].weight.all() and attached_masks(dict(model.named_parameters())) == {}


def test_sparsity_is_the_share_of_all_elements():
    model = mlp((3, 4, 2))
    keep = {"0.weight": th.ones(4, 3, dtype=th.bool), "2.weight": th.zeros(2, 4, dtype=th.bool)}
    assert Masks([dict(model.named_parameters())], keep).sparsity == pytest.approx(8 / 20)
    assert Masks([{}], {}).sparsity == 0.0


def test_what_does_not_fit_is_refused():
    model = mlp()
    parameters = dict(model.named_parameters())
    with pytest.raises(PruningError, match="LBFGS"):
        Masks([parameters], half(model), th.optim.LBFGS(model.parameters()))
    with pytest.raises(PruningError, match="must be boolean, of shape"):
        Masks([parameters], {"0.weight": th.ones(5, 2, dtype=th.bool)})
    with pytest.raises(PruningError, match="must be boolean"):
        Masks([parameters], {"0.weight": th.ones(5, 3)})
    with pytest.raises(PruningError, match="no parameter of the model"):
        Masks([parameters], {"9.weight": th.ones(5, 3, dtype=th.bool)})
    masks = Masks([parameters], half(model))
    before = dict(masks.keep)
    with pytest.raises(PruningError, match="must be boolean"):
        masks.set({"0.weight": th.ones(1, dtype=th.bool)})
    assert masks.keep == before


def test_a_transaction_undoes_masks_hooks_and_moments():
    model, data = mlp(), batches()
    optimizer = th.optim.Adam(model.parameters())
    train(model, optimizer, data)
    masks = Masks([dict(model.named_parameters())], half(model), optimizer)
    masks.apply()
    masks.attach()
    before, keep = state(model, optimizers=[optimizer]), masks.keep
    with pytest.raises(ZeroDivisionError), Transaction() as transaction:
        masks.set({"2.weight": th.zeros(4, 5, dtype=th.bool)}, transaction)
        assert not model[2].weight.any() and masks.keep.keys() == {"2.weight"}
        raise ZeroDivisionError
    assert same(before, state(model, optimizers=[optimizer])) and same(masks.keep, keep)
    train(model, optimizer, data)
    assert all(not model.get_parameter(name)[~mask].any() for name, mask in keep.items())


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_attached_masks_live_as_long_as_the_network(with_optimizer):
    model, keep = mlp(), half(mlp())
    optimizer = th.optim.Adam(model.parameters())
    masks = Masks([dict(model.named_parameters())], keep, [optimizer] if with_optimizer else [])
    masks.attach()
    masks.attach()  # once is enough
    weight = weakref.ref(model[0].weight)
    del masks
    gc.collect()
    named = {f"other.{name}": parameter for name, parameter in model.named_parameters()}
    assert same(attached_masks(named), {f"other.{name}": mask for name, mask in keep.items()})
    mse(model, batches()[0]).backward()
    assert not model[0].weight.grad[~keep["0.weight"]].any()
    del model, optimizer, named
    gc.collect()
    assert weight() is None


def test_released_masks_hold_nothing_and_a_transaction_brings_them_back():
    model, data = mlp(), batches()
    parameters, optimizer, keep = dict(model.named_parameters()), th.optim.Adam(model.parameters()), half(model)
    masks = Masks([parameters], keep, optimizer)
    masks.apply()
    masks.attach()
    with pytest.raises(ZeroDivisionError), Transaction() as transaction:
        release_masks(parameters.values(), transaction)
        assert attached_masks(parameters) == {} and not masks.attached
        other = Masks([parameters], half(model, seed=4), optimizer)
        transaction.call(other.detach)
        other.attach()
        raise ZeroDivisionError
    assert masks.attached and same(attached_masks(parameters), keep)
    train(model, optimizer, data)
    assert all(parameters[name][mask].all() and not parameters[name][~mask].any() for name, mask in keep.items())
    release_masks([model[0].weight])
    train(model, optimizer, data)
    assert all(parameters[name].all() for name in keep)


def test_the_graph_of_an_earlier_loss_stays_alive():
    model, data = mlp(), batches()
    optimizer, loss, keep = th.optim.SGD(model.parameters(), 0.1), mse(model, data[0]), half(model)
    masks = Masks([dict(model.named_parameters())], keep, optimizer)
    with Transaction() as transaction:
        masks.apply(transaction)
    masks.attach()
    loss.backward()
    optimizer.step()
    assert all(not model.get_parameter(name)[~mask].any() for name, mask in keep.items())


def test_gradients_that_are_asked_for_directly_are_whole():
    """What regrows is found by the gradient of weights that are masked."""
    model, keep = mlp(), half(mlp())
    masks = Masks([dict(model.named_parameters())], keep)
    masks.apply()
    masks.attach()
    [gradient] = th.autograd.grad(mse(model, batches()[0]), [model[0].weight])
    assert gradient.all()


def test_packed_masks_are_json_and_come_back():
    model = cnn()
    keep = half(model) | {"scalar": th.tensor(True), "empty": th.zeros(0, 3, dtype=th.bool)}
    assert same(unpack(json.loads(json.dumps(pack(keep)))), keep)
    assert pack({"w": th.tensor([[True, False, True], [False, False, False], [True, True, True]])}) == {
        "w": {"shape": [3, 3], "bits": "o4A="}  # 1010 0011, 1000 0000
    }
    for broken in ({"shape": [9], "bits": "oA=="}, {"shape": [9], "bits": "?"}, {"bits": "oA=="}, {"shape": [9]}):
        with pytest.raises(PruningError, match="packed mask of 'w'"):
            unpack({"w": broken})
