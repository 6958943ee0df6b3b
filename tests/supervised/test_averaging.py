"""Averaged weights: what they are, that they are measured, and that cuts and masks reach them."""

from dataclasses import replace

import pytest
import torch as th

from lab.supervised.building import load_data
from lab.supervised.config import SupervisedConfig
from lab.supervised.run import run
from lab.supervised.widths import give_widths
from rl_crop.core.errors import PruningError
from rl_crop.core.prune import prune_model
from rl_crop.core.recipes.drivers import begun, run_recipe
from rl_crop.core.recipes.registry import RECIPES
from tests.supervised.test_trainer import DIGITS, trainer_of, weights

FEW = {"every": 2, "n_batches": 2, "n_events": 2, "n_phases": 2, "n_rounds": 3, "n_candidates": 2, "n_subsets": 2, "rate": 0.5}


@pytest.fixture(scope="module")
def data():
    return load_data(SupervisedConfig.from_dict(DIGITS))


def of(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def zeros(model):
    return {name: parameter == 0 for name, parameter in model.named_parameters() if parameter.dim() > 1}


def same(first, second):
    return first.keys() == second.keys() and all(th.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("average", [0.6, 0.15])
def test_the_average_is_that_of_every_step(data, average):
    trainer = trainer_of(data, average=average)
    expected, before = {name: tensor.double() for name, tensor in of(trainer.model).items()}, of(trainer.model)
    seen = []

    def after_step(progress):
        n = len(seen)
        decay = min(average, (1 + n) / (10 + n))
        seen.append(decay)
        for name, tensor in of(trainer.model).items():
            is_weight = name in dict(trainer.model.named_parameters())
            expected[name] = decay * expected[name] + (1 - decay) * tensor.double() if is_weight else tensor.double()

    trainer.train(after_step=after_step)
    found = of(trainer.measured)
    assert seen[0] == 0.1 and seen[-1] == average  # both the warm start and what comes after it have been seen
    assert all(th.allclose(found[name].double(), expected[name], rtol=1e-5, atol=1e-6) for name in found)
    assert not same(found, before) and not same(found, of(trainer.model))
    assert any("running_mean" in name for name in found) and same(
        {name: tensor for name, tensor in found.items() if "running" in name},
        {name: tensor for name, tensor in of(trainer.model).items() if "running" in name},
    )


def test_training_is_the_same_and_only_the_measure_another(data):
    plain, averaged = trainer_of(data), trainer_of(data, average=0.99)
    assert plain.average is None and plain.measured is plain.model
    assert averaged.evaluate() == plain.evaluate()  # the first average is the initial weights
    for trainer in (plain, averaged):
        trainer.train()
    assert th.equal(weights(plain), weights(averaged))
    modes = [module.training for module in averaged.measured.modules()]
    with th.no_grad():
        logits = averaged.measured.eval()(data.validation[range(len(data.validation))][0])
    right = (logits.argmax(1) == data.validation[range(len(data.validation))][1]).double().mean().item()
    assert averaged.evaluate() == pytest.approx(right, abs=1e-7)
    assert not same(of(plain.measured), of(averaged.measured))
    # Which of the two was measured must not hang on both getting different shares right, which rounding decides.
    with th.no_grad():
        for trainer in (plain, averaged):
            for parameter in trainer.model.parameters():
                parameter.zero_()
    assert averaged.evaluate() == pytest.approx(right, abs=1e-7) and right > 0.2 > plain.evaluate()
    assert all(modes) and not any(parameter.requires_grad for parameter in averaged.measured.parameters())


def test_a_snapshot_brings_the_average_back(data):
    trainer = trainer_of(data, average=0.9)
    trainer.train(0.3)
    snapshot, before = trainer.snapshot(), of(trainer.measured)
    trainer.train(0.7)
    after = of(trainer.measured)
    trainer.restore(snapshot)
    assert same(of(trainer.measured), before) and not same(before, after)
    trainer.train(0.7)
    assert same(of(trainer.measured), after)


def test_a_cut_reaches_the_average(data):
    trainer, seen = trainer_of(data, average=0.9, n_epochs=3), []
    recipe = replace(RECIPES["span_crop"], when=0.5, compensation="least_squares")
    engine, batches = begun(trainer, recipe, 0.6, 0)
    size = trainer.n_params

    def after_step(progress):
        engine.update(progress, batches)
        shapes = [{name: tensor.shape for name, tensor in of(model).items()} for model in (trainer.model, trainer.measured)]
        assert shapes[0] == shapes[1]
        seen.append((trainer.n_params < size, all(tensor.isfinite().all() for tensor in trainer.measured.parameters())))

    trainer.train(1.0, after_step)
    assert seen == [(False, True)] * 11 + [(True, True)] * 13 and trainer.evaluate() > 0.2
    trainer.restore(trainer.snapshot())


def test_masks_that_move_hold_in_the_average_and_what_comes_back_starts_at_zero(data):
    trainer, moves = trainer_of(data, average=0.9, n_epochs=4), []
    recipe = replace(RECIPES["rigl_pp"], options={**RECIPES["rigl_pp"].options, **FEW})
    engine, batches = begun(trainer, recipe, 0.8, 0)

    def after_step(progress):
        before = dict(engine.masks.keep)
        for model in (trainer.model, trainer.measured):
            assert all((of(model)[name][~mask] == 0).all() for name, mask in before.items())
        engine.update(progress, batches)
        for name, mask in engine.masks.keep.items():
            back = mask & ~before[name]
            moves.append(int(back.sum()))
            for model in (trainer.model, trainer.measured):
                assert (of(model)[name][back | ~mask] == 0).all()

    engine.update(0.0, batches)
    assert same(zeros(trainer.model), zeros(trainer.measured))
    trainer.train(1.0, after_step)
    assert sum(count > 0 for count in moves) > 10
    assert all(tensor.isfinite().all() for tensor in trainer.measured.parameters()) and trainer.evaluate() > 0.15


NAMES = ["rigl_pp", "acdc_pp", "ltr", "random_candidates", "early_exits", "hydra", "iss_p", "greg_1", "gbn", "span_gradual"]


@pytest.mark.parametrize("name", NAMES)
def test_recipes_leave_both_alike(data, name):
    trainer = trainer_of(data, average=0.5, n_epochs=4)
    recipe = replace(RECIPES[name], options={**RECIPES[name].options, **FEW})
    report = run_recipe(trainer, recipe, 0.7)
    first, second = of(trainer.model), of(trainer.measured)
    assert report.sparsity["total"] >= 0.69 and 0 <= trainer.evaluate() <= 1
    assert {name: tensor.shape for name, tensor in first.items()} == {name: tensor.shape for name, tensor in second.items()}
    assert all(tensor.isfinite().all() for tensor in second.values())
    assert recipe.structured or same(zeros(trainer.model), zeros(trainer.measured))


def test_a_small_rival_starts_with_its_own_weights_in_both(data):
    trainer = trainer_of(data, average=0.9)
    give_widths(trainer.subject(trainer.batches(1)), {"0": 2, "4": 3, "9": 4}, 5)
    assert same(of(trainer.model), of(trainer.measured))
    trainer.train(0.3)


def test_a_cut_without_the_average_is_refused_at_the_next_step(data):
    trainer = trainer_of(data, average=0.9)
    prune_model(trainer.model, trainer.loss, trainer.batches(2), 0.5, optimizers=trainer.optimizers)
    with pytest.raises(PruningError, match="weight'.* have been cut, but not in the averaged model"):
        trainer.train(0.2)
    whole = trainer_of(data, average=0.9)
    beside = {"optimizers": whole.optimizers, "mirrors": [whole.measured]}
    prune_model(whole.model, whole.loss, whole.batches(2), 0.5, **beside)
    whole.train(0.2)


def test_a_run_measures_the_average(data):
    config = SupervisedConfig.from_dict(DIGITS | {"average": 0.99, "pruning": {"recipe": "rigl_pp", "sparsity": 0.5}})
    result = run(config, 0, data=data)
    plain = run(replace(config, average=0.0), 0, data=data)
    assert SupervisedConfig.from_dict(result["config"]) == config and result["n_params_left"] == plain["n_params_left"]
    assert result["test"] != plain["test"]


@pytest.mark.parametrize("average", [1, 1.0, -0.1, float("nan"), True, "much", None])
def test_what_is_no_average_is_named(data, average):
    with pytest.raises(PruningError, match="average="):
        SupervisedConfig.from_dict(DIGITS | {"average": average})


def test_runs_without_an_average_are_the_runs_they_were():
    plain = SupervisedConfig.from_dict(DIGITS)
    assert "average" not in plain.canonical() and replace(plain, average=0).canonical() == plain.canonical()
    assert replace(plain, average=0.9).canonical()["average"] == 0.9
