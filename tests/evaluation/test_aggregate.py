import pytest

from rl_crop.evaluation.aggregate import arms_of, improvement, improvements, overall, separation, sparsities, summarise
from rl_crop.evaluation.study_report import study_sections
from tests.evaluation.studies import Key, make_results


def test_returns_are_normalised_between_random_and_dense():
    results = make_results({("a", "dense", "0"): [80, 100, 120], ("a", "crop", "0.9"): [50, 60]}, {"a": [-10, 10]})
    assert results.scale["a"] == (0.0, 100.0)
    one = summarise(results, "a", "crop", "0.9")
    assert (one.iqm, one.normalised, one.normalised_interval) == (55.0, pytest.approx(0.55), pytest.approx((0.5, 0.6)))
    assert one.non_inferior is False and one.margin == 0.95


@pytest.mark.parametrize("random", [{}, {"a": [100.0]}, {"a": [120.0]}])
def test_no_scale_where_random_is_unknown_or_dense_does_not_lead(random):
    results = make_results({("a", "dense", "0"): [100.0] * 3, ("a", "crop", "0.9"): [50.0] * 3}, random)
    one = summarise(results, "a", "crop", "0.9")
    assert one.normalised is None and one.non_inferior is None and one.iqm == 50


@pytest.mark.parametrize("returns,expected", [([96, 98, 97], True), ([94, 99, 99], False), ([95, 95, 95], False)])
def test_non_inferior_where_the_lower_bound_is_above_the_margin(returns, expected):
    results = make_results({("a", "dense", "0"): [100] * 3, ("a", "crop", "0.9"): returns}, {"a": [0.0]})
    assert summarise(results, "a", "crop", "0.9").non_inferior is expected


def test_a_wider_margin_on_mujoco():
    groups = {("a", "dense", "0"): [100] * 3, ("a", "crop", "0.9"): [92] * 3}
    results = make_results(groups, {"a": [0.0]}, settings=dict.fromkeys(("dense", "crop"), {"env": "HalfCheetah-v5"}))
    one = summarise(results, "a", "crop", "0.9")
    assert one.margin == 0.90 and one.non_inferior
    both = groups | {("b", arm, sparsity): returns for (_, arm, sparsity), returns in groups.items()}
    mixed = make_results(both, {"a": [0.0], "b": [0.0]})
    assert [arm.margin for arm in overall(mixed, ["a", "b"], "0.9")[0]] == [0.95, 0.95]


def test_one_seed_has_no_interval():
    one = summarise(make_results({("a", "dense", "0"): [1.0]}, {"a": [0.0]}), "a", "dense", "0")
    assert one.interval is None and one.normalised == 1 and one.non_inferior is None


@pytest.mark.parametrize("random,expected", [({"a": [2.0, 4.0]}, 3.0), ({}, 50.0)])
def test_a_failure_counts_as_random_or_as_the_worst(random, expected):
    arms = {("a", "dense", "0"): [100.0] * 3, ("a", "crop", "0.9"): [50.0, 60.0]}
    results = make_results(arms, random, failures=[Key("a", "crop", "0.9", 2)])
    assert results.scores("a", "crop", "0.9").to_dict() == {0: 50.0, 1: 60.0, 2: expected}
    assert len(summarise(results, "a", "crop", "0.9").runs) == 2


DENSE = {("a", "dense", "0"): [90, 100, 110]}


@pytest.mark.parametrize(
    "others,separates,reason",
    [
        ({"random": [10, 20, 30]}, True, "random reaches 30 at most"),
        ({"dense_small": [10, 20, 30], "random": [100, 101, 99]}, True, "dense_small reaches 30 at most"),
        ({"dense_small": [90, 95, 105], "random": [80, 101, 99]}, False, "random and dense_small reach dense"),
        ({"random": [10, 20]}, False, "fewer than 3 seeds"),
        ({"crop": [10, 20, 30]}, False, "fewer than 3 seeds"),
        ({"random": [110, 110, 110], "dense_small": [110, 110, 1]}, False, "saturated: 67 % of the runs end at 110"),
    ],
)
def test_which_environments_tell_arms_apart(others, separates, reason):
    results = make_results(DENSE | {("a", arm, "0.9"): returns for arm, returns in others.items()})
    verdict = separation(results, "a", "0.9")
    assert verdict.separates is separates and reason in verdict.reason


def test_a_task_without_a_run_at_a_sparsity_tells_nothing_there():
    """A study may ask for other sparsities on another task, of some arms alone."""
    results = make_results(DENSE | {("a", "crop", "0.9"): [50.0] * 3, ("b", "crop", "actor0.9_critic0.99"): [50.0] * 3})
    verdict = separation(results, "b", "0.9")
    assert not verdict.separates and "no run at this sparsity" in verdict.reason
    sections = study_sections(results)
    assert len(sections) == 5  # two sparsities, two tasks, what is missing
    drawn = {section.task: [one.cells.get("sparsity") for one in section.pictures] for section in sections if section.task}
    assert "0.9" in drawn["a"] and "0.9" not in drawn["b"] and "actor0.9_critic0.99" in drawn["b"]


@pytest.mark.parametrize("random,says", [(-10_000.0, True), (0.0, False)])
def test_a_scale_that_is_too_coarse_for_the_arms_is_named(random, says):
    arms = DENSE | {("a", "crop", "0.9"): [70.0] * 3, ("a", "random", "0.9"): [50.0] * 3}
    together, alone, _ = study_sections(make_results(arms, {"a": [random]}))
    assert all(("do not tell the arms apart here" in " ".join(section.notes)) is says for section in (together, alone))


def test_improvement_uses_the_seeds_that_both_have():
    results = make_results({("a", "crop", "0.9"): [3, 1, 5, -9], ("a", "random", "0.9"): [2, 1, 9]})
    found = improvement(results, ["a"], "0.9", "crop", "random")
    # 3, 1, 5 against 2, 1, 9: wins 3>2, 3>1, 5>2, 5>1; one tie
    assert found.probability == pytest.approx(4.5 / 9) and (found.wins, found.ties, found.losses) == (1, 1, 1)
    assert improvement(results, ["a"], "0.9", "crop", "magnitude") is None
    assert improvement(results, [], "0.9", "crop", "random") is None


def test_improvement_is_averaged_over_environments():
    arms = {("a", "crop", "0.9"): [1] * 4, ("a", "random", "0.9"): [0] * 4}
    arms |= {("b", "crop", "0.9"): [0], ("b", "random", "0.9"): [1], ("b", "dense", "0"): [2]}
    results = make_results(arms)
    assert improvement(results, ["a", "b"], "0.9", "crop", "random").probability == 0.5
    assert improvement(results, ["b"], "0.9", "dense", "random").probability == 1.0
    assert sparsities(results) == ["0.9"] and arms_of(results, ["b"], "0.9") == ["dense", "crop", "random"]


def test_every_small_network_is_a_rival():
    arms = {("a", name, "0.9"): [1.0, 2.0] for name in ("crop", "dense_small", "dense_small_crop", "magnitude", "other")}
    found = improvements(make_results(arms), ["a"], "0.9")
    assert list(dict.fromkeys(one.rival for one in found)) == ["dense_small", "dense_small_crop", "magnitude"]
    assert all(sum(one.rival == rival for one in found) == 4 for rival in ("dense_small", "dense_small_crop", "magnitude"))


def test_environments_together():
    arms = {
        ("a", "dense", "0"): [10, 10, 10], ("a", "crop", "0.9"): [5, 5, 5], ("a", "random", "0.9"): [1, 1, 1],
        ("b", "dense", "0"): [100] * 3, ("b", "crop", "0.9"): [100] * 3,
        ("c", "dense", "0"): [1] * 3, ("c", "crop", "0.9"): [1] * 3,
    }  # fmt: skip
    found, left_out = overall(make_results(arms, {"a": [0.0], "b": [0.0]}), ["a", "b", "c"], "0.9")
    assert {arm.arm: (arm.iqm, arm.interval) for arm in found} == {"crop": (0.75, (0.75, 0.75)), "dense": (1, (1, 1))}
    assert len(left_out) == 2 and left_out[0].startswith("c: no scale") and left_out[1] == "random: no run in b"
