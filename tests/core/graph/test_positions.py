"""Calls that mix rows or positions, and leave units apart: units are cut exactly; where units are mixed they stay whole."""

import pytest
import torch as th
from torch import nn

from rl_crop.core.errors import PruningError
from tests.zoo.networks import Calls, batches, mse
from tests.zoo.outcomes import widths_of_exact_cut

INDEX = th.tensor([2, 0, 1, 1])
MIX = th.tensor([[0.2, 0.8, 0, 0], [0, 1, 0, 0], [0.5, 0, 0.5, 0], [0.1, 0.2, 0.3, 0.4]])


def spread(h, index=INDEX):
    return index[None, :, None].expand_as(h)


FOLLOWED = {
    "maximum over steps": lambda h: h.max(1).values,
    "minimum by keyword": lambda h: h.min(dim=1)[0],
    "larger of two": lambda h: th.max(h, 0.5 * h).mean(1),
    "median": lambda h: h.median(1)[0],
    "logsumexp": lambda h: h.logsumexp(1),
    "product": lambda h: h.prod(1),
    "variance": lambda h: h.var(1, unbiased=False),
    "norm over steps": lambda h: h.norm(dim=1),
    "cumulative sum": lambda h: h.cumsum(1)[:, -2],
    "attention over steps": lambda h: (h.softmax(1) * h).sum(1),
    "sorted steps": lambda h: h.sort(dim=1).values[:, 0],
    "largest steps": lambda h: h.topk(2, dim=1).values.mean(1),
    "index_add": lambda h: th.zeros_like(h).index_add(1, INDEX, h).tanh().mean(1),
    "index_add to new zeros": lambda h: th.zeros(len(h), 3, h.shape[2], dtype=h.dtype).index_add(1, INDEX, h).tanh().sum(1),
    "scatter_add": lambda h: h.new_zeros(h.shape).scatter_add(1, spread(h), h).tanh().sum(1),
    "scatter_reduce": lambda h: h.new_zeros(h.shape).scatter_reduce(1, spread(h), h, "amax", include_self=False).sum(1),
    "gather": lambda h: h.gather(1, spread(h)).tanh().sum(1),
    "mixed from the left": lambda h: (MIX.to(h) @ h).tanh().mean(1),
    "batched product": lambda h: th.bmm(MIX.to(h).expand(len(h), 4, 4), h).tanh().mean(1),
    "sparse product": lambda h: th.sparse.mm(MIX.to(h).to_sparse(), h[0]).tanh().mean(0).expand(len(h), -1),
    "ones of its size": lambda h: (h * th.ones(h.shape[-1], dtype=h.dtype)).mean(1),
}
MIXED = {
    "softmax over units": lambda h: h.softmax(-1).mean(1),
    "maximum over units": lambda h: h.mean(1) - h.max(-1).values.mean(1, keepdim=True),
    "sorted units": lambda h: h.mean(1).sort(-1).values,
    "cumulative sum over units": lambda h: h.mean(1).cumsum(-1),
    "mixed from the right": lambda h: h.mean(1) @ th.ones(6, 6, dtype=h.dtype),
    "scattered units": lambda h: h.mean(1).scatter(1, th.zeros(len(h), 1, dtype=th.int64), 1.0),
    "numbers of its size": lambda h: (h * th.arange(h.shape[-1]).to(h)).mean(1),
}


def model(middle):
    return Calls(lambda m, x: m.b(middle(th.tanh(m.a(x)))), a=nn.Linear(3, 6), b=nn.Linear(6, 2))


@pytest.mark.parametrize("kind", FOLLOWED)
def test_units_stay_apart(kind):
    widths, plan = widths_of_exact_cut(model(FOLLOWED[kind]), mse, batches((4, 3)))
    assert widths == {"a": (6, 3)}, plan


@pytest.mark.parametrize("kind", MIXED)
def test_units_are_mixed(kind):
    widths, error = widths_of_exact_cut(model(MIXED[kind]), mse, batches((4, 3)))
    assert widths is None and isinstance(error, PruningError) and "a: " in str(error)
