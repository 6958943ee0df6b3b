"""Unstructured pruning of any module: scores against a dense Hessian, exact counts, masks that stay, all or nothing."""

import copy

import numpy as np
import pytest
import torch as th
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.masking import plan as mask_plan
from rl_crop.core.masking.distributions import erk, n_kept
from rl_crop.core.masking.masks import Masks, attached_masks, release_masks
from rl_crop.core.prune import plan_pruning, prune_model
from rl_crop.core.pruning.surgery import Transaction
from tests.zoo.networks import CASES, Calls, Residual, batches, mlp, mse, noisy_mse, settled
from tests.zoo.oracles import dense_hessian
from tests.zoo.snapshots import hooks, same, state

MASKS = {"structured": False}


def weights(model):
    """Those of linear and convolution layers."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    return {f"{name}.weight": module.weight for name, module in layers.items()}


def numpy(keep):
    return {name: mask.numpy() for name, mask in keep.items()}


def step(model, optimizer, data, steps=1):
    for number in range(steps):
        optimizer.zero_grad()
        mse(model, data[number % len(data)]).backward()
        optimizer.step()


def n_masked(model):
    return sum(int((weight == 0).sum()) for weight in weights(model).values())


@pytest.mark.parametrize("case", CASES)
def test_scores_are_those_of_a_dense_hessian_over_weights(case):
    make, shape, loss, classes = CASES[case]
    model, data = make(), batches(shape, n=6, count=2, classes=classes)
    names = list(weights(model))
    gradient, hessian, split = dense_hessian(model, loss, data, names, seed=3)
    flow, curved = split(gradient), split(hessian @ gradient)
    expected = {
        "crop": {name: (weights(model)[name] * curved[name]).abs() for name in names},
        "grasp": {name: weights(model)[name] * curved[name] for name in names},
        "snip": {name: (weights(model)[name] * flow[name]).abs() for name in names},
        "magnitude": {name: weights(model)[name].abs() for name in names},
    }
    for criterion, scores in expected.items():
        plan = plan_pruning(model, loss, data, 0.5, criterion=criterion, seed=3, **MASKS)
        assert list(plan.scores) == names
        for name in names:
            np.testing.assert_allclose(plan.scores[name], scores[name].detach().numpy(), rtol=1e-9, atol=1e-12)
        flat = np.concatenate([scores[name].detach().numpy().ravel() for name in names])
        kept = np.concatenate([plan.keep[name].ravel() for name in names])
        head = scores[names[-1]].detach().numpy()  # the best weight of every output stays whatever its rank
        others = [np.ones(scores[name].numel(), dtype=bool) for name in names[:-1]]
        ranked = np.concatenate([*others, (head < head.max(1, keepdims=True)).ravel()])
        assert flat[kept & ranked].min() >= flat[~kept].max() - 1e-12 and kept.sum() == n_kept(len(flat), 0.5)


@pytest.mark.parametrize("loss", [mse, noisy_mse])
def test_gradient_flow_is_that_of_the_masked_network(loss):
    """The Hessian of kept weights, times the gradient of kept weights: as if what is masked did not exist."""
    model, data = mlp(), batches(count=2)
    prune_model(model, loss, data, 0.5, **MASKS)
    keep = attached_masks(dict(model.named_parameters()))
    names = list(keep)
    gradient, hessian, split = dense_hessian(model, loss, data, names)
    inside = th.cat([keep[name].flatten() for name in names])
    curved = split(hessian @ (gradient * inside))
    plan = plan_pruning(model, loss, data, 0.8, **MASKS)
    for name in names:
        expected = (model.get_parameter(name) * curved[name]).abs().detach().numpy()
        np.testing.assert_allclose(plan.scores[name], expected, rtol=1e-9, atol=1e-12)
        assert not plan.keep[name][~keep[name].numpy()].any()
    assert not np.allclose(split(hessian @ gradient)["2.weight"].detach(), curved["2.weight"].detach())


def test_random_ranks_single_weights():
    model = mlp((6, 16, 12, 4))
    plans = [
        plan_pruning(model, None, None, 0.5, criterion="random", example_inputs=th.ones(2, 6), seed=s, **MASKS)
        for s in (1, 1, 2)
    ]
    assert same(plans[0].keep, plans[1].keep) and not same(plans[0].keep, plans[2].keep)
    shares = [mask.mean() for mask in plans[0].keep.values()]
    assert all(0.3 < share < 0.7 for share in shares)
    by_unit = plans[0].keep["2.weight"].mean(1)
    assert 0 < by_unit.min() and by_unit.max() < 1  # no unit goes or stays as a whole


def test_synflow_looks_at_no_data():
    model = mlp(activation=nn.Identity)
    plan = plan_pruning(model, None, None, 0.5, criterion="synflow", example_inputs=th.full((2, 3), th.nan), **MASKS)
    first, second, third = (weight.detach().abs() for weight in weights(model).values())
    ones = [th.ones(size) for size in (3, 2)]
    expected = {
        "0.weight": first * (ones[1] @ third @ second)[:, None],
        "2.weight": second * (ones[1] @ third)[:, None] * (first @ ones[0]),
        "4.weight": third * (second @ (first @ ones[0])),
    }
    positive = [model[place].bias.detach().abs() for place in (0, 2)]
    biases = {"2.weight": positive[0], "4.weight": positive[1] + second @ positive[0]}
    for name, bias in biases.items():  # they carry flow too
        outgoing = ones[1] @ third if name == "2.weight" else ones[1]
        expected[name] = expected[name] + weights(model)[name].detach().abs() * outgoing[:, None] * bias
    for name, score in expected.items():
        np.testing.assert_allclose(plan.scores[name], score.numpy(), rtol=1e-9)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9, 0.98])
@pytest.mark.parametrize("scope", ["network", "layer", "er", "erk", "global"])
def test_exactly_as_many_are_masked_as_asked(scope, sparsity):
    model = mlp((5, 24, 16, 3))
    total = sum(weight.numel() for weight in weights(model).values())
    report = prune_model(model, mse, batches((5,), 3), sparsity, criterion="snip", scope=scope, **MASKS)
    assert n_masked(model) == total - n_kept(total, sparsity)
    assert report.sparsity["total"] == n_masked(model) / total
    assert report.n_params_before - report.n_params_after == n_masked(model)
    assert report.n_params_before == sum(p.numel() for p in model.parameters())
    if scope == "erk" and sparsity:
        densities = erk({name: tuple(w.shape) for name, w in weights(model).items()}, 1 - sparsity)
        for name, (elements, kept) in report.widths.items():
            assert abs(kept - densities[name] * elements) <= 1


def test_biases_norms_and_ignored_layers_stay_whole():
    model, data = settled(Residual(6), (2, 4, 4)), batches((2, 4, 4), 3)
    before = copy.deepcopy(model)
    report = prune_model(model, mse, data, 0.9, ignore="second", **MASKS)
    assert report.widths.keys() == {"stem.weight", "first.weight", "head.weight"}
    assert report.untouched["second"] == "ignored on request"
    for name, parameter in model.named_parameters():
        assert (name in report.widths) == bool((parameter == 0).any())
        if name not in report.widths:
            assert th.equal(parameter, before.get_parameter(name))
    assert not report.structured and report.to_dict()["structured"] is False
    assert "parameter" in str(report) and "make nothing faster" in str(report)


@pytest.mark.parametrize("optimizer_class", [th.optim.SGD, th.optim.Adam, th.optim.AdamW, th.optim.RMSprop])
def test_masks_hold_in_model_moments_and_mirror(optimizer_class):
    model, data = settled(Residual(6), (2, 4, 4)), batches((2, 4, 4), 3)
    mirror = copy.deepcopy(model).requires_grad_(False)
    momentum = {"momentum": 0.9} if optimizer_class in (th.optim.SGD, th.optim.RMSprop) else {}
    optimizer = optimizer_class(model.parameters(), 1e-2, weight_decay=0.1, **momentum)
    step(model, optimizer, data, 3)
    prune_model(model, mse, data, 0.8, optimizers=optimizer, mirrors=[mirror], **MASKS)
    keep = attached_masks(dict(model.named_parameters()))
    step(model, optimizer, data, 5)
    with th.no_grad():
        for target, source in zip(mirror.parameters(), model.parameters(), strict=True):
            target.lerp_(source, 0.1)
    for name, mask in keep.items():
        parameter = model.get_parameter(name)
        held = [v for v in optimizer.state[parameter].values() if isinstance(v, th.Tensor) and v.shape == mask.shape]
        assert held
        for tensor in (parameter, mirror.get_parameter(name), *held):
            assert not tensor[~mask].any() and tensor[mask].any()


def test_iterative_ends_exactly_and_never_brings_anything_back(monkeypatch):
    model, data, seen = mlp((5, 24, 16, 3)), batches((5,), 3), []
    make = mask_plan.make_mask_plan

    def watched(*args):
        seen.append(make(*args))
        return seen[-1]

    monkeypatch.setattr("rl_crop.core.prune.make_mask_plan", watched)
    report = prune_model(model, mse, data, 0.95, schedule="iterative", **MASKS)
    total = sum(weight.numel() for weight in weights(model).values())
    assert n_masked(model) == total - n_kept(total, 0.95) and report.sparsity["total"] == n_masked(model) / total
    shares = [plan.sparsity["total"] for plan in seen]
    assert len(seen) == 7 and shares == sorted(shares)
    expected = [0.95 - 0.45 * 0.5**i for i in range(6)] + [0.95]
    assert shares == pytest.approx(expected, abs=1 / total)
    for earlier, later in zip(seen, seen[1:], strict=False):
        assert all(not later.keep[name][~mask].any() for name, mask in earlier.keep.items())
    assert report.n_params_before == sum(p.numel() for p in model.parameters())
    assert not same(seen[-1].keep, plan_pruning(mlp((5, 24, 16, 3)), mse, data, 0.95, **MASKS).keep)  # scored anew


def test_a_second_pruning_counts_what_is_masked_already():
    model, data = mlp((5, 24, 16, 3)), batches((5,), 3)
    optimizer = th.optim.Adam(model.parameters())
    total = sum(weight.numel() for weight in weights(model).values())
    prune_model(model, mse, data, 0.5, optimizers=optimizer, **MASKS)
    first = numpy(attached_masks(dict(model.named_parameters())))
    step(model, optimizer, data, 3)
    report = prune_model(model, mse, data, 0.8, scope="layer", criterion="magnitude", optimizers=optimizer, **MASKS)
    assert n_masked(model) == total - n_kept(total, 0.8)
    assert report.n_params_before - report.n_params_after == n_kept(total, 0.5) - n_kept(total, 0.8)
    second = numpy(attached_masks(dict(model.named_parameters())))
    assert all(not second[name][~mask].any() for name, mask in first.items())
    step(model, optimizer, data, 3)
    assert n_masked(model) == total - n_kept(total, 0.8)
    assert [len(found) for kinds in hooks(optimizer) for found in kinds.values()] == [1]  # those of the first are gone
    report = prune_model(model, mse, data, 0.3, optimizers=optimizer, **MASKS)  # less than there is: nothing comes back
    assert same(numpy(attached_masks(dict(model.named_parameters()))), second) and report.sparsity["total"] >= 0.8


def test_planning_changes_nothing_and_a_plan_tells():
    model, data = mlp(), batches()
    optimizer = th.optim.Adam(model.parameters())
    step(model, optimizer, data, 2)
    before, generator = state(model, optimizers=[optimizer]), th.get_rng_state()
    plan = plan_pruning(model, mse, data, 0.7, optimizers=optimizer, **MASKS)
    assert same(before, state(model, optimizers=[optimizer])) and th.equal(generator, th.get_rng_state())
    assert attached_masks(dict(model.named_parameters())) == {} and hooks(optimizer) == []
    assert plan.widths_before == plan.widths_after == {"0": 5, "2": 4}
    assert all(mask.dtype == bool and mask.shape == model.get_parameter(name).shape for name, mask in plan.keep.items())
    kept = sum(int(mask.sum()) for mask in plan.keep.values())
    assert plan.sparsity == plan.sparsity | {"model": 1 - kept / 43, "total": 1 - kept / 43}
    text = str(plan)
    assert "parameter  elements  kept" in text and f"0.weight         15  {plan.keep['0.weight'].sum():>4}" in text
    assert plan.flops_after == 2 * kept and plan.flops_before == 2 * 43
    assert plan.apply().criterion == "crop"


STAGES = {
    **{f"write {n}": ("set_data", n) for n in (1, 3, 6)},
    **{f"state {n}": ("set_item", n) for n in (1, 5)},
    "hooks": ("call", 2),
}


def failing_at(method, place):
    calls = []

    def wrapped(*args):
        calls.append(1)
        method(*args)
        if len(calls) == place:
            raise RuntimeError("injected")

    return wrapped


def failing_beyond(model, limit):
    """The forward pass, until more weights than these are masked."""
    run = model.forward

    def forward(*args):
        if n_masked(model) > limit:
            raise RuntimeError("injected")
        return run(*args)

    return forward


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("stage", [*STAGES, "attach", "runs", "iterative"])
def test_a_failure_at_any_stage_undoes_everything(stage, again, monkeypatch):
    model, data = mlp(), batches()
    mirror = copy.deepcopy(model).requires_grad_(False)
    optimizer = th.optim.Adam(model.parameters(), amsgrad=True)
    keywords = {"optimizers": optimizer, "mirrors": [mirror], **MASKS}
    step(model, optimizer, data, 2)
    if again:
        prune_model(model, mse, data, 0.4, **keywords)
        step(model, optimizer, data, 2)
    other = copy.deepcopy((model, optimizer.state_dict(), attached_masks(dict(model.named_parameters()))))
    before, masked = state(model, mirror, optimizers=[optimizer]), n_masked(model)
    with monkeypatch.context() as patch, pytest.raises(PruningError, match="injected.*everything was put back"):
        if stage == "attach":
            patch.setattr(Masks, "attach", failing_at(Masks.attach, 1))
        elif stage in ("runs", "iterative"):
            patch.setattr(model, "forward", failing_beyond(model, masked if stage == "runs" else 0.61 * 43))
        else:
            name, place = STAGES[stage]
            patch.setattr(Transaction, name, failing_at(getattr(Transaction, name), place))
        prune_model(model, mse, data, 0.7, schedule="iterative" if stage == "iterative" else "one_shot", **keywords)
    assert same(before, state(model, mirror, optimizers=[optimizer]))
    assert same(attached_masks(dict(model.named_parameters())), other[2])
    twin, follower = other[0], th.optim.Adam(other[0].parameters(), amsgrad=True)
    follower.load_state_dict(other[1])
    if again:
        Masks([dict(twin.named_parameters())], other[2], follower).attach()
    step(model, optimizer, data, 3)
    step(twin, follower, data, 3)
    assert same([*model.parameters()], [*twin.parameters()])


def test_a_plan_that_no_longer_fits_is_refused():
    model, data = mlp(), batches()
    first, second = (plan_pruning(model, mse, data, share, **MASKS) for share in (0.5, 0.7))
    first.apply()
    with pytest.raises(PruningError, match="masks have changed since this plan was made"):
        second.apply()


def test_units_are_not_cut_out_of_masked_weights():
    model, data = mlp(), batches()
    prune_model(model, mse, data, 0.5, **MASKS)
    with pytest.raises(PruningError, match=r"masked \(structured=False\).*release_masks"):
        plan_pruning(model, mse, data, 0.5)
    release_masks(model.parameters())
    assert prune_model(model, mse, data, 0.5).structured


REFUSED = {
    "criterion='span' ranks whole units": {"criterion": "span"},
    "criterion='span_crop' ranks whole units": {"criterion": "span_crop"},
    "criterion='crop_gate' ranks whole units": {"criterion": "crop_gate"},
    "budget='flops' counts what units cost": {"budget": "flops"},
    "scope='everywhere'": {"scope": "everywhere"},
    "returned no score for '0.weight'": {"criterion": lambda context: {}},
    "must be finite, of shape": {"criterion": lambda context: {n: th.ones(1) for n in context.parameters}},
    "must return a mapping": {"criterion": lambda context: None},
    "scores of '0.weight' must be finite": {"criterion": lambda s: {n: t * th.nan for n, t in s.parameters.items()}},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_fit_masks_is_refused(message):
    model, data = mlp(), batches()
    before = state(model)
    with pytest.raises(PruningError, match=message):
        prune_model(model, mse, data, 0.5, **MASKS | REFUSED[message])
    assert same(before, state(model))


def test_er_scopes_need_masks_and_layers_are_needed():
    with pytest.raises(PruningError, match="scope='erk'"):
        plan_pruning(mlp(), mse, batches(), 0.5, scope="erk")
    bare = Calls(lambda self, x: x * self.scale.weight[0], scale=nn.Embedding(1, 3))
    with pytest.raises(PruningError, match="no linear or convolution layer"):
        plan_pruning(bare, None, None, 0.5, criterion="magnitude", example_inputs=th.ones(2, 3), **MASKS)


def test_lbfgs_is_refused():
    model, data = mlp(), batches()
    before = state(model)
    with pytest.raises(PruningError, match="LBFGS"):
        prune_model(model, mse, data, 0.5, optimizers=th.optim.LBFGS(model.parameters()), **MASKS)
    assert same(before, state(model)) and attached_masks(dict(model.named_parameters())) == {}


def test_a_share_is_no_floor_of_weights():
    with pytest.raises(PruningError, match="min_units=0.5 must be an integer of at least 1\\."):
        plan_pruning(mlp(), None, None, 0.5, criterion="magnitude", example_inputs=th.ones(2, 3), min_units=0.5, **MASKS)


@pytest.mark.parametrize("min_units", [1, 2])
def test_every_layer_and_every_output_keep_some(min_units):
    """A policy's head starts near zero: by rank alone it would go first, and nothing would learn any more."""
    model = mlp((3, 8, 6, 2))
    with th.no_grad():
        model[2].weight.mul_(1e-6)
        model[4].weight.mul_(1e-9)
    best = model[4].weight.detach().abs().argsort(1, descending=True)[:, :min_units]
    keywords = {"criterion": "magnitude", "example_inputs": th.ones(2, 3), "min_units": min_units, **MASKS}
    plan = plan_pruning(model, None, None, 0.8, **keywords)
    kept = {name: mask.sum() for name, mask in plan.keep.items()}
    assert kept == {"0.weight": n_kept(84, 0.8) - 3 * min_units, "2.weight": min_units, "4.weight": 2 * min_units}
    assert (plan.keep["4.weight"].nonzero()[1].reshape(2, -1) == best.sort(1).values.numpy()).all()
    largest = 1 - 4 * min_units / 84
    with pytest.raises(PruningError, match=f"min_units={min_units}.*largest reachable is {np.floor(largest * 1e4) / 1e4:g}"):
        plan_pruning(model, None, None, 0.99, **keywords)
    by_layer = plan_pruning(model, None, None, 0.99, **keywords | {"scope": "layer"})
    assert "keeps no weight: its layer's outputs are constant" in str(by_layer)
