"""Layers about which a criterion says nothing do not fall by their position."""

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn

from rl_crop.core.prune import plan_pruning, prune_model
from tests.zoo.networks import Calls, batches, mlp, mse
from tests.zoo.snapshots import same, state

WIDE = (3, 24, 24, 24, 2)


def frozen(model, *places):
    for place in places:
        model[place].requires_grad_(False)
    return model


def no_grad_backbone():
    def forward(model, x):
        with th.no_grad():
            h = th.tanh(model.b(th.tanh(model.a(x))))
        return model.d(th.tanh(model.c(h)))

    return Calls(forward, a=nn.Linear(3, 24), b=nn.Linear(24, 24), c=nn.Linear(24, 24), d=nn.Linear(24, 2))


def detached():
    return Calls(
        lambda m, x: m.d(th.tanh(m.c(th.tanh(m.b(th.tanh(m.a(x)))).detach()))),
        a=nn.Linear(3, 24), b=nn.Linear(24, 24), c=nn.Linear(24, 24), d=nn.Linear(24, 2),
    )  # fmt: skip


def low_rank_adapters():
    def forward(model, x):
        h = th.tanh(model.b(th.tanh(model.a(x))))
        return model.d(h) + model.up(model.down(h))

    model = Calls(
        forward, a=nn.Linear(3, 24), b=nn.Linear(24, 24), d=nn.Linear(24, 2), down=nn.Linear(24, 4), up=nn.Linear(4, 2)
    )
    for name in "abd":
        getattr(model, name).requires_grad_(False)
    return model


SILENT = {
    "backbone": (lambda: frozen(mlp(WIDE), 0, 2, 4), {"0", "2"}),
    "first layer": (lambda: frozen(mlp(WIDE), 0, 2), {"0"}),
    "no_grad": (no_grad_backbone, {"a"}),
    "detached": (detached, {"a"}),
    "adapters": (low_rank_adapters, {"a"}),
}


@pytest.mark.parametrize("criterion", ["crop", "snip", "grasp", "taylor", "snap", "crop_gate", "span_crop"])
@pytest.mark.parametrize("case", SILENT)
def test_layers_without_a_signal_lose_the_share_that_others_lose(case, criterion):
    build, silent = SILENT[case]
    model, data = build(), batches()
    before = state(model)
    plan = plan_pruning(model, mse, data, 0.5, criterion=criterion)
    assert same(before, state(model))
    said = {note.partition(":")[0] for note in plan.notes}
    assert silent <= said
    shares = {name: plan.widths_after[name] / plan.widths_before[name] for name in said}
    assert min(shares.values()) > 0.2, shares
    report = plan.apply()
    assert any(criterion in note and "magnitude" in note for note in report.notes) and str(report)


def test_a_layer_without_a_signal_is_ranked_by_magnitude():
    model, data = frozen(mlp(WIDE), 0, 2, 4), batches()
    plan = plan_pruning(model, mse, data, 0.5, criterion="crop")
    sizes = plan_pruning(model, mse, data, 0.5, criterion="magnitude").scores["0"]
    assert np.array_equal(np.argsort(plan.scores["0"]), np.argsort(sizes))


def test_scores_that_are_all_equal_strip_no_layer():
    plan = plan_pruning(
        mlp(WIDE), None, batches(), 0.5, compensation="none",
        criterion=lambda context: {group.name: np.ones(group.n_units) for group in context.groups},
    )  # fmt: skip
    assert max(plan.widths_after.values()) - min(plan.widths_after.values()) <= 1 and len(plan.notes) == 3


def test_units_that_are_tied_at_zero_go_from_all_layers():
    def half_dead(context):
        return {group.name: np.arange(group.n_units) // 12.0 for group in context.groups}

    plan = plan_pruning(mlp(WIDE), None, batches(), 0.3, compensation="none", criterion=half_dead)
    assert max(plan.widths_after.values()) - min(plan.widths_after.values()) <= 1 and not plan.notes


def test_outputs_that_are_infinite_by_design_do_not_refuse_a_cut():
    masked = {
        "-inf": lambda y: th.where(th.arange(2) == 1, -th.inf, y),
        "nan": lambda y: y.masked_fill(th.arange(2) == 0, th.nan),
        "both": lambda y: (y, th.full((len(y), 3), th.inf)),
        "log of nothing": lambda y: F.one_hot(th.zeros(len(y), dtype=th.long), 2).to(y).log() + y,
    }
    for mask in masked.values():
        for compensation in ("none", "bias", "least_squares", "distill"):
            model = Calls(lambda m, x, mask=mask: mask(m.b(th.tanh(m.a(x)))), a=nn.Linear(3, 12), b=nn.Linear(12, 2))
            data = [x for x, _ in batches()]
            report = prune_model(model, None, data, 0.5, criterion="magnitude", compensation=compensation)
            assert report.widths == {"a": (12, 6)} and th.isfinite(model.b.weight).all()
