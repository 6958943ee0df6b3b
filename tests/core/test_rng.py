import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch as th
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.prune import plan_pruning, prune_model
from rl_crop.core.rng import eval_mode, isolated_rng, undisturbed
from tests.zoo.networks import batches, mlp, mse
from tests.zoo.snapshots import same


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


class Stubborn(nn.Linear):
    """Refuses evaluation mode."""

    def train(self, mode=True):
        if not mode:
            raise RuntimeError("no evaluation mode")
        return super().train(mode)


def test_modes_come_back_where_evaluation_mode_is_refused_while_planning():
    model = nn.Sequential(nn.Dropout(), Stubborn(2, 2), nn.Dropout())
    generators = draw_nothing()
    with pytest.raises((RuntimeError, PruningError), match="no evaluation mode"):
        plan_pruning(model, mse, batches((2,), 2), 0.5, structured=False)
    assert all(module.training for module in model.modules()) and draw_nothing() == generators


def draw_nothing():
    """Where every generator stands."""
    return random.getstate(), np.random.get_state()[1].tolist(), th.get_rng_state().tolist()


@pytest.mark.parametrize("shared", [True, False])
def test_threads_that_plan_at_once_leave_generators_and_modes_and_find_the_same(shared):
    models = [nn.Sequential(nn.Linear(3, 8), nn.Dropout(), nn.ReLU(), nn.Linear(8, 2)) for _ in range(1 if shared else 4)]
    data, criteria = batches(n=16), ["random", "crop", "span", "synflow"]

    def plan(number):
        model = models[number % len(models)]
        return plan_pruning(model, mse, data, 0.5, criterion=criteria[number % 4], seed=number).keep

    alone, generators = [plan(number) for number in range(8)], draw_nothing()
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(plan, range(8)))
    assert draw_nothing() == generators and all(module.training for model in models for module in model.modules())
    assert all(same(one, other) for one, other in zip(alone, together, strict=True))


def test_threads_that_prune_one_model_at_once_do_so_one_after_the_other():
    model = mlp((3, 16, 2))
    optimizer = th.optim.Adam(model.parameters())
    plans = [plan_pruning(model, mse, batches(), 0.5, optimizers=[optimizer], seed=seed) for seed in range(3)]

    def apply(plan):
        try:
            return plan.apply().n_params_after
        except PruningError as error:
            return str(error)

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(apply, plans))
    assert sum(isinstance(each, int) for each in found) == 1, found
    with ThreadPoolExecutor(4) as threads:
        shares = list(
            threads.map(lambda n: prune_model(model, mse, batches(), 0.2, optimizers=[optimizer]).sparsity, range(2))
        )
    assert len(shares) == 2
    mse(model, batches()[0]).backward()
    optimizer.step()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_process_forked_while_another_thread_plans_does_not_wait_for_it():
    inside, leave = threading.Event(), threading.Event()

    def occupy():
        with isolated_rng(0):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=occupy)
    thread.start()
    inside.wait(10)
    child = os.fork()
    if child == 0:
        with isolated_rng(0):
            os._exit(0)
    try:
        deadline = time.monotonic() + 10
        while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert done == (child, 0)
    finally:
        leave.set()
        thread.join()


def test_statistics_come_back_in_their_own_memory():
    norm = th.nn.BatchNorm1d(3)
    view = norm.state_dict()["running_mean"]  # as TD3 keeps them
    with undisturbed(norm, training=True):
        norm(th.randn(8, 3) + 5.0)
        assert bool((view != 0).all())
    assert bool((view == 0).all()) and view.data_ptr() == norm.running_mean.data_ptr()
