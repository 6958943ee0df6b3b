"""What becomes of the losers."""

import copy

import pytest
import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.masking.masks import Masks
from rl_crop.core.pruning.planning import make_plan
from rl_crop.core.pruning.settings import Settings
from rl_crop.core.recipes.drivers import run_recipe
from rl_crop.core.recipes.engine import PruningEngine
from rl_crop.core.recipes.recipe import Recipe
from rl_crop.core.recipes.registry import RECIPES
from rl_crop.core.recipes.strategies import multiply, unit_keep
from tests.zoo.long import and_long
from tests.zoo.networks import batches, cnn, mlp
from tests.zoo.snapshots import same, state
from tests.zoo.tasks import SmallTask, watch_changes


def task(steps=60, optimizer=th.optim.Adam, lr=0.01):
    return SmallTask(mlp((6, 24, 16, 3)), batches((6,), 3, n=16, count=4), steps=steps, optimizer=optimizer, lr=lr)


def changed(name, **parts):
    recipe = RECIPES[name]
    options = {**recipe.options, **parts.pop("options", {})}
    return Recipe(**{**vars(recipe), **parts, "options": options})


def weights_of(small):
    return {name: p for name, p in small.model.named_parameters() if p.dim() > 1}


OPTIMIZERS = [(th.optim.Adam, 0.01), (th.optim.SGD, 0.05), (th.optim.RMSprop, 0.01)]


@pytest.mark.parametrize("optimizer, lr", OPTIMIZERS, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("name", ["greg_1", "greg_2"])
def test_a_growing_penalty_drives_losers_to_zero_under_any_optimizer(name, optimizer, lr):
    """Just before the cut the losers are far below the others, and the moments hold nothing of the penalty."""
    small, norms = task(100, optimizer, lr), []
    run = PruningEngine(changed(name, when=0.1, until=0.9, options={"every": 1}), 0.8, small.subject)
    run.update(0.0, lambda: small.data)

    def after_step(progress):
        if 0.85 < progress < 0.9:
            keep = run.strategy.keep
            losers = th.cat([p.detach()[~keep[n]].abs() for n, p in small.model.named_parameters() if n in keep])
            kept = th.cat([p.detach()[keep[n]].abs() for n, p in small.model.named_parameters() if n in keep])
            norms.append((losers.max().item(), kept.mean().item()))
        run.update(progress, lambda: small.data)

    dense = None
    for progress in range(1, 101):
        small.train(0.01)
        if progress == 89:
            before = [small.loss(small.model, batch).item() for batch in small.data]
        after_step(progress / 100)
        if progress == 90:
            dense = [small.loss(small.model, batch).item() for batch in small.data]
    report = run.finish(lambda: small.data)
    assert norms and all(loser < 0.15 * kept for loser, kept in norms)
    assert small.model[0].out_features < 24 and report.sparsity["total"] >= 0.8
    assert sum(dense) < 1.2 * sum(before)  # the cut takes away what has already gone


@pytest.mark.parametrize("steps", and_long([100], [3000]))
def test_losers_shrink_by_the_share_of_the_phase_in_a_run_of_any_length(steps):
    """Nothing holds them in place (the learning rate is zero): what is left depends on the share of the phase alone."""
    small, left = task(steps, th.optim.SGD, 0.0), {}
    run = PruningEngine(changed("greg_1", when=0.0, until=1.0), 0.8, small.subject)
    start = {name: p.detach().clone() for name, p in small.model.named_parameters()}

    def look(progress):
        run.update(progress, lambda: small.data)
        if progress in (0.1, 0.2, 0.3):
            now, keep = dict(small.model.named_parameters()), run.strategy.keep
            left[progress] = th.cat([(now[name].detach() / start[name])[~mask] for name, mask in keep.items()])

    run.update(0.0, lambda: small.data)
    small.train(1.0, look)
    for x, share in left.items():
        assert share.min().item() == pytest.approx(share.max().item(), rel=1e-9)
        assert share.mean().item() == pytest.approx((1 - x**2) ** 50, abs=0.1)


@pytest.mark.parametrize("steps", [100, 3000])
def test_the_equal_penalty_takes_the_same_of_every_weight_in_a_run_of_any_length(steps):
    small = task(steps, th.optim.SGD, 0.0)
    run = PruningEngine(changed("greg_2", when=0.0, until=1.0), 0.8, small.subject)
    start = {name: p.detach().clone() for name, p in small.model.named_parameters()}
    run.update(0.0, lambda: small.data)
    small.train(0.3, lambda progress: run.update(0.3 * progress, lambda: small.data))
    for name, p in small.model.named_parameters():
        assert (p / start[name]).mean().item() == pytest.approx(0.8 if p.dim() > 1 else 1.0, abs=0.03)


def test_the_penalty_is_decoupled_from_the_optimizer():
    """Two runs, with and without: after one step they differ by the factor alone, and their moments not at all."""
    runs = []
    for factor in (1.0, 0.9):
        th.manual_seed(0)
        small = task()
        small.train(0.05)
        keep = {name: th.zeros_like(p, dtype=th.bool) for name, p in weights_of(small).items()}
        small.train(1 / 60)
        multiply(small.optimizers[0], dict(small.model.named_parameters()), keep, factor)
        runs.append(small)
    for (name, plain), shrunk in zip(runs[0].model.named_parameters(), runs[1].model.parameters(), strict=True):
        assert th.allclose(shrunk, plain * (0.9 if plain.dim() > 1 else 1.0), atol=0, rtol=1e-12), name
    moments = [list(small.optimizers[0].state_dict()["state"].values()) for small in runs]
    assert same(*moments)


def test_only_what_has_stepped_is_multiplied():
    small = task()
    other = th.optim.SGD([small.model[0].weight], lr=0.1)
    before = {name: p.detach().clone() for name, p in small.model.named_parameters()}
    keep = {name: th.zeros_like(p, dtype=th.bool) for name, p in weights_of(small).items()}
    multiply(other, dict(small.model.named_parameters()), keep, 0.5)
    for name, p in small.model.named_parameters():
        assert th.equal(p, before[name] * (0.5 if name == "0.weight" else 1.0))


def test_greg_2_prunes_what_the_loss_curves_least():
    """Equal weights: only an equal penalty first tells which of them the loss holds in place."""

    class Diagonal(th.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = th.nn.Linear(4, 1, bias=False)
            th.nn.init.ones_(self.layer.weight)

        def forward(self, x):
            return self.layer(x)

    scale = th.tensor([1.0, 3.0, 0.1, 2.0])
    x = th.diag(scale)
    small = SmallTask(Diagonal(), [(x, x.sum(1, keepdim=True))], steps=200, optimizer=th.optim.SGD, lr=0.1)
    recipe = Recipe("magnitude", structured=False, schedule="constant", until=0.9, strategy="growing_l2",
                    options={"equal": 0.5, "every": 1})  # fmt: skip
    run_recipe(small, recipe, 0.5)
    assert small.model.layer.weight.detach().ne(0).tolist() == [[False, True, False, True]]


def test_soft_shrinkage_lets_losers_come_back_and_freezes_them_in_the_end():
    small = task(200)
    run = PruningEngine(changed("iss_p", options={"every": 1}), 0.8, small.subject)
    run.update(0.0, lambda: small.data)
    kept = []
    for progress in range(1, 101):
        small.train(0.01)
        run.update(progress / 100, lambda: small.data)
        if run.masks is None:
            kept.append(run.strategy.kept(run.weights, run.targets, "layer"))
            assert all(p.ne(0).all() for p in weights_of(small).values())
    came_back = [(second[name] & ~first[name]).any() for first, second in zip(kept, kept[1:], strict=False) for name in first]
    assert any(came_back) and len(kept) == 79  # until 80 % of the run
    for p in weights_of(small).values():
        assert abs(int(p.ne(0).sum()) - 0.2 * p.numel()) <= 1
    assert run.masks.sparsity == pytest.approx(0.8, abs=1 / 576)


def test_a_loser_shrinks_by_alpha_at_every_step():
    small = task(optimizer=th.optim.SGD, lr=0.0)
    run = PruningEngine(RECIPES["iss_p"], 0.5, small.subject)
    run.update(0.0, lambda: small.data)
    before = {name: p.detach().clone() for name, p in weights_of(small).items()}
    keep = run.strategy.kept(run.weights, run.targets, "layer")
    small.train(10 / 60)
    for name, p in weights_of(small).items():
        expected = th.where(keep[name], before[name], before[name] * 0.95**10)
        assert th.allclose(p, expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["gmp", "crop_u", "snip_it", "relative_change", "earlycrop_u"])
def test_masks_never_return_unless_the_recipe_revives(name, monkeypatch):
    seen = watch_changes(monkeypatch)
    small = task()
    run_recipe(small, changed(name, options={"every": 2}), 0.8)
    for (_, earlier), (_, later) in zip(seen, seen[1:], strict=False):
        assert not any((later[key] & ~earlier[key]).any() for key in earlier)
    assert len(seen) > 5 if name == "gmp" else len(seen) == 1


def test_acdc_alternates_and_ends_sparse():
    small = task(100)
    run = PruningEngine(changed("acdc", until=0.9, options={"every": 1, "n_phases": 3}), 0.8, small.subject)
    sparsities = []
    run.update(0.0, lambda: small.data)
    for progress in range(1, 101):
        small.train(0.01)
        run.update(progress / 100, lambda: small.data)
        sparsities.append(0.0 if run.masks is None else round(run.masks.sparsity, 1))
    turns = [sparsities[0]] + [b for a, b in zip(sparsities, sparsities[1:], strict=False) if a != b]
    assert turns == [0.0, 0.8, 0.0, 0.8, 0.0, 0.8] and sparsities[9:11] == [0.8, 0.8] and sparsities[-11:] == [0.8] * 11


def turns(name, sparsity=0.8, steps=480):
    """What is gone after each change of a recipe as it is, with the time of each, in a run as short as that of digits."""
    small, seen = task(steps), [(0.0, 0.0)]
    total = sum(p.numel() for p in small.model.parameters())
    run = PruningEngine(RECIPES[name], sparsity, small.subject)
    run.update(0.0, lambda: small.data)

    def look(progress):
        run.update(progress, lambda: small.data)
        gone = 1 - sum(p.numel() for p in small.model.parameters()) / total if run.masks is None else run.masks.sparsity
        if round(gone, 2) != round(seen[-1][1], 2):
            seen.append((progress, gone))

    small.train(1.0, look)
    return seen[1:]


def test_acdc_pp_masks_the_same_share_of_every_layer():
    small = task()
    PruningEngine(changed("acdc_pp", when=0.0), 0.8, small.subject).update(0.0, lambda: small.data)
    for p in weights_of(small).values():
        assert int((p != 0).sum()) == pytest.approx(0.2 * p.numel(), abs=1)


@pytest.mark.parametrize("name", ["acdc", "acdc_pp"])
def test_acdc_has_all_its_phases_in_a_short_run(name):
    times, shares = zip(*turns(name), strict=True)
    assert shares == pytest.approx([0.8, 0.0] * 4 + [0.8], abs=0.01)
    assert times == pytest.approx([0.1 + 0.7 * phase / 8 for phase in range(9)], abs=2 / 480)


def test_a_gradual_recipe_has_all_its_cuts_in_a_short_run():
    times, gone = zip(*turns("span_gradual"), strict=True)
    assert times == pytest.approx([0.05 + 0.25 * event / 3 for event in range(4)], abs=2 / 480)
    left = [1 - share for share in gone]
    ratios = [after / before for before, after in zip([1.0, *left], left, strict=False)]
    assert ratios == pytest.approx([0.2**0.25] * 4, abs=0.1)  # widths shrink geometrically


def test_force_brings_back_what_an_earlier_step_had_masked(monkeypatch):
    steps = []
    small = task()
    set_masks = Masks.set

    def watched(self, keep, transaction=None):
        set_masks(self, keep, transaction)
        steps.append({name: mask.clone() for name, mask in keep.items()})

    monkeypatch.setattr(Masks, "set", watched)
    dense = copy.deepcopy(weights_of(small))
    run = PruningEngine(RECIPES["force"], 0.9, small.subject)
    run.update(0.0, lambda: small.data)
    back = sum(int((later[n] & ~first[n]).sum()) for first, later in zip(steps, steps[1:], strict=False) for n in first)
    assert len(steps) == 20 and back > 0
    for name, p in weights_of(small).items():
        assert th.equal(p, dense[name] * run.masks.keep[name])  # what is kept is as it was


def test_unit_keep_marks_what_produces_the_units_that_a_plan_removes():
    model = cnn()
    small = SmallTask(model, batches((1, 5, 5), 2, n=4))
    plan = make_plan(small.subject(small.data), 0.5, Settings("magnitude", compensation="none"))
    keep = unit_keep(plan)
    for group, kept in plan.kept_units.items():
        expected = th.zeros(plan.graph.groups[group].n_units, dtype=th.bool)
        expected[th.from_numpy(kept)] = True
        for part in ("weight", "bias"):
            mask = keep[f"{group}.{part}"]
            assert th.equal(mask.flatten(1).all(1) if mask.dim() > 1 else mask, expected)
            assert th.equal(mask.flatten(1).any(1) if mask.dim() > 1 else mask, expected)
    assert set(keep) == {f"{group}.{part}" for group in plan.kept_units for part in ("weight", "bias")}


FAILING = {
    "first": Recipe("snip", structured=False, strategy="zero"),
    "units": RECIPES["crop_it_s"],
    "a penalty": changed("greg_1", criterion="snip", when=0.0),
    "growth": changed("rigl", options={"every": 1}),
}


@pytest.mark.parametrize("kind", FAILING)
def test_a_failure_leaves_all_as_it_was_and_the_next_update_works(kind):
    small = task()
    run = PruningEngine(FAILING[kind], 0.8, small.subject)
    run.start(small.subject(small.data))  # which counts steps from here on
    small.train(0.1)
    if kind == "growth":
        run.update(0.0, lambda: small.data)
        small.train(0.1)
    before = state(small.model, optimizers=small.optimizers)
    bad = [(x, y * float("nan")) for x, y in small.data]
    with pytest.raises(PruningError, match="nothing was pruned"):
        run.update(0.1, lambda: bad)
    assert same(before, state(small.model, optimizers=small.optimizers)) and not run.finished
    run.update(0.2, lambda: small.data)
    assert run.finish(lambda: small.data).sparsity["total"] >= 0.8


def test_a_failure_in_a_later_step_undoes_the_earlier_ones(monkeypatch):
    small, calls = task(), []

    def twice(context):
        calls.append(1)
        if len(calls) == 3:
            raise PruningError("no more")
        return {name: tensor.detach().abs() for name, tensor in context.parameters.items()}

    run = PruningEngine(Recipe(twice, structured=False, strategy="zero", inner="halving"), 0.8, small.subject)
    small.train(0.1)
    before = state(small.model, optimizers=small.optimizers)
    with pytest.raises(PruningError, match="no more"):
        run.update(0.0, lambda: small.data)
    assert same(before, state(small.model, optimizers=small.optimizers)) and run.masks is None
    small.train(0.1)
    assert all(p.ne(0).all() for p in weights_of(small).values())  # nothing is held
