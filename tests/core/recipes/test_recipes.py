"""Each recipe against the property that defines it."""

import numpy as np
import pytest
import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.importance.criteria import CRITERIA
from rl_crop.core.masking.distributions import er, erk
from rl_crop.core.pruning.planning import make_plan
from rl_crop.core.pruning.settings import Settings
from rl_crop.core.recipes.drivers import run_recipe
from rl_crop.core.recipes.engine import PruningEngine
from rl_crop.core.recipes.indicator import EarlyPruningIndicator
from rl_crop.core.recipes.recipe import Recipe
from rl_crop.core.recipes.registry import RECIPES
from rl_crop.core.recipes.triggers import TriggerOptions
from tests.zoo.networks import batches, mlp, mse
from tests.zoo.snapshots import hooks, same
from tests.zoo.tasks import SmallTask, watch_changes


def task(steps=60, seed=0):
    th.manual_seed(seed)
    return SmallTask(mlp((6, 24, 16, 3)), batches((6,), 3, n=16, count=4), steps=steps)


def weights_of(small):
    return {name: p for name, p in small.model.named_parameters() if p.dim() > 1}


def at_start(name, sparsity=0.8, seed=0, small=None, **parts):
    """The task right after the recipe has pruned it at the beginning."""
    small = small or task()
    recipe = Recipe(**{**vars(RECIPES[name]), **parts})
    run = PruningEngine(recipe, sparsity, small.subject, seed)
    run.update(0.0, lambda: small.batches(8))
    return small, run


def gradient_norm(small):
    small.model.zero_grad()
    grads = th.autograd.grad(sum(mse(small.model, batch) for batch in small.data), list(weights_of(small).values()))
    masked = [g * (w != 0) for g, w in zip(grads, weights_of(small).values(), strict=True)]
    return float(th.cat([g.flatten() for g in masked]).norm())


def test_grasp_keeps_a_larger_gradient_norm_than_random():
    by_seed = [[gradient_norm(at_start(name, 0.5, seed, task(seed=seed))[0]) for name in ("grasp", "random_uniform")]
               for seed in range(5)]  # fmt: skip
    assert sum(grasp > random for grasp, random in by_seed) >= 4


def test_crop_keeps_more_gradient_flow_than_it_would_by_its_opposite():
    def most_first(context):
        return {name: -score for name, score in CRITERIA["crop"](context).items()}

    opposite = Recipe(most_first, structured=False, strategy="zero")
    changes = []
    for recipe in (RECIPES["crop_u"], opposite):
        small = task()
        before = gradient_norm(small) ** 2
        PruningEngine(recipe, 0.3, small.subject).update(0.0, lambda: small.batches(8))  # noqa: B023
        changes.append(abs(gradient_norm(small) ** 2 - before))
    assert changes[0] < changes[1]


def test_synflow_is_data_free_and_keeps_every_layer_alive():
    masks = []
    for seed in (1, 2):
        small = task()
        small.data = batches((6,), 3, n=16, count=4, seed=seed)
        masks.append(at_start("synflow", 0.98, small=small)[1].masks.keep)
    assert same(*masks) and all(mask.any() for mask in masks[0].values())
    one_shot = at_start("synflow", 0.98, inner="none")[1].masks.keep
    assert not same(masks[0], one_shot)  # the many steps are what keeps layers alive


def test_random_pruning_has_the_densities_of_its_scope():
    for name, expected in (
        ("random_uniform", lambda shapes: dict.fromkeys(shapes, 0.2)),
        ("random_er", lambda s: er(s, 0.2)),
        ("random_erk", lambda s: erk(s, 0.2)),
    ):
        keep = at_start(name)[1].masks.keep
        wanted = expected({key: tuple(mask.shape) for key, mask in keep.items()})
        for key, mask in keep.items():
            assert abs(int(mask.sum()) - wanted[key] * mask.numel()) <= 1
        assert sum(int(mask.sum()) for mask in keep.values()) == int(576 * 0.2)
        assert not same(keep, at_start(name, seed=1)[1].masks.keep)


@pytest.mark.parametrize("structured", [False, True])
def test_shuffled_layers_keep_the_counts_of_the_criterion_and_nothing_else(structured):
    kind = {"structured": structured, "strategy": "removed" if structured else "zero", "criterion": "crop"}
    one, two = (at_start("random_ratios", 0.6, **kind, options={"shuffle": on})[0] for on in (False, True))
    shapes = [[(tuple(w.shape), int((w != 0).sum())) for w in weights_of(small).values()] for small in (one, two)]
    assert shapes[0] == shapes[1]
    assert not same(dict(one.model.state_dict()), dict(two.model.state_dict()))


def test_shuffled_weights_keep_the_counts_where_outputs_have_a_floor():
    """One output has all the high scores; the others keep theirs, and no layer takes from another for it."""

    def by_first_output(context):
        scores = CRITERIA["magnitude"](context)
        head = scores["4.weight"]
        return {**scores, "4.weight": head + 10.0 * (th.arange(len(head)) == 0)[:, None]}

    one, two = (at_start("random_ratios", 0.9, criterion=by_first_output, options={"shuffle": on})[1] for on in (False, True))
    for keep in (one.masks.keep, two.masks.keep):
        assert [int(mask.sum()) for mask in keep.values()] == [int(mask.sum()) for mask in one.masks.keep.values()]
        assert keep["4.weight"].any(1).all()


@pytest.mark.parametrize("once, stepwise", [("crop_u", "crop_it_u"), ("crop_s", "crop_it_s"), ("snap", "snap_it")])
def test_iterative_recipes_score_anew_what_earlier_steps_have_left(once, stepwise, monkeypatch):
    calls, criterion = [], CRITERIA[RECIPES[once].criterion]

    def counted(context):
        calls.append(sum(int((w != 0).sum()) for w in context.parameters.values()))
        return criterion(context)

    monkeypatch.setitem(CRITERIA, RECIPES[once].criterion, counted)
    models = []
    for name in (once, stepwise):
        calls.clear()
        models.append(at_start(name, 0.9)[0].model)
        assert len(calls) == (1 if name == once else 7)
        assert calls == sorted(calls, reverse=True) and len(set(calls)) == len(calls)
    assert not same(*(dict(model.state_dict()) for model in models))


def test_snip_it_scores_what_earlier_steps_have_left():
    once, stepwise = (at_start(name, 0.9)[1].masks.keep for name in ("snip", "snip_it"))
    assert not same(once, stepwise)
    small, run = at_start("snip")
    dense = task()
    grads = th.autograd.grad(sum(mse(dense.model, batch) for batch in dense.batches(8)), list(weights_of(dense).values()))
    scores = th.cat([(g * w).detach().abs().flatten() for g, w in zip(grads, weights_of(dense).values(), strict=True)])
    kept = th.cat([mask.flatten() for mask in run.masks.keep.values()])
    assert float(scores[kept].min()) >= float(scores[~kept].max())


def test_relative_change_masks_what_moved_least():
    small = task()
    start = {name: w.detach().clone() for name, w in weights_of(small).items()}
    run = PruningEngine(RECIPES["relative_change"], 0.8, small.subject)
    run.update(0.0, lambda: small.data)
    small.train(0.5)
    changes = {n: ((w - start[n]).abs() / start[n].abs()).detach() for n, w in weights_of(small).items()}
    run.update(0.5, lambda: small.data)
    for name, keep in run.masks.keep.items():  # within a layer: weights that start small would take all from the others
        assert keep.all() or float(changes[name][keep].min()) >= float(changes[name][~keep].max())


def test_gmp_follows_its_cubic(monkeypatch):
    seen = watch_changes(monkeypatch)
    run_recipe(task(), Recipe(**{**vars(RECIPES["gmp"]), "options": {"every": 3}}), 0.9)
    masked = [1 - sum(int(mask.sum()) for mask in masks.values()) / 576 for _, masks in seen]
    assert masked == pytest.approx([0.9 - 0.9 * (1 - x) ** 3 for x, _ in seen], abs=2 / 576)
    assert len(seen) > 8 and seen[-1][0] == 1.0


@pytest.mark.parametrize("name", ["gmp", "granet", "earlycrop_u", "imp", "early_exits"])
def test_a_head_that_starts_near_zero_keeps_a_weight_an_output(name):
    small = task(20)
    with th.no_grad():
        small.model[4].weight.mul_(1e-3)
    small.optimizers[0].param_groups[0]["lr"] = 0.0
    recipe = RECIPES[name]
    options = {**recipe.options, "every": 4, "min_units": 2}
    run_recipe(small, Recipe(**{**vars(recipe), "scope": "network", "options": options}), 0.9)
    kept = (small.model[4].weight != 0).sum(1).tolist()
    assert kept == [2, 2, 2] or (name == "granet" and min(kept) >= 2)  # what regrows may be more
    assert all((weight != 0).sum() >= 2 for weight in weights_of(small).values())


def test_what_the_floor_forbids_is_said_at_the_start():
    small = task()
    run = PruningEngine(Recipe(**{**vars(RECIPES["gmp"]), "options": {"min_units": 4}}), 0.97, small.subject)
    with pytest.raises(PruningError, match="min_units=4.*largest reachable is 0.9652"):  # 4 + 4 + 3 * 4 of 576
        run.update(0.0, lambda: small.data)
    small = task()
    run_recipe(small, Recipe(**{**vars(RECIPES["random_units"]), "options": {"min_units": 5}}), 0.7)
    assert min(small.model[0].out_features, small.model[2].out_features) >= 5


def test_epi_waits_for_a_structure_that_is_stable(monkeypatch):
    """The trigger sees the recipe's own cut at equal intervals, and fires as an indicator of these proposals does."""
    small, proposals = task(200), []
    look = EarlyPruningIndicator.look

    def watched(self, propose):
        widths = propose()
        proposals.append(widths)
        return look(self, lambda: widths)

    monkeypatch.setattr(EarlyPruningIndicator, "look", watched)
    recipe = Recipe(**{**vars(RECIPES["pat_magnitude"]), "options": {"latest": 1.0, "earliest": 0.0}})
    run = PruningEngine(recipe, 0.5, small.subject)
    run.update(0.0, lambda: small.data)
    small.train(1.0, lambda progress: run.update(progress, lambda: small.data))
    monkeypatch.undo()
    indicator = EarlyPruningIndicator(TriggerOptions().threshold)
    expected = next(n for n, widths in enumerate(proposals) if indicator.look(lambda: widths))  # noqa: B023
    assert run.timetable.decided_by == "epi" and len(proposals) == expected + 1 > 10
    assert run.timetable.begun == pytest.approx(len(proposals) / 200, abs=0.01)


def test_the_distance_trigger_waits_for_the_lazy_regime():
    small = task(200)
    run = PruningEngine(
        Recipe(**{**vars(RECIPES["earlycrop_s"]), "options": {"latest": 1.0, "earliest": 0.0}}), 0.95, small.subject
    )
    steps, before = [], 0.0
    prunable = [p for name, p in small.model.named_parameters() if name != "4.bias"]  # outputs are no units
    start = th.cat([p.detach().flatten().clone() for p in prunable])
    run.update(0.0, lambda: small.data)
    for check in range(1, 51):
        small.train(0.02)
        if run.timetable.begun is None:
            now = float((th.cat([p.detach().flatten() for p in prunable]) - start).norm() / start.norm())
            steps.append(abs(now - before))
            before = now
            run.update(check / 50, lambda: small.data)
    assert run.timetable.decided_by == "distance" and steps[-1] < 0.05 <= min(steps[:-1], default=1.0)


def test_early_exits_and_others_name_what_is_off_in_rl():
    assert "no exits" in RECIPES["early_exits"].in_rl and "off while data is collected" in RECIPES["bridgeout"].in_rl


def test_bridgeout_trains_with_noise_and_cuts_without():
    small = task()
    run = PruningEngine(RECIPES["bridgeout"], 0.5, small.subject)
    run.update(0.0, lambda: small.data)
    x = small.data[0][0]
    small.model.train()
    assert not th.equal(small.model(x), small.model(x))
    small.model.eval()
    assert th.equal(small.model(x), small.model(x))
    small.model.train()
    run.update(0.5, lambda: small.data)
    assert run.finished and th.equal(small.model(x), small.model(x)) and small.model[0].out_features < 24


@pytest.mark.parametrize(
    "name, rule, sparsity", [("earlycrop_s", "distance", 0.95), ("earlycrop_s_released", "distance_released", 0.5)]
)
def test_earlycrop_waits_for_its_own_trigger(name, rule, sparsity):
    small = task(600)
    small.optimizers = [th.optim.SGD(small.model.parameters(), lr=0.1)]  # slower and slower
    run = PruningEngine(
        Recipe(**{**vars(RECIPES[name]), "options": {"latest": 1.0, "earliest": 0.0}}), sparsity, small.subject
    )
    run.update(0.0, lambda: small.data)
    small.train(1.0, lambda progress: run.update(progress, lambda: small.data))
    assert run.timetable.decided_by == rule and 0.0 < run.timetable.begun < 1.0


def test_pat_has_the_thresholds_of_its_criteria():
    for name, threshold in (("pat_magnitude", 0.983), ("pat_taylor", 0.944)):
        small = task()
        run = PruningEngine(RECIPES[name], 0.5, small.subject)
        run.update(0.0, lambda: small.data)  # noqa: B023
        assert run.timetable.trigger.threshold == threshold


def test_bridgeout_goes_on_after_a_failure_and_is_off_in_a_finished_run():
    def noisy(small):
        small.model.train()
        return not th.equal(small.model(small.data[0][0]), small.model(small.data[0][0]))

    small = task()
    recipe = Recipe(**{**vars(RECIPES["bridgeout"]), "criterion": "snip"})
    run = PruningEngine(recipe, 0.5, small.subject)
    run.update(0.0, lambda: small.data)
    with pytest.raises(PruningError, match="nothing was pruned"):
        run.update(0.5, lambda: [(x, y * float("nan")) for x, y in small.data])
    assert noisy(small)
    run.update(0.5, lambda: small.data)
    assert run.finished and not noisy(small)
    again = PruningEngine(recipe, 0.5, small.subject)
    again.load_state_dict(run.state_dict(), small.subject(small.data))
    assert not noisy(small)


def test_the_first_ticket_goes_back_to_initialisation():
    small, before = task(), {name: w.detach().clone() for name, w in weights_of(task()).items()}
    train, seen = small.train, []

    def watched(share=1.0, after_step=None):
        seen.append({name: w.detach().clone() for name, w in weights_of(small).items()})
        train(share, after_step)

    small.train = watched
    run_recipe(small, "imp", 0.5)
    assert all(th.equal(w, before[name] * (w != 0)) for name, w in seen[-1].items())
    # Those that hold the last masks, none of earlier rounds.
    assert sum(len(found) for kinds in hooks(small.optimizers[0]) for found in kinds.values()) <= 2


def test_lottery_tickets_go_back_to_where_they_came_from():
    """After the last round the kept weights are the early ones, before the final training moves them."""
    small, seen = task(), []
    train = small.train

    def watched(share=1.0, after_step=None):
        seen.append({name: w.detach().clone() for name, w in weights_of(small).items()})
        train(share, after_step)

    small.train = watched
    run_recipe(small, Recipe(**{**vars(RECIPES["ltr"]), "options": {"rewind": 0.1, "rate": 0.3}}), 0.6)
    early, last = seen[1], seen[-1]
    for name in early:
        assert th.equal(last[name], early[name] * (last[name] != 0))
    left = [sum(int((w != 0).sum()) for w in weights.values()) / 576 for weights in seen[1:]]
    assert left == pytest.approx([1.0, 0.7, 0.49, 0.4], abs=2 / 576) and len(seen) == 5
    assert not th.equal(seen[0]["0.weight"], early["0.weight"])  # rewinding is not to initialisation


def test_the_fittest_candidate_is_trained():
    small = task()
    recipe = Recipe(**{**vars(RECIPES["random_candidates"]), "options": {"n_candidates": 4, "trial": 0.1}})
    fitness, evaluate = [], small.evaluate

    def watched():
        fitness.append((evaluate(), {name: (w != 0).clone() for name, w in weights_of(small).items()}))
        return fitness[-1][0]

    small.evaluate = watched
    run_recipe(small, recipe, 0.8)
    best = max(fitness, key=lambda entry: entry[0])[1]
    assert len({value for value, _ in fitness}) == 4
    assert same(best, {name: w != 0 for name, w in weights_of(small).items()})
    assert small.place == 60  # candidates' trials are undone


def resumed_from(run, recipe, small):
    """Another engine, which goes on from what this one has kept."""
    state = run.state_dict()
    run.detach()
    other = PruningEngine(recipe, 0.8, small.subject)
    other.load_state_dict(state, small.subject(small.data))
    return other


@pytest.mark.parametrize("name", ["rigl", "gmp", "greg_1", "iss_p", "span_gradual", "earlycrop_u"])
def test_a_run_that_is_stopped_and_resumed_equals_one_that_is_not(name):
    def carried(stop=None):
        small = task(50)
        recipe = Recipe(**{**vars(RECIPES[name]), "options": {**RECIPES[name].options, "every": 2}})
        run = PruningEngine(recipe, 0.8, small.subject)
        run.update(0.0, lambda: small.data)
        for progress in range(1, 51):
            small.train(0.02)
            if progress == stop:
                run = resumed_from(run, recipe, small)
            run.update(progress / 50, lambda: small.data)
        return small, run.finish(lambda: small.data)

    whole, report = carried()
    for stop in (11, 34):
        resumed, again = carried(stop)
        assert same(dict(whole.model.state_dict()), dict(resumed.model.state_dict()))
        assert report.sparsity == again.sparsity and report.n_params_after == again.n_params_after


def test_a_penalty_goes_on_as_before_with_optimizers_of_different_pace():
    """The second and third step every other time, as that of an actor with delayed updates, and the run stops in between."""

    def carried(stop=None):
        small = task(60)
        layers = [small.model[0], small.model[2], small.model[4]]
        small.optimizers = [th.optim.SGD(layer.parameters(), lr=0.0) for layer in layers]
        recipe = Recipe(**{**vars(RECIPES["greg_1"]), "when": 0.0, "until": 1.0})
        run = PruningEngine(recipe, 0.8, small.subject)
        run.update(0.0, lambda: small.data)
        for step in range(1, 41):
            small.model.zero_grad()
            small.loss(small.model, small.data[0]).backward()
            for optimizer in small.optimizers[: 3 if step % 2 else 1]:
                optimizer.step()
            if step == stop:
                run = resumed_from(run, recipe, small)
            run.update(step / 60, lambda: small.data)
        return dict(small.model.state_dict())

    whole = carried()
    assert same(whole, carried(13)) and same(whole, carried(28))


def test_a_target_that_cannot_be_reached_changes_nothing():
    small = task()
    before = dict(small.model.state_dict())
    with pytest.raises(PruningError, match="largest reachable"):
        run_recipe(small, "crop_s", 0.9999)
    assert same(before, dict(small.model.state_dict()))


def test_structured_plans_are_those_of_planning():
    small, run = at_start("snap")
    plan = make_plan(task().subject(task().batches(8)), 0.8, Settings("snap", compensation="none", seed=0))
    assert {n: w for n, (_, w) in run.outcome.reports[0].widths.items()} == plan.widths_after
    assert np.isfinite(run.seconds)
