"""Data parallelism: a module whose ranks would drift apart after a cut is refused, wrapped or not."""

import copy

import pytest
import torch as th
import torch.distributed as dist
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.prune import prune_model
from tests.zoo.networks import batches, mlp, mse
from tests.zoo.snapshots import same, state

SETTINGS = {"criterion": "magnitude", "compensation": "none"}


@pytest.fixture
def group(tmp_path):
    """A group of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def wrapped(model):
    return nn.parallel.DistributedDataParallel(model)


HELD = {
    "the wrapper": lambda model, wrapper: wrapper,
    "the module within": lambda model, wrapper: model,
    "a module around the wrapper": lambda model, wrapper: nn.Sequential(wrapper, nn.Linear(2, 2)),
    "a part of what is wrapped": lambda model, wrapper: model[:3],
    "a compiled wrapper": lambda model, wrapper: th.compile(wrapper, backend="eager"),
}


@pytest.mark.parametrize("what", HELD)
def test_what_is_replicated_is_refused_and_left_as_it_was(group, what):
    model = mlp((3, 8, 8, 2))
    wrapper = wrapped(model)
    asked, before = HELD[what](model, wrapper), state(model)
    with pytest.raises(PruningError, match="DistributedDataParallel"):
        prune_model(asked, None, [x for x, _ in batches()], 0.5, **SETTINGS)
    assert same(before, state(model))


def test_a_mirror_that_is_replicated_is_refused(group):
    model = mlp((3, 8, 2))
    mirror = copy.deepcopy(model)
    wrapper = wrapped(mirror)
    with pytest.raises(PruningError, match="DistributedDataParallel"):
        prune_model(model, None, [x for x, _ in batches()], 0.5, mirrors=[wrapper.module], **SETTINGS)


def test_the_module_is_cut_once_its_wrapper_is_gone_and_others_do_no_harm(group):
    model, other = mlp((3, 8, 2)), wrapped(mlp((3, 4, 2)))
    wrapper = wrapped(model)
    del wrapper
    prune_model(model, None, [x for x, _ in batches()], 0.5, **SETTINGS)
    again = wrapped(model)
    mse(again, batches()[0]).backward()
    assert model[0].weight.grad.shape == model[0].weight.shape == (4, 3) and other.module[0].out_features == 4
