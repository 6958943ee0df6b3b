"""Calls that move units about, and calls after which they cannot be cut, in networks that are really cut."""

import copy

import pytest
import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.prune import plan_pruning
from tests.zoo.networks import Calls, batches, mse
from tests.zoo.oracles import MaskedTwin

FOLLOWED = {
    "flatten": lambda h: h.flatten(1),
    "view": lambda h: h.view(len(h), -1),
    "reshape with its size": lambda h: h.reshape(h.shape[0], h.shape[1] * h.shape[2]),
    "transposed first": lambda h: h.transpose(1, 2).flatten(1),
    "permute": lambda h: h.permute(0, 2, 1).reshape(len(h), -1),
    "unsqueeze and squeeze": lambda h: h.unsqueeze(1).squeeze(1).flatten(1),
    "cat with inputs": lambda h: th.cat([th.ones(len(h), 3), h.flatten(1)], 1),
    "cat with integers": lambda h: th.cat([th.arange(2).expand(len(h), 2), h.flatten(1)], 1),
    "stack": lambda h: th.stack([h, 2 * h], 1).flatten(1),
    "repeat": lambda h: h.flatten(1).repeat(1, 2),
    "repeat_interleave": lambda h: h.flatten(1).repeat_interleave(2, dim=1),
    "expand": lambda h: h.mean(2, keepdim=True).expand(-1, -1, 4).flatten(1),
    "flip": lambda h: h.flip(1).flatten(1),
    "one position": lambda h: h[:, :, 2],
    "some positions": lambda h: h[..., [0, 2]].flatten(1),
    "chosen rows": lambda h: h[th.arange(len(h))].flatten(1),
    "chunks of positions": lambda h: th.cat(h.chunk(2, dim=2), 2).flatten(1),
    "chunks of units": lambda h: th.cat(h.chunk(3, dim=1)[::-1], 1).flatten(1),
    "split positions": lambda h: h.split(3, dim=2)[1].flatten(1),
    "shift positions": lambda h: h.roll(1, 2).flatten(1),
    "padded positions": lambda h: F.pad(h, (1, 2)).flatten(1),
    "pooled": lambda h: F.avg_pool1d(h, 2).flatten(1),
    "pooled by keyword": lambda h: F.max_pool1d(h, kernel_size=2).flatten(1),
    "adaptive pool": lambda h: F.adaptive_max_pool1d(h, 1).flatten(1),
    "resized": lambda h: F.interpolate(h, scale_factor=2).flatten(1),
    "mean": lambda h: h.mean(-1),
    "sum over keyword": lambda h: h.sum(dim=2),
    "mask of its own": lambda h: (h * (h > 0.1).reshape(len(h), -1, 4)).flatten(1),
    "where": lambda h: th.where(h > 0, h, th.zeros_like(h)).flatten(1),
    "in place": lambda h: h.clone().mul_(2).add_(h).flatten(1),
    "cast": lambda h: h.float().double().flatten(1),
}
WHOLE = {
    "one unit": lambda h: h[:, 2:3].flatten(1) + h.mean((1, 2)).unsqueeze(1),
    "negative place": lambda h: th.cat([h[:, -1], h.flatten(1)], 1),
    "indices": lambda h: h[:, [3, 1, 0]].flatten(1),
    "narrow": lambda h: h.narrow(1, 1, 2).flatten(1),
    "select": lambda h: h.select(1, 0),
    "index_select": lambda h: h.index_select(1, th.tensor([0, 2])).flatten(1),
    "split": lambda h: h.split([2, 4], dim=1)[1].flatten(1),
    "unbind": lambda h: th.cat(h.unbind(1), 1),
    "roll": lambda h: h.roll(1, 1).flatten(1),
    "repeats by unit": lambda h: h.repeat_interleave(th.tensor([1, 2, 1, 1, 1, 1]), dim=1).flatten(1),
    "unequal chunks": lambda h: h.repeat(1, 3, 1).chunk(4, dim=1)[0].flatten(1),
    "padded units": lambda h: F.pad(h, (0, 0, 1, 0)).flatten(1),
    "softmax": lambda h: h.softmax(1).flatten(1),
    "sorted": lambda h: h.sort(1)[0].flatten(1),
    "cumulated": lambda h: h.cumsum(1).flatten(1),
    "summed": lambda h: h.sum(1),
    "pooled over units": lambda h: F.avg_pool1d(h.transpose(1, 2), 3, 1, 1).flatten(1),
    "mixed with its transpose": lambda h: h[:, :4] + h[:, :4].transpose(1, 2),
    "unfolded": lambda h: h.unflatten(1, (2, 3)).flatten(1),
    "matrix product": lambda h: th.matmul(h.transpose(1, 2), th.ones(6, 2)).flatten(1),
    "written over": lambda h: _overwritten(h).flatten(1),
    "through numpy": lambda h: th.from_numpy(h.detach().numpy()).flatten(1),
    "complex": lambda h: th.fft.fft(h, dim=1).real.flatten(1),
}


def _overwritten(h):
    h = h.clone()
    h[:, 0] = 0.0
    return h


def model_with(move):
    """Six channels of four positions, moved, and read by a linear layer."""
    first = nn.Conv1d(1, 6, 2)
    with th.no_grad():
        width = move(first(th.randn(2, 1, 5))).flatten(1).shape[1]
    return Calls(lambda m, x: m.b(move(th.tanh(m.a(x))).flatten(1)), a=first, b=nn.Linear(width, 2))


@pytest.mark.parametrize("name", FOLLOWED)
def test_units_are_followed(name):
    model, data = model_with(FOLLOWED[name]), batches((1, 5))
    plan = plan_pruning(model, mse, data, 0.5, compensation="none", budget="units", seed=1, criterion="random")
    twin = MaskedTwin(model, plan).model
    plan.apply()
    assert model.a.out_channels == 3
    for x, _ in data:
        assert (model(x) - twin(x)).abs().max() < 1e-12


@pytest.mark.parametrize("name", WHOLE)
def test_units_that_are_mixed_or_picked_by_place_stay_whole(name):
    model, data = model_with(WHOLE[name]), batches((1, 5))
    weight = copy.deepcopy(model.a.weight)
    with pytest.raises(PruningError, match="no layer whose units can be removed .*a: "):
        plan_pruning(model, None, data, 0.5, criterion="random", compensation="none")
    assert th.equal(weight, model.a.weight)


def test_a_size_written_into_the_forward_pass_is_found_when_planning():
    model, data = model_with(lambda h: h.view(-1, 24)), batches((1, 5))
    with pytest.raises(PruningError, match="no layer .*a: the forward pass expects its width"):
        plan_pruning(model, mse, data, 0.5)
    assert model.a.weight.shape[0] == model.a.out_channels == 6 and model.b.weight.shape[1] == 24
