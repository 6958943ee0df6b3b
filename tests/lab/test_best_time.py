"""Prune times found against fixed ones: who is compared with whom, on which seeds, and what is drawn."""

import numpy as np
import pytest

from lab.best_time import compare_times, draw_times, first_cuts, main, times_table
from plot import Args
from rl_crop.evaluation.figures.style import arm_styles, panels
from tests.evaluation.studies import made_at_fixed_times, make_results, write_result
from tests.evaluation.test_figures import lines

STYLES = arm_styles(["dense", "crop", "at_10", "at_50", "random"])


def test_the_best_fixed_time_is_chosen_on_half_the_seeds_and_tested_on_the_others():
    # The time 0.5 is best on seeds 0 and 2, and worse than the time found on seeds 1 and 3.
    arms = {
        ("a", "auto", "0.9"): [5, 6, 5, 8], ("a", "at_10", "0.9"): [1, 9, 1, 9], ("a", "at_50", "0.9"): [8, 3, 8, 7],
        ("a", "at_50_of_another_sparsity", "0.5"): [99] * 4, ("a", "dense", "0"): [99] * 4,
    }  # fmt: skip
    times = {"auto": {"when": "lazy", "cut": 0.2}, "at_10": {"when": 0.1, "cut": 0.1}, "at_50": {"when": 0.5, "cut": 0.5}}
    times["at_50_of_another_sparsity"] = times["at_50"]
    (found,) = compare_times(make_results(arms, settings=times), "a")
    assert (found.automatic, found.chosen, found.fixed) == ("auto", "at_50", ("at_10", "at_50"))
    assert (found.chosen_on, found.tested_on) == ((0, 2), (1, 3))
    assert (found.automatic_iqm, found.chosen_iqm, found.probability) == (7.0, 5.0, 3 / 4)
    assert times_table([found]).rows[0][:5] == ["a", "auto 90 %", "at_50 (of at_10, at_50)", "0, 2", "1, 3"]


def test_bounds_and_kappa_are_part_of_the_prune_time():
    arms = {("a", "auto", "0.9"): [5, 6], ("a", "slower", "0.9"): [7, 8], ("a", "at_10", "0.9"): [1, 9]}
    times = {"auto": {"when": "lazy"}, "slower": {"when": "lazy", "kappa": 0.03, "earliest": 0.2}, "at_10": {"when": 0.1}}
    found = compare_times(make_results(arms, settings=times), "a")
    assert [(one.automatic, one.fixed) for one in found] == [("auto", ("at_10",)), ("slower", ("at_10",))]


def test_no_comparison_of_times_without_fixed_ones():
    results = make_results({("a", "auto", "0.9"): [5, 6], ("a", "dense", "0"): [1, 2]}, settings={"auto": {"when": "lazy"}})
    assert compare_times(results, "a") == []


def test_prune_times_of_two_sparsities_have_one_scale_without_a_collapsed_run():
    arms = {("a", "dense", "0"): [100.0, 110.0, 120.0], ("a", "crop", "0.9"): [-1e4, 90.0, 80.0, 95.0]}
    arms[("a", "crop", "0.5")] = [95.0, 90.0, 100.0, 95.0]
    results = make_results(arms, settings={"crop": {"when": "lazy", "cut": 0.2}})
    row = panels(1, 2, (4, 3), sharey=True)[1][0]
    for axes, sparsity in zip(row, ("0.5", "0.9")):
        draw_times(axes, results, "a", sparsity, STYLES)
    assert [[one.get_text() for one in axes.texts] for axes in row] == [[], ["1 of 4 runs below"]]
    assert row[0].get_ylim() == row[1].get_ylim() and 0 < row[0].get_ylim()[0] < 80 and row[0].get_ylim()[1] > 120


def test_fixed_prune_times_are_joined_and_stand_where_they_cut():
    results, axes = made_at_fixed_times(), panels(1, 1, (4, 3))[1][0, 0]
    draw_times(axes, results, "a", "0.9", STYLES)
    (joined,) = lines(axes, "*", "0.9")
    assert np.array(joined) == pytest.approx(np.array([[0.1, 60.0], [0.5, 30.0]]))
    assert lines(axes, "at_50", "0.9", 2) == [[[0.5, 50.0]]] and lines(axes, "crop", "0.9")[-1] == [[pytest.approx(0.2), 80.0]]
    assert lines(axes, "random", "0.9") == []  # it has no settings of a cut
    assert axes.get_xlim()[1] > 0.5


def test_times_are_drawn_where_there_are_several():
    arms = {("a", "dense", "0"): [1.0, 2.0], ("a", "crop", "0.9"): [1.0, 2.0], ("a", "random", "0.9"): [0.0, 1.0]}
    lazy, fixed = {"when": "lazy", "cut": 0.3}, {"when": 0.5, "cut": 0.5}
    assert len(first_cuts(make_results(arms, settings={"crop": lazy, "random": lazy}), "a")) == 1
    assert len(first_cuts(make_results(arms, settings={"crop": lazy, "random": fixed}), "a")) == 2


def test_the_script_reads_a_study(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_result(tmp_path / "small", "task", "dense", "0", 0, 500.0)
    main(Args(tmp_path / "small"))
    assert "No fixed time shares two seeds" in capsys.readouterr().out
