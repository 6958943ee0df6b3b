import random

import numpy as np
import pytest
import torch as th
from torch import nn

from rl_crop.core.rng import eval_mode, isolated_rng, undisturbed


def draw():
    return random.random(), np.random.rand(), th.rand(1).item()


def test_generators_are_put_back_also_after_an_error():
    before = random.getstate(), np.random.get_state()[1].tolist(), th.get_rng_state()
    for seed in (None, 3, 2**40):
        with pytest.raises(KeyError), isolated_rng(seed):
            draw()
            raise KeyError
        after = random.getstate(), np.random.get_state()[1].tolist(), th.get_rng_state()
        assert before[:2] == after[:2] and th.equal(before[2], after[2])


def test_a_seed_decides_and_none_goes_on_from_where_they_stand():
    with isolated_rng(3):
        first = draw()
    with isolated_rng(3):
        assert draw() == first
    with isolated_rng(None):
        ahead = draw()
    assert draw() == ahead != first


def test_every_module_gets_its_own_mode_back():
    first, second = nn.Sequential(nn.Dropout(), nn.Linear(2, 2)), nn.Sequential(nn.Dropout())
    first[0].eval(), second.eval(), second[0].train()
    with pytest.raises(KeyError), eval_mode(first, second):
        assert not any(module.training for root in (first, second) for module in root.modules())
        raise KeyError
    assert [m.training for m in first.modules()] == [True, False, True]
    assert [m.training for m in second.modules()] == [False, True]


def test_buffers_get_their_contents_and_objects_back():
    model = nn.Sequential(nn.BatchNorm1d(2))
    model.register_buffer("steps", th.zeros(()))
    model.register_buffer("last", th.full((2,), float("nan")))
    model.register_buffer("none", None)
    identities = [id(buffer) for buffer in model.buffers()]
    with pytest.raises(KeyError), undisturbed(model):
        model[0].train()(th.randn(5, 2) + 3)
        model.steps += 1
        model.last = th.ones(3)
        model.none = th.ones(1)
        raise KeyError
    assert [id(buffer) for buffer in model.buffers()] == identities and model.training
    assert model.steps == 0 and model.last.isnan().all() and not model[0].running_mean.any()


def test_attributes_that_a_forward_pass_sets_are_put_back():
    class Counting(nn.Module):
        def forward(self, x):
            self.n_calls += 1
            self.last = x
            return x

    model = nn.Sequential(Counting())
    model[0].n_calls = 0
    with undisturbed(model, training=True):
        assert model[0].training
        model(th.ones(1))
        assert model[0].n_calls == 1
    assert model[0].n_calls == 0 and not hasattr(model[0], "last")


def test_a_module_without_an_evaluation_mode_is_left_as_it_was():
    class Odd(nn.Module):
        def train(self, mode=True):
            raise NotImplementedError

    model = nn.Sequential(nn.Linear(1, 1), Odd())
    with pytest.raises(NotImplementedError), eval_mode(model):
        pass
    assert all(module.training for module in model.modules())
