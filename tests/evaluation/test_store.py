"""Results on disk: one file a cell while a study runs, one file for all of them when they are merged."""

import dataclasses
import gzip
import json

import pytest

from rl_crop.core.errors import PruningError
from rl_crop.evaluation.results import load_results
from rl_crop.evaluation.store import Store
from rl_crop.evaluation.study import Cell
from rl_crop.evaluation.sweep import Sweep
from rl_crop.files import write_lines
from scripts import sweep as script
from tests.evaluation.studies import write_result


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


@pytest.fixture
def cells(tiny):
    return [Cell("task", "dense", 0, seed, tiny) for seed in range(4)]


def result(cell):
    timing = {"learn": 1.0, "learn_with_evaluation": 10.0}
    return {"task": cell.task, "hash": cell.hash, "widths": {"pi": [3], "vf": [2]}, "final": {"mean": 0.1}, "seconds": timing}


def statuses(store, cells, **options):
    return [progress.status for progress in Sweep(store, Nothing()).run(cells, **options)]


class Nothing:
    """An engine on which no cell may start."""

    capacity = 0

    def ended(self, timeout):
        raise AssertionError("a cell is to be run")

    def stop(self):
        pass


def test_what_is_merged_counts_as_before(store, cells):
    for cell in cells[:2]:
        store.record(cell, result(cell))
    store.record_failure(cells[2], "Traceback\nValueError: so it is")
    before = [*map(store.state, cells)], store.recorded()
    assert store.merge() == 3
    assert ([*map(store.state, cells)], store.recorded()) == before
    assert [path.name for path in store.folder.iterdir() if path.is_file()] == []
    assert store.result(cells[0]) == result(cells[0]) and store.error(cells[2]) == "ValueError: so it is"
    assert store.widths(dataclasses.replace(cells[3], widths_of=cells[0])) == {"pi": [3], "vf": [2]}
    assert statuses(store, cells[:3]) == ["skipped", "skipped", "failed"]


def test_merging_again_adds_what_came_and_gives_the_same_bytes_in_any_order(tmp_path, cells):
    one, other = Store(tmp_path / "one"), Store(tmp_path / "other")
    for store, order in ((one, cells), (other, cells[::-1])):
        for cell in order:
            store.record(cell, result(cell))
            if store is one:
                store.merge()
        store.merge()
    assert one.merged.read_bytes() == other.merged.read_bytes()
    lines = [json.loads(line) for line in gzip.open(one.merged, "rt")]
    assert [(line["name"], line["hash"]) for line in lines] == [(cell.name, cell.hash) for cell in cells]


def test_a_merged_failure_runs_again_on_request_and_gives_way_to_a_result(store, cells):
    for cell in cells[:2]:
        store.record_failure(cell, "no data")
    store.merge()
    store.record(cells[0], result(cells[0]))
    assert store.state(cells[0]) == "done" and list(store.recorded().failures) == [cells[1].name]
    store.forget_failures(cells)
    assert [*map(store.state, cells[:2])] == ["done", "to do"]
    store.merge()
    assert store.recorded() == ({cells[0].name: result(cells[0])}, {})


def test_reports_read_a_folder_and_the_file_alike(tmp_path):
    folder = tmp_path / "study"
    for seed in range(3):
        write_result(folder, "task", "dense", "0", seed, float(seed))
        write_result(folder, "task", "crop", "0.9", seed, float(seed))
    before, store = load_results(folder).runs, Store(folder)
    store.merge()
    assert load_results(folder).runs.equals(before) and load_results(store.merged).runs.equals(before)
    write_result(folder, "task", "random", "0.9", 0, 1.0)
    assert load_results(store.merged).groups("task") == [("dense", "0"), ("crop", "0.9"), ("random", "0.9")]


def test_a_cell_that_is_run_while_results_are_merged_is_not_lost(store, cells, monkeypatch):
    store.record_failure(cells[0], "no data")

    def slowly(path, lines):
        store.record(cells[0], result(cells[0]))  # the failure has been read by now
        store.record(cells[1], result(cells[1]))
        write_lines(path, lines)

    monkeypatch.setattr("rl_crop.evaluation.store.write_lines", slowly)
    store.merge()
    assert [*map(store.state, cells)] == ["done", "done", "to do", "to do"]


def test_two_cannot_merge_at_a_time(store, cells, monkeypatch):
    store.record(cells[0], result(cells[0]))
    monkeypatch.setattr("rl_crop.evaluation.store.write_lines", lambda path, lines: store.merge())
    with pytest.raises(PruningError, match="being merged already"):
        store.merge()
    assert store.state(cells[0]) == "done"


def test_the_command_merges(tmp_path, monkeypatch, capsys, tiny):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.yaml").write_text(json.dumps(tiny.canonical()))
    study = tmp_path / "study_small.yaml"
    study.write_text(
        json.dumps({"tasks": {"t": {"config": "task.yaml"}}, "arms": {"dense": "dense"}, "sparsities": [0.5], "seeds": [0]})
    )
    write_result(tmp_path / "runs" / "small", "t", "dense", "0", 0, 1.0)
    assert script.main(script.Args(study, merge=True)) == 0
    assert "1 cells in runs/small.jsonl.gz" in capsys.readouterr().out and (tmp_path / "runs" / "small.jsonl.gz").exists()


def test_a_damaged_file_is_refused(store, cells):
    store.record(cells[0], result(cells[0]))
    store.merge()
    store.merged.write_bytes(store.merged.read_bytes()[:-20])
    with pytest.raises(PruningError, match=r"results\.jsonl\.gz is damaged"):
        store.state(cells[1])
