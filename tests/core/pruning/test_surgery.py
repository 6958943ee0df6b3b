import copy

import numpy as np
import pytest
import torch as th
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.prune import plan_pruning
from rl_crop.core.pruning.surgery import Transaction, keep_index, select
from tests.zoo.networks import Calls, Residual, batches, cnn, mlp, mse, settled
from tests.zoo.oracles import MaskedTwin
from tests.zoo.snapshots import same, state

ACTIVATIONS = [nn.ReLU, nn.Tanh, nn.ELU, nn.SiLU, nn.GELU]
OPTIMIZERS = {
    "adam": lambda p: th.optim.Adam(p, lr=1e-2),
    "adam amsgrad": lambda p: th.optim.Adam(p, lr=1e-2, amsgrad=True, foreach=False),
    "adamw": lambda p: th.optim.AdamW(p, lr=1e-2),
    "sgd": lambda p: th.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: th.optim.RMSprop(p, lr=1e-3, momentum=0.5, centered=True),
    "adagrad": lambda p: th.optim.Adagrad(p, lr=1e-2),
}
SHAPES = {mlp: (3,), cnn: (1, 5, 5)}


def train(model, optimizer, data, steps, hold=lambda: None):
    for step in range(steps):
        optimizer.zero_grad()
        mse(model, data[step % len(data)]).backward()
        optimizer.step()
        hold()


def twin_of(model, optimizer, make, plan):
    """The masked dense network with a copy of the optimizer and its state."""
    twin = MaskedTwin(model, plan)
    follower = make(twin.model.parameters())
    follower.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return twin, follower


def difference(model, twin, plan, data):
    """The largest difference between the pruned network and the kept part of its twin, outputs and parameters."""
    kept = plan.kept_units
    gaps = [(model(x) - twin.model(x)).abs().max() for x, _ in data]
    pairs = zip(model.named_parameters(), twin.model.parameters(), strict=True)
    gaps += [(p - select(q.detach(), keep_index(plan.graph, name, kept))).abs().max() for (name, p), q in pairs]
    return max(gap.item() for gap in gaps)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("build", SHAPES)
@pytest.mark.parametrize("graph_alive", [False, True], ids=["", "graph alive"])
def test_a_pruned_network_trains_like_its_masked_dense_twin(build, activation, graph_alive):
    model, data, make = build(activation=activation), batches(SHAPES[build]), OPTIMIZERS["adam"]
    optimizer = make(model.parameters())
    train(model, optimizer, data, 7)
    identities = [id(parameter) for parameter in model.parameters()]
    plan = plan_pruning(model, mse, data, 0.5, compensation="none", optimizers=[optimizer])
    twin, follower = twin_of(model, optimizer, make, plan)
    earlier = mse(model, data[0]) if graph_alive else None
    plan.apply()
    assert [id(parameter) for parameter in model.parameters()] == identities
    assert difference(model, twin, plan, data) <= 1e-6
    train(model, optimizer, data, 50)
    train(twin.model, follower, data, 50, twin.hold)
    assert difference(model, twin, plan, data) <= 1e-6
    assert earlier is None or earlier.requires_grad


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_optimizer_state_is_cut_at_the_same_indices(kind):
    model, data, make = mlp((3, 8, 8, 2)), batches(), OPTIMIZERS[kind]
    optimizer = make(model.parameters())
    train(model, optimizer, data, 7)
    plan = plan_pruning(model, mse, data, 0.5, compensation="none", optimizers=[optimizer])
    before = copy.deepcopy([optimizer.state[parameter] for parameter in model.parameters()])
    twin, follower = twin_of(model, optimizer, make, plan)
    plan.apply()
    for (name, parameter), old in zip(model.named_parameters(), before, strict=True):
        index = keep_index(plan.graph, name, plan.kept_units)
        for key, value in optimizer.state[parameter].items():
            whole = value is None or not isinstance(value, th.Tensor) or value.dim() == 0
            assert same(value, old[key] if whole else select(old[key], index)), (name, key)
            assert whole or value.shape == parameter.shape
        assert parameter.grad is None or not index
    train(model, optimizer, data, 20)
    train(twin.model, follower, data, 20, twin.hold)
    assert difference(model, twin, plan, data) <= 1e-6


def test_factored_moments_are_cut_and_flat_ones_refused():
    model, data = mlp((3, 8, 8, 2)), batches()
    factored = th.optim.Adafactor(model.parameters(), lr=1e-2)
    train(model, factored, data, 3)
    plan_pruning(model, mse, data, 0.5, optimizers=[factored], compensation="none").apply()
    assert factored.state[model[2].weight]["row_var"].shape == (model[2].out_features, 1)
    assert factored.state[model[2].weight]["col_var"].shape == (1, model[2].in_features)
    train(model, factored, data, 3)

    flat = th.optim.LBFGS(model.parameters())
    flat.step(lambda: (flat.zero_grad(), mse(model, data[0]).backward(), mse(model, data[0]))[2])
    odd = th.optim.SGD(model.parameters(), lr=0.1)
    odd.state[model[0].weight]["history"] = th.zeros(7, 7)
    for optimizer in (flat, odd):
        before = state(model)
        with pytest.raises(PruningError, match="clear i"):
            plan_pruning(model, mse, data, 0.5, optimizers=[optimizer]).apply()
        assert same(before, state(model))


def test_an_optimizer_of_a_part_and_several_optimizers():
    model, data = mlp((3, 8, 8, 2)), batches()
    first, second = th.optim.Adam(model[0].parameters()), th.optim.Adam(model[2:].parameters())
    mse(model, data[0]).backward()
    first.step(), second.step()
    plan_pruning(model, mse, data, 0.5, optimizers=(first, second, first), compensation="none").apply()
    for optimizer in (first, second):
        for parameter in optimizer.param_groups[0]["params"]:
            assert optimizer.state[parameter]["exp_avg"].shape == parameter.shape


def sizes(model):
    """Every size attribute beside the size of the tensor it describes."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            yield (module.out_features, module.in_features), tuple(module.weight.shape)
        elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
            yield (module.out_channels, module.in_channels // module.groups), tuple(module.weight.shape[:2])
        elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
            yield module.normalized_shape, tuple(module.weight.shape)
        elif isinstance(module, nn.BatchNorm2d):
            yield module.num_features, len(module.running_var)
        elif isinstance(module, nn.GroupNorm):
            yield module.num_channels, len(module.weight)
        elif isinstance(module, nn.PReLU):
            yield module.num_parameters, len(module.weight)


def test_size_attributes_follow():
    model = nn.Sequential(
        nn.Conv2d(1, 12, 2), nn.BatchNorm2d(12), nn.PReLU(12), nn.Conv2d(12, 12, 3, groups=12), nn.GroupNorm(2, 12), nn.ReLU(),
        nn.Conv2d(12, 12, 1, groups=3), nn.InstanceNorm2d(12, affine=True), nn.Conv2d(12, 6, 1), nn.Flatten(),
        nn.Linear(24, 10), nn.LayerNorm(10), nn.SiLU(), nn.Linear(10, 8), nn.RMSNorm(8), nn.Linear(8, 2),
    )  # fmt: skip
    data = batches((1, 5, 5))
    plan = plan_pruning(model, mse, data, 0.6, criterion="random", compensation="none", seed=3)
    report = plan.apply()
    described = list(sizes(model))
    assert len(described) == 12 and all(attribute == actual for attribute, actual in described)
    assert all(after < before for before, after in report.widths.values())
    assert th.isfinite(model(data[0][0])).all()


def test_a_residual_network_with_batch_norm_equals_its_masked_twin():
    model, data = settled(Residual(8), (2, 4, 4)), batches((2, 4, 4), 3)
    plan = plan_pruning(model, mse, data, 0.5, criterion="random", compensation="none", seed=1)
    twin = MaskedTwin(model, plan).model
    plan.apply()
    for mode in (False, True):  # with stored statistics, and with the batch's
        model.train(mode), twin.train(mode)
        for x, _ in data:
            assert (model(x) - twin(x)).abs().max() < 1e-12
    assert model.stem.out_channels == model.second.out_channels == model.norm2.num_features < 8


def test_channels_normalised_by_themselves_equal_the_masked_twins():
    model = nn.Sequential(nn.Conv2d(1, 8, 2), nn.InstanceNorm2d(8, affine=True), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2))
    data = batches((1, 5, 5))
    plan = plan_pruning(model, mse, data, 0.4, compensation="none")
    twin = MaskedTwin(model, plan).model
    plan.apply()
    assert max((model(x) - twin(x)).abs().max() for x, _ in data) < 1e-12


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d, lambda n, affine: nn.GroupNorm(2, n, affine=affine), nn.BatchNorm2d])
def test_units_behind_a_norm_without_weights_that_mixes_them_stay_whole(norm):
    model = nn.Sequential(nn.Conv2d(1, 8, 2), norm(8, affine=False), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(64, 2))
    widths = plan_pruning(
        model, None, None, 0.4, criterion="magnitude", compensation="none", example_inputs=th.ones(1, 1, 5, 5)
    )
    assert ("0" in widths.widths_before) == (norm in (nn.InstanceNorm2d, nn.BatchNorm2d))  # each channel by itself


def test_mirrors_are_cut_at_the_same_indices_and_keep_their_modes():
    model, data = settled(Residual(6), (2, 4, 4)), batches((2, 4, 4), 3)
    mirror = copy.deepcopy(model).requires_grad_(False).train()
    with th.no_grad():
        for parameter in mirror.parameters():
            parameter.mul_(1.1)
    model.norm1.eval()
    plan = plan_pruning(model, mse, data, 0.5, mirrors=[mirror], compensation="none")
    old = {name: tensor.clone() for name, tensor in [*mirror.named_parameters(), *mirror.named_buffers()]}
    plan.apply()
    for name, tensor in [*mirror.named_parameters(), *mirror.named_buffers()]:
        assert th.equal(tensor, select(old[name], keep_index(plan.graph, name, plan.kept_units)))
        assert not tensor.requires_grad
    assert mirror.stem.out_channels == model.stem.out_channels < 6
    assert all(module.training for module in mirror.modules())
    assert model.norm0.training and not model.norm1.training


def test_statistics_of_a_mirror_in_train_mode_stay_while_it_is_compensated():
    model, data = settled(Residual(6), (2, 4, 4)), batches((2, 4, 4), 3)
    mirror = copy.deepcopy(model)
    plan = plan_pruning(model, mse, data, 0.5, mirrors=[mirror])
    old = {name: tensor.clone() for name, tensor in mirror.named_buffers()}
    plan.apply()
    for name, tensor in mirror.named_buffers():
        assert th.equal(tensor, select(old[name], keep_index(plan.graph, name, plan.kept_units)))


def test_a_mirror_that_shares_a_layer_is_cut_once():
    model, data = mlp((3, 8, 8, 2)), batches()
    mirror = copy.deepcopy(model)
    mirror[0] = model[0]
    report = plan_pruning(model, mse, data, 0.5, mirrors=[mirror]).apply()
    assert report.widths["0"][1] == len(model[0].bias) == mirror[2].in_features


@pytest.mark.parametrize("other", [mlp((3, 5, 2)), None, "self", 3])
def test_a_mirror_of_another_structure_is_refused(other):
    model = mlp((3, 4, 2))
    with pytest.raises(PruningError, match="mirror|Expected a torch.nn.Module"):
        plan_pruning(model, mse, batches(), 0.5, mirrors=[model if other == "self" else other])


def test_recurrent_weights_are_cut_along_both_axes():
    shared = nn.Linear(6, 6)
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(6, 2))
    data = batches()
    plan = plan_pruning(model, mse, data, 0.5, compensation="none")
    twin = MaskedTwin(model, plan).model
    plan.apply()
    assert shared.in_features == shared.out_features == shared.weight.shape[0] == shared.weight.shape[1] < 6
    assert (model(data[0][0]) - twin(data[0][0])).abs().max() < 1e-12


def test_integer_and_boolean_buffers_by_unit_are_cut():
    model = Calls(lambda m, x: m.b(th.tanh(m.a(x)) * m.mask * m.place), a=nn.Linear(3, 6), b=nn.Linear(6, 2))
    model.register_buffer("mask", th.arange(6) != 2)
    model.register_buffer("place", th.arange(6))
    data = batches()
    plan = plan_pruning(model, mse, data, 0.5, compensation="none", criterion="random")
    twin = MaskedTwin(model, plan).model
    plan.apply()
    assert model.place.tolist() == list(plan.keep["a"]) and model.mask.dtype == th.bool
    assert (model(data[0][0]) - twin(data[0][0])).abs().max() < 1e-12


def test_a_transaction_undoes_in_reverse_and_only_on_error():
    tensor, mapping, owner = nn.Parameter(th.ones(3)), {"a": 1}, nn.Linear(2, 2)
    tensor.grad = th.ones(3)
    called = []
    for fails in (True, False):
        try:
            with Transaction() as transaction:
                transaction.set_data(tensor, th.zeros(2))
                transaction.set_data(tensor, th.zeros(1))
                transaction.set_item(mapping, "a", 2)
                transaction.set_item(mapping, "b", 3)
                transaction.set_attribute(owner, "in_features", 9)
                transaction.call(lambda fails=fails: called.append(fails))
                assert tensor.grad is None and len(tensor) == 1
                if fails:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            assert th.equal(tensor, th.ones(3)) and th.equal(tensor.grad, th.ones(3))
            assert mapping == {"a": 1} and owner.in_features == 2
    assert called == [True] and mapping == {"a": 2, "b": 3} and owner.in_features == 9 and len(tensor) == 1


def test_select():
    tensor = th.arange(12).reshape(3, 4)
    assert select(tensor, {0: np.array([2]), 1: np.array([0, 3])}).tolist() == [[8, 11]]
