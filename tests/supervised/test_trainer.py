"""The loop: repeated by its seed, undisturbed by what looks at it, and put back by a snapshot."""

from dataclasses import replace

import pytest
import torch as th

from lab.supervised.building import build_network, build_trainer, load_data
from lab.supervised.config import SupervisedConfig
from rl_crop.core.errors import PruningError
from rl_crop.core.prune import prune_model
from rl_crop.core.recipes.drivers import run_recipe
from rl_crop.core.recipes.registry import RECIPES

DIGITS = {
    "data": {"name": "digits"},
    "network": {"name": "cnn", "channels": [4, 6], "widths": [16]},
    "n_epochs": 2,
    "batch_size": 128,
    "scheduler": {"name": "OneCycleLR", "max_lr": 0.02},
}


@pytest.fixture(scope="module")
def data():
    return load_data(SupervisedConfig.from_dict(DIGITS))


def trainer_of(loaded, seed=0, **changes):
    config = SupervisedConfig.from_dict(DIGITS | changes)
    return build_trainer(config, loaded, build_network(config, loaded, seed), seed)


def weights(trainer):
    return th.cat([tensor.detach().double().flatten() for tensor in trainer.model.state_dict().values()])


def trained(trainer, share=1.0):
    trainer.train(share)
    return weights(trainer)


def test_the_seed_decides_everything(data):
    first, again, other = (trained(trainer_of(data, seed)) for seed in (3, 3, 4))
    assert th.equal(first, again) and not th.equal(first, other)


def test_training_learns(data):
    trainer = trainer_of(data, n_epochs=10)
    before = trainer.evaluate()
    trainer.train()
    assert before < 0.3 and trainer.evaluate() > 0.9 and trainer.measure(data.test) > 0.9
    assert trainer.n_done == trainer.n_steps == 80 and trainer.seconds > 0


def test_looking_changes_nothing(data):
    def look(progress):
        trainer.evaluate()
        trainer.batches(3)
        trainer.subject(trainer.batches(1))
        trainer.snapshot()

    trainer = trainer_of(data)
    trainer.train(after_step=look)
    assert th.equal(weights(trainer), trained(trainer_of(data)))
    assert trainer.model.training


def test_progress_grows_to_one_between_steps(data):
    trainer, seen = trainer_of(data), []
    trainer.train(0.5, lambda progress: seen.append((progress, trainer.n_done)))
    assert seen == [(done / 8, done) for done in range(1, 9)]


def test_a_snapshot_brings_a_run_back(data):
    trainer = trainer_of(data)
    trainer.train(0.3)
    snapshot = trainer.snapshot()
    first = trained(trainer, 0.7)
    trainer.restore(snapshot)
    second = trained(trainer, 0.7)
    trainer.restore(snapshot)  # it was not changed by what came after
    assert th.equal(first, second) and th.equal(first, trained(trainer, 0.7))


@pytest.mark.parametrize("shares", [[1 / 40] * 40, [0.3, 0.7], [0.04] * 25, [0.4, *[0.6 / 7] * 7], [0.31, 0.31, 0.38]])
def test_shares_add_up(data, shares):
    trainer, asked = trainer_of(data), 0.0
    for share in shares:
        trainer.train(share)
        asked += share * 16
        assert abs(trainer.n_done - asked) <= 0.5 + 1e-9
    assert trainer.n_done == 16
    trainer.train()
    assert trainer.n_done == 32


def test_what_is_left_over_goes_back_with_a_snapshot(data):
    trainer = trainer_of(data)
    trainer.train(0.3)  # 5 steps for 4.8
    snapshot, counts = trainer.snapshot(), []
    for _ in range(3):
        before = trainer.n_done
        trainer.train(0.04)  # 0.64 steps, 0.2 of which are done
        counts.append(trainer.n_done - before)
        trainer.restore(snapshot)
    assert counts == [0] * 3
    trainer.restore(trainer_of(data).snapshot())  # as at the beginning of a run
    before = trainer.n_done
    trainer.train()
    assert trainer.n_done == before + 16


@pytest.mark.parametrize(
    ("name", "n_steps"), [("early_exits", 24), ("gbn", 24), ("hydra", 24), ("imp", 24 * 3), ("ltr", 1 + 23 * 3)]
)
def test_recipes_that_train_in_parts_take_exactly_one_run(data, name, n_steps):
    trainer = trainer_of(data, n_epochs=3)
    recipe = RECIPES[name]
    run_recipe(trainer, replace(recipe, options={**recipe.options, "rate": 0.4, "n_batches": 2}), 0.6)
    assert trainer.n_steps == 24 and trainer.n_done == n_steps


def test_a_snapshot_of_another_shape_is_refused(data):
    trainer = trainer_of(data)
    trainer.train(0.1)
    snapshot = trainer.snapshot()
    prune_model(trainer.model, trainer.loss, trainer.batches(2), 0.5, optimizers=trainer.optimizers)
    before = weights(trainer)
    with pytest.raises(PruningError, match="snapshot"):
        trainer.restore(snapshot)
    assert th.equal(before, weights(trainer))
    trainer.train(0.2)


def test_scoring_batches_are_training_data(data):
    trainer = trainer_of(data)
    batches = trainer.batches(4)
    rows = {tuple(row.tolist()) for row in data.train.tensors[0].flatten(1)}
    assert [len(inputs) for inputs, _ in batches] == [128] * 4
    assert all(tuple(row.tolist()) in rows for inputs, _ in batches for row in inputs.flatten(1))
    assert not th.equal(batches[0][0], trainer.batches(1)[0][0])
    assert len(trainer.batches(100)) == 8  # no pair twice


@pytest.mark.parametrize(
    ("scheduler", "rates"),
    [
        ({"name": "CosineAnnealingLR"}, {0: 0.1, 8: 0.05, 16: 0.0}),
        ({"name": "LinearLR", "start_factor": 1.0, "end_factor": 0.5}, {0: 0.1, 8: 0.075, 16: 0.05}),
        ({"name": "StepLR", "step_size": 0.25, "gamma": 0.1}, {3: 0.1, 4: 0.01, 8: 0.001}),
        ({"name": "MultiStepLR", "milestones": [0.5], "gamma": 0.1}, {7: 0.1, 8: 0.01, 16: 0.01}),
        (None, {0: 0.1, 16: 0.1}),
    ],
)
def test_schedules_span_the_run_and_begin_anew(data, scheduler, rates):
    trainer = trainer_of(data, scheduler=scheduler, optimizer={"name": "SGD", "lr": 0.1, "momentum": 0.9})
    for _ in range(2):
        seen = [0.1]
        trainer.train(after_step=lambda _, seen=seen: seen.append(trainer.optimizer.param_groups[0]["lr"]))
        assert {step: seen[step] for step in rates} == pytest.approx(rates, abs=1e-9)


def test_mixed_precision_trains_in_two_types_and_keeps_weights_in_one(data):
    seen = set()
    trainer = trainer_of(data, precision="bfloat16", n_epochs=6)
    trainer.model[0].register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    trainer.train()
    assert seen == {th.bfloat16} and trainer.evaluate() > 0.8
    assert all(parameter.dtype == th.float32 for parameter in trainer.model.parameters())
    seen.clear()
    report = prune_model(trainer.model, trainer.loss, trainer.batches(2), 0.5, optimizers=trainer.optimizers)
    assert seen == {th.float32} and report.sparsity["total"] >= 0.5
    trainer.train(0.2)
    with pytest.raises(PruningError, match="precision"):
        trainer_of(data, precision="float8")


def test_gradients_are_clipped(data):
    trainer = trainer_of(data, max_grad_norm=0.001, optimizer={"name": "SGD", "lr": 1.0}, scheduler=None)
    before = th.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
    trainer.train(1 / 16)
    after = th.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.001, rel=1e-3)


def test_label_smoothing_is_of_the_loss_alone(data):
    batch = data.train[list(range(64))]
    plain, smooth = trainer_of(data), trainer_of(data, label_smoothing=0.1)
    logits = plain.model.eval()(batch[0]).log_softmax(1)
    smooth.model.eval()
    expected = 0.9 * plain.loss(plain.model, batch) - 0.1 * logits.mean()
    assert smooth.loss(smooth.model, batch).item() == pytest.approx(expected.item(), rel=1e-5)
    assert smooth.evaluate() == plain.evaluate()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": {"name": "Addam"}}, "optimizer.name='Addam'"),
        ({"optimizer": {"name": "Adam", "momentum": 1}}, "optimizer: Adam"),
        ({"scheduler": {"name": "StepLR"}}, "scheduler: StepLR"),
        ({"network": {"name": "cnn", "chanels": [1]}}, "network: cnn"),
        ({"network": {"name": "cnn", "activation": "Nope"}}, "activation='Nope'"),
        ({"network": {"name": "lenet"}}, "network.name='lenet'"),
        ({"data": {"name": "mnist"}}, "data.name='mnist'"),
        ({"n_epochs": 0}, "n_epochs=0"),
        ({"epochs": 1}, "epochs"),
        ({"batch_size": None}, "batch_size"),
        ({"network": "cnn"}, "network='cnn'"),
        ({"label_smoothing": "much"}, "label_smoothing"),
    ],
)
def test_what_is_wrong_is_named(data, changes, message):
    with pytest.raises(PruningError, match=message):
        trainer_of(data, **changes)
