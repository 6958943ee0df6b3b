from dataclasses import replace

import pytest
import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.masking.distributions import n_kept
from rl_crop.core.prune import prune_model
from rl_crop.core.recipes.drivers import run_recipe
from rl_crop.core.recipes.registry import RECIPES
from rl_crop.core.recipes.systems.early_exits import MultiExit, in_groups
from rl_crop.supervised.objectives import accuracy, cross_entropy
from tests.zoo.networks import mlp
from tests.zoo.oracles import n_params
from tests.zoo.tasks import SmallTask

PHASES = replace(RECIPES["early_exits"], when=0.25, options={"groups": ("stages", "exits"), "n_rounds": 4})


def network(width=12):
    stages = [nn.Sequential(nn.Linear(4, width), nn.Tanh()), nn.Sequential(nn.Linear(width, width), nn.Tanh())]
    return MultiExit(stages, [nn.Linear(width, 3), nn.Linear(width, 3)])


def blobs(n=90):
    """Three classes around three points."""
    y = th.arange(n) % 3
    return th.randn(n, 4) * 0.4 + 3 * F.one_hot(y, 4), y


def loss(model, batch):
    return cross_entropy(model(batch[0]), batch[1])


def test_every_exit_learns_and_the_loss_is_their_mean():
    model, data = network(), [blobs(), blobs()]
    task = SmallTask(model, data, loss, steps=100)
    logits = model(data[0][0])
    assert logits.shape == (90, 2, 3)
    both = [F.cross_entropy(exit_, data[0][1]) for exit_ in logits.unbind(1)]
    assert th.isclose(loss(model, data[0]), (both[0] + both[1]) / 2)
    right = [(exit_.argmax(-1) == data[0][1]).double().mean() for exit_ in logits.unbind(1)]
    assert th.isclose(accuracy(logits, data[0][1]), (right[0] + right[1]) / 2)
    task.train()
    x, y = blobs()
    assert all((exit_.argmax(-1) == y).double().mean() > 0.95 for exit_ in model(x).unbind(1))


def test_predictions_leave_at_the_first_exit_that_is_sure():
    model, (x, _) = network(), blobs(40)
    logits = model(x)
    for confidence in (0.0, 0.4, 0.45, 1.1):
        answers, exits = model.predict(x, confidence)
        for row in range(40):
            first = logits[row, 0].softmax(-1).max() >= confidence
            assert int(exits[row]) == (0 if first else 1)
            assert th.allclose(answers[row], logits[row, int(exits[row])], rtol=1e-12)
    assert (model.predict(x, 0.0)[1] == 0).all() and (model.predict(x, 1.1)[1] == 1).all()


def test_later_stages_see_only_what_is_left():
    model, (x, _) = network(), blobs(40)
    seen = []
    model.stages[1].register_forward_pre_hook(lambda layer, inputs: seen.append(len(inputs[0])))
    exits = model.predict(x, model(x)[:, 0].softmax(-1).amax(-1).median().item())[1]
    assert seen == [40, int((exits == 1).sum())] and 0 < seen[1] < 40


def sparsities(model):
    groups = {"stages": [model.stages[0][0], model.stages[1][0]], "exits": list(model.exits)}
    return {
        name: sum(int((layer.weight == 0).sum()) for layer in layers) / sum(layer.weight.numel() for layer in layers)
        for name, layers in groups.items()
    }


def test_phases_prune_group_after_group_to_the_exact_total(monkeypatch):
    task = SmallTask(network(), [blobs()], loss, steps=160)
    train, seen = task.train, []

    def watched(share=1.0, after_step=None):
        seen.append(sparsities(task.model))
        train(share, after_step)

    monkeypatch.setattr(task, "train", watched)
    report = run_recipe(task, PHASES, 0.83, 0)
    end = sparsities(task.model)
    weights = [p for p in task.model.parameters() if p.dim() > 1]
    total = sum(p.numel() for p in weights)
    assert sum(int((p != 0).sum()) for p in weights) == n_kept(total, 0.83)
    assert abs(report.sparsity["total"] - (1 - n_kept(total, 0.83) / total)) < 1e-12 and task.place == 160
    assert len(seen) == 9 and seen[0] == {"stages": 0.0, "exits": 0.0}
    for phase, name, other in ((seen[1:5], "stages", 0.0), (seen[5:], "exits", end["stages"])):
        rounds = [round_[name] for round_ in phase]
        assert sorted(rounds) == rounds and len(set(rounds)) == 4 and abs(rounds[-1] - 0.83) < 0.02
        assert {round_["exits" if name == "stages" else "stages"] for round_ in phase} == {other}
    assert all((exit_.argmax(-1) == task.data[0][1]).double().mean() > 0.9 for exit_ in task.model(task.data[0][0]).unbind(1))


def test_without_groups_the_networks_of_the_task_are_the_phases():
    task = SmallTask(mlp((3, 9, 2)), [(th.randn(20, 3), th.randn(20, 2))], steps=40)
    report = run_recipe(task, replace(RECIPES["early_exits"], when=0.0, options={"n_rounds": 2}), 0.5, 0)
    assert abs(report.sparsity["model"] - 23 / 45) < 1e-12


def test_groups_must_be_modules_of_one_network():
    task = SmallTask(network(), [blobs()], loss)
    subject = task.subject(task.batches(1))
    parts = {part.name: part.parameters for part in in_groups(subject, ("stages.0",)).networks}
    assert parts["stages.0"] == {"stages.0.0.weight", "stages.0.0.bias"} and len(parts["model"]) == 6
    with pytest.raises(PruningError, match="nothing"):
        in_groups(subject, ("stages", "nothing"))


def test_units_of_a_network_with_exits_can_be_cut():
    model, data = network(), [blobs()]
    before = n_params(model)
    report = prune_model(model, loss, data, 0.5)
    assert (
        n_params(model) < before
        and model(data[0][0]).shape == (90, 2, 3)
        and report.widths.keys() == {"stages.0.0", "stages.1.0"}
    )
