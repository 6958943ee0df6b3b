"""Densities solve to the exact total, and selection keeps exactly as many elements as asked."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.masking.distributions import ELEMENT_SCOPES, counts, er, erk, n_kept, select, uniform

SHAPES = {
    "mlp": {"0": (64, 4), "2": (64, 64), "4": (2, 64)},
    "cnn": {"0": (32, 3, 8, 8), "2": (64, 32, 4, 4), "4": (64, 64, 3, 3), "6": (512, 3136), "8": (6, 512)},
    "one": {"0": (3, 5)},
}


@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.5, 0.9, 0.98, 0.999])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("function", [uniform, er, erk])
def test_densities_add_up_to_exactly_the_total(function, shapes, sparsity):
    size = {name: math.prod(shape) for name, shape in shapes.items()}
    found = function(shapes, 1 - sparsity)
    total = sum(found[name] * size[name] for name in shapes)
    assert total == pytest.approx((1 - sparsity) * sum(size.values()), rel=1e-12)
    assert all(0 <= density <= 1 for density in found.values())


@pytest.mark.parametrize("shapes", [SHAPES["mlp"], SHAPES["cnn"]])
@pytest.mark.parametrize(
    ("function", "share"), [(er, lambda s: (s[0] + s[1]) / (s[0] * s[1])), (erk, lambda s: sum(s) / math.prod(s))]
)
def test_what_is_not_dense_has_densities_in_proportion(function, share, shapes):
    saturated = set()
    for sparsity in (0.3, 0.6, 0.8, 0.9, 0.95):
        found = function(shapes, 1 - sparsity)
        ratios = [found[name] / share(shape) for name, shape in shapes.items() if found[name] < 1]
        assert ratios == pytest.approx([ratios[0]] * len(ratios), rel=1e-12)
        dense = [name for name, density in found.items() if density == 1]
        assert all(ratios[0] * share(shapes[name]) >= 1 for name in dense)  # and no tensor is dense without need
        saturated |= set(dense)
    assert saturated


@pytest.mark.parametrize("scope", ["layer", "er", "erk"])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_counts_are_whole_and_add_up(scope, shapes):
    for sparsity in np.linspace(0, 0.999, 41):
        found, total = counts(shapes, float(sparsity), scope), sum(math.prod(shape) for shape in shapes.values())
        assert sum(found.values()) == n_kept(total, float(sparsity))
        density = {"layer": uniform, "er": er, "erk": erk}[scope](shapes, 1 - float(sparsity))
        for name, shape in shapes.items():
            assert 0 <= found[name] <= math.prod(shape) and abs(found[name] - density[name] * math.prod(shape)) <= 1 + 1e-9


def test_the_number_kept_is_that_of_exact_arithmetic():
    for total in (1, 7, 10, 1000, 4480, 123_457, 10_000_000):
        for percent in range(0, 1000, 7):
            expected = total * (1 - Fraction(percent, 1000))
            assert n_kept(total, percent / 1000) == math.floor(expected)


@pytest.mark.parametrize("scope", ELEMENT_SCOPES)
def test_exactly_so_many_stay_and_they_are_the_highest(scope):
    scores = {name: th.rand(shape) for name, shape in SHAPES["mlp"].items()}
    keep = select(scores, 0.9, scope)
    assert {name: mask.shape for name, mask in keep.items()} == {name: score.shape for name, score in scores.items()}
    assert sum(int(mask.sum()) for mask in keep.values()) == n_kept(sum(s.numel() for s in scores.values()), 0.9)
    together = scope in ("network", "global")
    for names in [list(scores)] if together else [[name] for name in scores]:
        kept = th.cat([scores[name][keep[name]] for name in names])
        gone = th.cat([scores[name][~keep[name]] for name in names])
        assert len(gone) == 0 or kept.min() > gone.max()


@pytest.mark.parametrize("scope", ELEMENT_SCOPES)
def test_of_equal_scores_the_first_stay(scope):
    keep = select({"a": th.zeros(10), "b": th.zeros(30)}, 0.5, scope)
    flat = th.cat([keep["a"], keep["b"]])
    assert int(flat.sum()) == 20
    if scope in ("network", "global"):
        assert flat[:20].all()
    else:
        assert all(mask[: int(mask.sum())].all() for mask in keep.values())


def test_infinite_scores_are_ranked_and_others_refused():
    keep = select({"a": th.tensor([1.0, math.inf, -math.inf, 0.0])}, 0.5)
    assert keep["a"].tolist() == [True, True, False, False]
    with pytest.raises(PruningError, match="score of 'a' is not a number"):
        select({"a": th.tensor([1.0, math.nan])}, 0.5)
    with pytest.raises(PruningError, match="scope='unit'"):
        select({"a": th.ones(2)}, 0.5, "unit")
    assert select({}, 0.5) == {}


@pytest.mark.parametrize("scope", ELEMENT_SCOPES)
def test_what_is_gone_counts_and_others_make_up_for_it(scope):
    scores = {name: th.rand(shape) for name, shape in SHAPES["mlp"].items()}
    among = {name: th.rand(score.shape) < 0.6 for name, score in scores.items()}
    among["4"][:] = False
    among["4"][0, 0] = True
    total = sum(score.numel() for score in scores.values())
    keep = select(scores, 0.7, scope, among)
    assert sum(int(mask.sum()) for mask in keep.values()) == n_kept(total, 0.7)
    assert all(not (mask & ~among[name]).any() for name, mask in keep.items())
    everything = select(scores, 0.1, scope, among)  # less than is gone already
    assert all(th.equal(mask, among[name]) for name, mask in everything.items())
