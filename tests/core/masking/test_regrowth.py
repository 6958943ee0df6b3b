import math

import pytest
import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.masking.regrowth import drop_and_grow, regrown_share
from rl_crop.core.recipes.drivers import run_recipe
from rl_crop.core.recipes.engine import PruningEngine
from rl_crop.core.recipes.recipe import Recipe
from rl_crop.core.recipes.registry import RECIPES
from tests.zoo.networks import batches, mlp
from tests.zoo.tasks import SmallTask, watch_changes


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 1.0])
def test_as_many_grow_as_are_dropped_and_the_right_ones(share):
    generator = th.Generator().manual_seed(1)
    shapes = {"a": (6, 5), "b": (4, 3, 2)}
    keep = {name: th.rand(shape, generator=generator) < 0.5 for name, shape in shapes.items()}
    magnitude = {name: th.rand(shape, generator=generator) for name, shape in shapes.items()}
    growth = {name: th.rand(shape, generator=generator) for name, shape in shapes.items()}
    found = drop_and_grow(keep, magnitude, growth, share)
    for name, mask in found.items():
        n = min(round(share * int(keep[name].sum())), int((~keep[name]).sum()))
        dropped = sorted(magnitude[name][keep[name]].tolist())[:n]
        stay = keep[name] & ~th.isin(magnitude[name], th.tensor(dropped))
        grown = sorted(growth[name][~stay].tolist(), reverse=True)[:n]
        assert th.equal(mask, stay | (~stay & th.isin(growth[name], th.tensor(grown))))
        assert mask.sum() == keep[name].sum()


def test_the_share_falls_along_half_a_cosine():
    assert regrown_share(0.3, 0.0, 0.0) == 0.3 and regrown_share(0.5, 0.005, 1.0) == pytest.approx(0.005)
    assert regrown_share(0.3, 0.0, 0.5) == pytest.approx(0.15)
    assert regrown_share(0.3, 0.0, 0.25) == pytest.approx(0.15 * (1 + math.cos(math.pi / 4)))


def task(steps=60):
    return SmallTask(mlp((6, 24, 16, 3)), batches((6,), 3, n=16, count=4), steps=steps)


def faster(name):
    recipe = RECIPES[name]
    return Recipe(**{**vars(recipe), "options": {**recipe.options, "every": 5}})


@pytest.mark.parametrize("name", ["rigl", "set"])
def test_dynamic_masks_keep_the_count_of_every_layer_while_they_move(name, monkeypatch):
    seen = watch_changes(monkeypatch)
    run_recipe(task(), faster(name), 0.8)
    counts = [{key: int(mask.sum()) for key, mask in masks.items()} for _, masks in seen]
    moved = [
        any(not th.equal(m, later[key]) for key, m in masks.items())
        for (_, masks), (_, later) in zip(seen, seen[1:], strict=False)
    ]
    assert len(seen) > 5 and all(count == counts[0] for count in counts) and sum(moved) >= 4
    assert len({count / seen[0][1][key].numel() for key, count in counts[0].items()}) > 1  # ERK, not uniform


def test_rigl_grows_where_the_dense_gradient_is_largest():
    small = task()
    recipe = faster("rigl")
    run = PruningEngine(recipe, 0.8, small.subject)
    run.update(0.0, lambda: small.data)
    before = {name: mask.clone() for name, mask in run.masks.keep.items()}
    small.train(0.2)
    model = small.model
    model.zero_grad()
    gradient = th.autograd.grad(sum(small.loss(model, batch) for batch in small.data), list(run.weights.tensors.values()))
    run.update(0.2, lambda: small.data)
    for (name, mask), g in zip(run.masks.keep.items(), gradient, strict=True):
        new = mask & ~before[name]
        outside = ~mask & ~before[name]
        assert new.any() and float(g.abs()[new].min()) >= float(g.abs()[outside].max())


def test_what_is_regrown_starts_at_zero_with_fresh_moments():
    small = task()
    run = PruningEngine(faster("set"), 0.8, small.subject)
    run.update(0.0, lambda: small.data)
    before = {name: mask.clone() for name, mask in run.masks.keep.items()}
    small.train(0.2)
    run.update(0.2, lambda: small.data)
    for name, weight in run.weights.tensors.items():
        new = run.masks.keep[name] & ~before[name]
        moments = small.optimizers[0].state[weight]
        assert new.any() and not weight[new].any()
        assert not moments["exp_avg"][new].any() and not moments["exp_avg_sq"][new].any()
        assert weight[run.masks.keep[name] & before[name]].all()
    small.train(0.1)
    assert all(w[run.masks.keep[n] & ~before[n]].any() for n, w in run.weights.tensors.items())  # and it learns


def test_granet_becomes_sparser_by_a_cubic_while_it_regrows(monkeypatch):
    seen = watch_changes(monkeypatch)
    run_recipe(task(), faster("granet"), 0.9)
    total = sum(mask.numel() for mask in seen[0][1].values())
    sparse = [1 - sum(int(mask.sum()) for mask in masks.values()) / total for _, masks in seen]
    assert sparse == pytest.approx([0.9 + (0.5 - 0.9) * max(1 - 2 * x, 0) ** 3 for x, _ in seen], abs=1 / total + 1e-9)
    returned = [
        any(bool((later[k] & ~m).any()) for k, m in masks.items())
        for (_, masks), (_, later) in zip(seen, seen[1:], strict=False)
    ]
    assert any(returned) and seen[-1][0] == 1.0 and sparse[-1] == pytest.approx(0.9, abs=1 / total)
    shares = {mask.float().mean().item() for mask in seen[0][1].values()}
    assert len(shares) > 1  # begins with ERK densities


def exchanges(name, monkeypatch, sparsity=0.8):
    """By share of the run, the share of the kept weights that the change before the next one brought back."""
    seen = watch_changes(monkeypatch)
    run_recipe(task(120), faster(name), sparsity)
    found = []
    for (_, masks), (x, later) in zip(seen, seen[1:], strict=False):
        grown = sum(int((mask & ~masks[key]).sum()) for key, mask in later.items())
        found.append((x, grown / sum(int(mask.sum()) for mask in masks.values())))
    return found


def test_granet_exchanges_by_its_cosine_until_the_last_step_and_nothing_after_it(monkeypatch):
    """Only becoming sparser ends at half of the run; its share falls from 0.5 to 0.005 over the whole of it."""
    found = exchanges("granet", monkeypatch)
    assert max(x for x, grown in found if grown) > 0.9 and found[-1] == (1.0, 0.0)  # what grows at the end never trains
    middle = [grown for x, grown in found if 0.5 < x < 0.7]
    assert min(middle) > 0.02 and sum(grown for x, grown in found if x < 0.5) > sum(grown for x, grown in found if x > 0.5)
    assert all(grown <= regrown_share(0.5, 0.005, x) + 0.02 for x, grown in found)


def test_granet_has_its_sparsity_from_the_middle_on(monkeypatch):
    seen = watch_changes(monkeypatch)
    run_recipe(task(100), faster("granet"), 0.9)
    sparse = [(x, 1 - sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())) for x, masks in seen]
    assert all(share < 0.8995 for x, share in sparse if x < 0.45) and all(
        abs(share - 0.9) < 0.003 for x, share in sparse if x >= 0.5
    )


def test_set_exchanges_the_same_share_at_every_move_until_the_end(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "rl_crop.core.recipes.strategies.drop_and_grow",
        lambda keep, worth, growth, share: asked.append(share) or drop_and_grow(keep, worth, growth, share),
    )
    found = exchanges("set", monkeypatch)
    assert len(asked) > 15 and set(asked) == {0.3}
    assert found[-2][0] > 0.9 and found[-2][1] > 0.1 and found[-1] == (1.0, 0.0)


@pytest.mark.parametrize("reached", [0.0, -1.0, 1.5])
def test_a_share_that_is_none_is_refused(reached):
    with pytest.raises(PruningError, match="reached=.*must be in"):
        Recipe(**{**vars(RECIPES["gmp"]), "options": {"reached": reached}})
