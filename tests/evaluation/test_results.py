import pytest

from rl_crop.core.errors import PruningError
from rl_crop.evaluation import RunConfig
from rl_crop.evaluation.results import CELL, load_results, pick
from rl_crop.evaluation.study import Cell
from rl_crop.files import read_json, write_json, write_text
from tests.evaluation.studies import Key, said, write_result


@pytest.fixture
def folder(tmp_path):
    for seed, score in enumerate([500.0, 400.0]):
        write_result(tmp_path, "cart__pole", "dense", "0", seed, score)
    write_result(tmp_path, "cart__pole", "crop", "0.9", 0, 300.0)
    return tmp_path


def test_a_result_is_read(folder):
    results = load_results(folder)
    assert results.tasks == ["cart__pole"] and results.groups("cart__pole") == [("dense", "0"), ("crop", "0.9")]
    assert list(results.of("cart__pole", "dense", "0")["score"]) == [500.0, 400.0]
    (run,) = results.of("cart__pole", "crop", "0.9").itertuples()
    assert (run.score, run.last, run.n_params) == (300.0, 299.0, 100)
    assert run.cuts == (0.25,) and run.decided_by == ("lazy",) and run.widths == {"pi": [5, 6], "vf": [7]}


def test_a_single_network_has_a_name_too(folder):
    path = folder / "cart__pole__crop__0.9__seed0__00000000.json"
    write_json(path, read_json(path) | {"widths": [5, 6]})
    assert load_results(folder).of("cart__pole", "crop", "0.9")["widths"].iloc[0] == {"net": [5, 6]}


def test_without_a_study_every_arm_is_expected_on_every_seed(folder):
    assert said(load_results(folder).missing) == {Key("cart__pole", "crop", "0.9", 1): "not run yet"}


def test_a_run_that_broke_is_a_failure_one_that_was_killed_is_missing(folder):
    write_text(folder / "cart__pole__crop__0.9__seed1__11111111.failed.txt", "Traceback\nPruningError: no data\n")
    write_text(folder / "cart__pole__crop__0.9__seed2__22222222.failed.txt", "The process ended with exit code -9\n")
    write_result(folder, "cart__pole", "dense", "0", 2, float("nan"))
    results = load_results(folder)
    assert said(results.failures) == {
        Key("cart__pole", "crop", "0.9", 1): "PruningError: no data",
        Key("cart__pole", "dense", "0", 2): "the final return is no number",
    }
    assert said(results.missing) == {Key("cart__pole", "crop", "0.9", 2): "The process ended with exit code -9"}
    assert list(pick(results.failures, "cart__pole", "crop", "0.9")["seed"]) == [1]


def test_a_failure_that_was_run_again_is_forgotten(folder):
    write_text(folder / "cart__pole__crop__0.9__seed0__00000000.failed.txt", "PruningError: no data\n")
    assert load_results(folder).failures.empty


def test_a_study_says_what_is_missing_and_what_is_not_its_own(tmp_path):
    config = RunConfig.from_dict({"env": "CartPole-v1", "algo": "ppo", "n_timesteps": 1000})
    cells = [Cell("task", "dense", 0, seed, config) for seed in range(3)]
    write_result(tmp_path, "task", "dense", "0", 0, 1.0, cells[0].hash)
    write_result(tmp_path, "task", "dense", "0", 1, 2.0, "0" * 8)  # of an earlier configuration
    results = load_results(tmp_path, cells)
    assert [Key(*run) for run in results.runs[CELL].itertuples(index=False)] == [Key("task", "dense", "0", 0)]
    assert list(said(results.missing)) == [Key("task", "dense", "0", 1), Key("task", "dense", "0", 2)]
    assert results.stale == ("task__dense__0__seed1__00000000",)


def test_what_cannot_be_told_apart_is_refused(folder):
    write_result(folder, "cart__pole", "dense", "0", 0, 1.0, "12345678")
    with pytest.raises(PruningError, match="two results of cart__pole dense 0 0"):
        load_results(folder)


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(PruningError, match="No results"):
        load_results(tmp_path)
    write_text(tmp_path / "other.json", "{}")
    with pytest.raises(PruningError, match="No results"), pytest.warns(UserWarning, match="other.json is damaged"):
        load_results(tmp_path)
