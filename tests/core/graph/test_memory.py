"""Tensors whose memory is somebody else's too, and tensors that are no plain real matrices: left whole, with the reason."""

import pytest
import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.prune import plan_pruning, prune_model
from tests.zoo.networks import Calls, batches, mlp, mse
from tests.zoo.snapshots import same, state


def transposed(model):
    model[4].weight.data = model[2].weight.data.t()


def exchanged(model):
    model[4].weight.data = model[2].weight.data


def viewed(model):
    both = th.randn(2, 8, 8)
    model[2].weight.data, model[4].weight.data = both[0], both[1]


def flat(model):
    vector = nn.utils.parameters_to_vector(model.parameters()).detach()
    nn.utils.vector_to_parameters(vector, model.parameters())
    return vector


def beside(model):
    model.register_buffer("alias", model[2].weight.data)


def part(model):
    model[2].weight.data = th.randn(8, 12)[:, :8]


def process_shared(model):
    model[2].weight.data.share_memory_()


PARTLY = {"transposed": transposed, "exchanged": exchanged, "alias": beside, "part": part, "process": process_shared}
WHOLLY = {"flat": flat, "views": viewed, "all shared": lambda model: model.share_memory()}


def deep():
    return mlp((3, 8, 8, 8, 8, 6, 2))


@pytest.mark.parametrize("kind", [*PARTLY, *WHOLLY])
def test_shared_memory_stays_shared(kind):
    model, data = deep(), batches()
    kept = (PARTLY | WHOLLY)[kind](model)
    shared = [model[2].weight, *([model[4].weight] if kind in ("transposed", "exchanged", "views") else [])]
    pointers = [parameter.data_ptr() for parameter in shared]
    before = state(model)
    if kind in ("flat", "all shared"):
        with pytest.raises(PruningError, match="no layer whose units can be removed .*memory"):
            prune_model(model, mse, data, 0.3)
        assert same(before, state(model))
        if kind == "flat":
            kept += 1.0
            assert th.equal(model[0].weight.flatten(), kept[:24])
        return
    report = prune_model(model, mse, data, 0.2)
    assert "memory" in report.untouched["2"] or "part of a larger" in report.untouched["2"]
    assert [parameter.data_ptr() for parameter in shared] == pointers
    mse(model, data[0]).backward()


def test_a_mirror_that_shares_memory_with_the_model_keeps_sharing_it():
    model, mirror, data = deep(), deep(), batches()
    mirror[2].weight.data = model[2].weight.data
    report = prune_model(model, mse, data, 0.2, mirrors=[mirror])
    assert "2" in report.untouched and model[2].weight.data_ptr() == mirror[2].weight.data_ptr()


def test_one_parameter_in_two_places_is_no_shared_memory():
    model, data = deep(), batches()
    model[4].weight = model[2].weight
    assert "2" not in prune_model(model, mse, data, 0.3).untouched


def complex_network(second=th.cfloat):
    kinds = {"a": nn.Linear(3, 8, dtype=th.cfloat), "b": nn.Linear(8, 6, dtype=th.cfloat), "c": nn.Linear(6, 2)}
    kinds |= {"d": nn.Linear(2, 6), "e": nn.Linear(6, 2)}
    return Calls(
        lambda m, x: m.e(th.tanh(m.d(m.c(th.tanh(m.b(th.tanh(m.a(x.to(th.cfloat))))).abs())))), **kinds
    ).float()  # fmt: skip


@pytest.mark.parametrize("criterion", ["crop", "snip", "magnitude", "span_crop"])
@pytest.mark.parametrize("compensation", ["none", "least_squares", "distill"])
def test_complex_layers_are_whole_and_the_real_ones_beside_them_are_cut(criterion, compensation):
    th.manual_seed(0)
    model = complex_network()
    model.a, model.b = nn.Linear(3, 8, dtype=th.cfloat), nn.Linear(8, 6, dtype=th.cfloat)
    data = [(x.float(), y.float()) for x, y in batches()]
    report = prune_model(model, mse, data, 0.4, criterion=criterion, compensation=compensation)
    assert set(report.widths) == {"c", "d"} and "complex" in report.untouched["a"] and "complex" in report.untouched["b"]
    assert model.a.weight.is_complex() and bool(model.b.weight.imag.any())


def test_sparse_weights_are_left_whole():
    model, data = mlp((3, 8, 8, 2)), batches()
    model.register_buffer("sparse", th.eye(3).to_sparse())
    assert set(prune_model(model, mse, data, 0.3).widths) == {"0", "2"}


FORMATS = {"channels_last": (nn.Conv2d, th.channels_last), "channels_last_3d": (nn.Conv3d, th.channels_last_3d)}


@pytest.mark.parametrize("compensation", ["none", "bias", "least_squares", "distill"])
@pytest.mark.parametrize("name", FORMATS)
def test_the_memory_format_is_kept_with_optimizer_state_and_mirrors(name, compensation):
    kind, memory_format = FORMATS[name]
    dims = 2 if kind is nn.Conv2d else 3

    def build():
        layers = [kind(3, 8, 2), nn.ReLU(), kind(8, 8, 1), nn.ReLU(), kind(8, 4, 2, groups=2)]
        network = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(2))
        network(x)
        return network.to(memory_format=memory_format)

    x = th.randn(4, 3, *[5] * dims).to(memory_format=memory_format)
    model, mirror = build(), build()
    data = [(x, th.randn(4, 2))]
    optimizer = th.optim.Adam(model.parameters())
    mse(model, data[0]).backward()
    optimizer.step()
    prune_model(model, mse, data, 0.4, compensation=compensation, optimizers=[optimizer], mirrors=[mirror])
    tensors = [p for network in (model, mirror) for p in network.parameters()]
    tensors += [value for entry in optimizer.state.values() for value in entry.values()]
    checked = [t.is_contiguous(memory_format=memory_format) for t in tensors if t.dim() == dims + 2]
    assert all(checked) and len(checked) >= 6


def test_a_plan_says_why_at_once():
    model = deep()
    transposed(model)
    assert "shares its memory with 4.weight" in str(plan_pruning(model, mse, batches(), 0.2))


def test_exported_modules_are_refused():
    exported = th.export.export(mlp((3, 8, 2)), (th.randn(4, 3),)).module()
    holder = nn.Sequential(nn.Linear(3, 3), exported, nn.Linear(2, 2))
    for model in (exported, holder):
        with pytest.raises(PruningError, match="torch.export"):
            prune_model(model, None, [th.randn(4, 3)], 0.3, criterion="magnitude", compensation="none")
        assert all(module.training for module in (holder, holder[0], holder[2]))
    assert F.relu(holder(th.randn(4, 3))).shape == (4, 2)
