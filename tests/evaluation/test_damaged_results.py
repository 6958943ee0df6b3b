"""Results that are damaged are named, set aside and run again; what killed runs left is swept."""

import gzip
import os
import platform
import subprocess
import sys

import pytest
import yaml

from rl_crop.core.errors import PruningError
from rl_crop.evaluation.store import Store
from rl_crop.evaluation.study import load_study
from rl_crop.files import TEMPORARY, remove_abandoned, temporary_folder, write_json

RESULT = {"task": "t", "seconds": {"learn_with_evaluation": 1.0, "learn": 1.0}, "final": {"mean": 2.0}, "widths": [3]}
DAMAGED = {
    "empty": b"", "cut": b'{"task": "t", "sec', "binary": bytes(range(256)), "a list": b"[1, 2]", "a number": b"5",
    "null": b"null", "without a task": b'{"final": {"mean": 1}}', "no time": b'{"task": "t", "final": {"mean": 1}}',
    "no measure": b'{"task": "t", "seconds": {"learn_with_evaluation": 1}}', "deep": b"[" * 100_000,
    "a measure that is none": b'{"task": "t", "seconds": {"learn_with_evaluation": 1}, "final": {"mean": "high"}}',
}  # fmt: skip


def write_study(folder):
    (folder / "task.yaml").write_text(yaml.safe_dump({"env": "CartPole-v1", "algo": "ppo", "n_timesteps": 64}))
    study = {"tasks": {"t": {"config": "task.yaml"}}, "arms": {"dense": "dense"}, "sparsities": [0.5], "seeds": [0, 1]}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return folder / "study.yaml"


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_result_is_named_set_aside_and_counts_as_not_run(tmp_path, kind):
    [cell, *_] = load_study(write_study(tmp_path))
    store = Store(tmp_path / "results")
    write_json(store.result_path(cell), RESULT)
    assert store.state(cell) == "done"
    store.result_path(cell).write_bytes(DAMAGED[kind])
    with pytest.warns(UserWarning, match=f"{cell.name}.json is damaged .*set aside"):
        assert store.state(cell) == "to do"
    assert not store.result_path(cell).exists()
    assert store.folder.joinpath(f"{cell.name}.json.damaged").read_bytes() == DAMAGED[kind]
    assert store.state(cell) == "to do" and store.recorded().results == {}
    store.record(cell, RESULT)
    assert store.state(cell) == "done" and store.result(cell) == RESULT


def test_reports_and_merges_leave_damaged_results_out_and_say_so(tmp_path):
    good, bad = load_study(write_study(tmp_path))[:2]
    store = Store(tmp_path / "results")
    for cell in (good, bad):
        write_json(store.result_path(cell), RESULT)
    store.result_path(bad).write_bytes(b"{")
    with pytest.warns(UserWarning, match=f"{bad.name}.json is damaged"):
        assert list(store.recorded().results) == [good.name]
    assert store.merge() == 1 and store.state(good) == "done" and store.state(bad) == "to do"


@pytest.mark.parametrize("content", [b"x", b"\x1f\x8b", None])
def test_a_damaged_merged_file_is_named(tmp_path, content):
    cell, *_ = load_study(write_study(tmp_path))
    store = Store(tmp_path / "results")
    store.merged.write_bytes(gzip.compress(b"[1]\n") if content is None else content)
    with pytest.raises(PruningError, match="results.jsonl.gz"):
        store.state(cell)


def test_temporary_folders_of_killed_processes_are_swept_and_no_others(tmp_path):
    found = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    dead = tmp_path / f"{TEMPORARY}{platform.node()}-{found.stdout.strip()}-abc"
    elsewhere = tmp_path / f"{TEMPORARY}another-host-{found.stdout.strip()}-abc"
    older, alive = tmp_path / f"{TEMPORARY}abc", tmp_path / f"{TEMPORARY}{platform.node()}-{os.getppid()}-abc"
    for folder in (dead, elsewhere, older, alive):
        folder.mkdir()
        (folder / "file").write_text("half")
    with temporary_folder(tmp_path) as own:
        remove_abandoned(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            [elsewhere.name, older.name, alive.name, os.path.basename(own)]
        )
    dead.mkdir()
    Store(tmp_path).sweep()
    assert not dead.exists()
