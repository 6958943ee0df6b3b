"""What is drawn is what the study says: marks are found by their cell and read back from the axes."""

from itertools import combinations

import numpy as np
import pytest

from rl_crop.evaluation.aggregate import improvements, overall
from rl_crop.evaluation.figures.curves import draw_curves
from rl_crop.evaluation.figures.improvement import draw_improvements, rows_of
from rl_crop.evaluation.figures.overall import draw_overall, draw_profiles
from rl_crop.evaluation.figures.style import arm_styles, panels, tag
from rl_crop.evaluation.figures.tradeoffs import CPU_SECONDS, PARAMETERS, draw_tradeoff
from rl_crop.evaluation.figures.widths import draw_widths, layers
from tests.evaluation.studies import made_at_fixed_times, make_results

STYLES = arm_styles(["dense", "crop", "at_10", "at_50", "random"])


@pytest.fixture
def results():
    return made_at_fixed_times({"a": [10.0]})


@pytest.fixture
def axes():
    return panels(1, 1, (4, 3))[1][0, 0]


def lines(axes, arm, sparsity, seed="*"):
    """The points of the lines of a cell."""
    return [np.transpose(line.get_data()).tolist() for line in axes.lines if line.get_gid() == tag(arm, sparsity, seed)]


def test_returns_stand_at_their_cost(results, axes):
    draw_tradeoff(axes, results, "a", STYLES, CPU_SECONDS)
    assert lines(axes, "crop", "0.9", 2) == [[[12.0, 70.0]]]
    interval, mark = lines(axes, "crop", "0.9")
    assert interval == [[11.0, 70.0], [11.0, 90.0]] and mark == [[11.0, 80.0]]


@pytest.mark.parametrize("lowest,text", [(-1e4, ["1 of 7 runs below"]), (50.0, [])])
def test_a_collapsed_run_does_not_flatten_the_others(axes, lowest, text):
    results = make_results({("a", "dense", "0"): [100.0, 110.0, 120.0], ("a", "crop", "0.9"): [lowest, 90.0, 80.0, 95.0]})
    draw_tradeoff(axes, results, "a", STYLES, CPU_SECONDS)
    assert [one.get_text() for one in axes.texts] == text
    assert (axes.get_ylim()[0] > lowest) == bool(text) and axes.get_ylim()[0] < 80 and axes.get_ylim()[1] > 120


def test_arms_of_one_sparsity_stand_around_their_parameters(results, axes):
    draw_tradeoff(axes, results, "a", STYLES, PARAMETERS)
    places = [lines(axes, arm, "0.9")[-1][0][0] for arm in ("at_10", "at_50", "crop", "random")]
    assert places == sorted(places) and len(set(places)) == 4
    assert np.prod(places) ** (1 / 4) == pytest.approx(70.0)  # what all four have, on a logarithmic axis
    assert lines(axes, "dense", "0")[-2][-1] == [640.0, 110.0]


def test_the_numbers_of_near_sparsities_do_not_overlap():
    results = make_results(
        {("a", "dense", "0"): [1.0, 2.0], **{("a", "crop", s): [1.0, 2.0] for s in ("0.9", "0.92", "0.94")}}, {"a": [0.0]}
    )
    axes = panels(1, 1, (4, 3))[1][0, 0]
    draw_tradeoff(axes, results, "a", STYLES, PARAMETERS)
    axes.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 3 and not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_curves_their_mean_and_their_cuts(results, axes):
    draw_curves(axes, results, "a", "crop", "0.9", STYLES)
    assert lines(axes, "crop", "0.9") == [[[500.0, 40.0], [1000.0, 80.0]]]
    curve, final, cut = lines(axes, "crop", "0.9", 1)
    assert curve == [[500.0, 45.0], [1000.0, 90.0]] and final == [[1000.0, 90.0]]
    assert [x for x, _ in cut] == [200.0, 200.0]
    assert "3 seeds" in axes.get_title()


def test_arms_of_one_task_have_one_scale(results):
    first, second = panels(1, 2, (4, 3))[1][0]
    draw_curves(first, results, "a", "at_50", "0.9", STYLES)
    draw_curves(second, results, "a", "dense", "0", STYLES)
    assert first.get_ylim() == second.get_ylim() and first.get_ylim()[1] > 130


def test_a_final_return_far_below_the_axes_stays_out_of_the_picture():
    results = make_results({("a", "dense", "0"): [100.0] * 60, ("a", "crop", "0.9"): [100.0, -1e6]})
    axes = panels(1, 1, (4, 3))[1][0, 0]
    draw_curves(axes, results, "a", "crop", "0.9", STYLES)
    axes.figure.canvas.draw()
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [dot.get_clip_on() for dot in dots] == [False, True]
    assert axes.get_ylim()[0] > -1e6 and axes.get_window_extent().height > 100


def test_widths_are_means_over_seeds(results, axes):
    runs = results.of("a", "crop", "0.9")
    assert layers(runs) == [("pi", 0), ("pi", 1), ("vf", 0)]
    draw_widths(axes, results, "a", ("pi", 1), STYLES)
    assert {bar.get_gid(): bar.get_width() for bar in axes.patches}[tag("crop", "0.9")] == 8.0
    assert [lines(axes, "crop", "0.9", seed)[0][0][0] for seed in range(3)] == [7.0, 8.0, 9.0]
    assert axes.get_title() == "actor, layer 2 (dense: 65)"


def test_improvements_in_rows(results, axes):
    found = improvements(results, ["a"], "0.9")
    assert rows_of(found)[0] == ("dense", "0") and ("random", "0.9") not in rows_of(found)
    draw_improvements(axes, found, "random", STYLES)
    ((x, y),) = lines(axes, "crop", "0.9")[-1]
    # 80, 90 and 70 against 70, 95 and 0: 2 + 2 + 1.5 of 9
    assert x == pytest.approx(5.5 / 9) and y == rows_of(found).index(("crop", "0.9"))
    assert [text.get_text() for text in axes.get_yticklabels()][int(y)] == "crop 90 %"
    assert [text.get_text() for text in axes.texts if text.get_gid() == tag("crop", "0.9")] == ["2–0–1"]


def test_environments_together(results):
    rows, profiles = panels(1, 2, (4, 3))[1][0]
    found, _ = overall(results, ["a"], "0.9")
    draw_overall(rows, found, STYLES)
    assert lines(rows, "dense", "0")[-1] == [[pytest.approx(1.0), 0.0]]
    assert lines(rows, "crop", "0.9")[-1][0][0] == pytest.approx(0.7)  # (80 - 10) / (110 - 10)
    assert [line.get_xdata()[0] for line in rows.lines[-2:]] == [1, 0.95]  # dense, and the margin of its non-inferiority
    draw_profiles(profiles, found, STYLES)
    (steps,) = lines(profiles, "crop", "0.9")
    shares = {round(share, 4) for _, share in steps}
    assert steps[0][1] == 1 and steps[-1][1] == 0 and shares == {1.0, 0.6667, 0.3333, 0.0}
