import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from rl_crop.evaluation.study import Cell, load_study
from rl_crop.evaluation.sweep import Sweep, run_cell
from rl_crop.files import read_json, write_json

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cell(tiny):
    return Cell("task", "dense", 0, 0, dataclasses.replace(tiny, n_timesteps=64))


def statuses(sweep, cells):
    return [(progress.cell.arm, progress.status) for progress in sweep.run(cells)]


def test_a_cell_writes_one_result_and_is_skipped_from_then_on(cell, tmp_path):
    sweep = Sweep(tmp_path)
    sweep.failure_path(cell).write_text("an earlier try")
    result = run_cell(sweep, cell)
    assert list(tmp_path.iterdir()) == [sweep.result_path(cell)]
    assert read_json(sweep.result_path(cell)) == result
    assert (result["task"], result["arm"], result["seed"], result["hash"]) == ("task", "dense", 0, cell.hash)
    assert result["evaluations"]["timesteps"] and result["config"]["n_timesteps"] == 64
    assert statuses(sweep, [cell]) == [("dense", "skipped")]


def test_a_cell_takes_the_widths_that_another_ended_with(cell, tmp_path):
    sweep = Sweep(tmp_path)
    pruned = dataclasses.replace(cell, arm="pruned", sparsity=0.9, config=cell.config.with_pruning({"sparsity": 0.9}))
    small = dataclasses.replace(cell, arm="small", sparsity=0.9, widths_of=pruned)
    assert statuses(sweep, [small]) == [("small", "waiting")]
    write_json(sweep.result_path(pruned), {"widths": {"pi": [3, 2], "vf": [5, 4]}})
    assert run_cell(sweep, small)["widths"] == {"pi": [3, 2], "vf": [5, 4]}


def test_failures_are_recorded_and_do_not_stop_the_rest(cell, tmp_path):
    sweep = Sweep(tmp_path, jobs=2)
    broken = dataclasses.replace(cell, arm="broken", config=dataclasses.replace(cell.config, env="NoSuchTask-v0"))
    needs_broken = dataclasses.replace(cell, arm="needs_broken", widths_of=broken)
    endless = dataclasses.replace(cell, arm="killed", config=dataclasses.replace(cell.config, n_timesteps=10**9))
    seen = []
    for progress in sweep.run([needs_broken, endless, broken, cell]):
        seen.append((progress.cell.arm, progress.status))
        if seen[-1] == ("dense", "done"):
            kill_children()
    assert [status for status in seen if status[1] != "started"] == [
        ("broken", "failed"),
        ("dense", "done"),
        ("killed", "failed"),
        ("needs_broken", "waiting"),
    ]
    assert "NoSuchTask" in sweep.failure_path(broken).read_text()
    assert "exit code -9" in sweep.failure_path(endless).read_text()
    assert [path.name for path in tmp_path.glob("*.json")] == [f"{cell.name}.json"]


def kill_children():
    import multiprocessing

    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)


def test_a_killed_sweep_goes_on_where_it_was_and_ends_with_the_same_results(tmp_path):
    task = {"env": "CartPole-v1", "algo": "a2c", "n_timesteps": 100, "evaluation": {"n_evals": 2, "final_episodes": 3}}
    study = {"tasks": {"t": {"config": "task.yaml"}}, "arms": {"dense": "dense"}, "sparsities": [0.9], "seeds": [0, 1]}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    results = tmp_path / "results"
    command = [sys.executable, str(ROOT / "scripts" / "sweep.py"), str(tmp_path / "study.yaml"), "--results", str(results)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    # In a process group of its own, so that the signal also reaches the cell that runs
    sweep = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    while not list(results.glob("*.json")):
        assert sweep.poll() is None, sweep.stdout.read().decode()
        time.sleep(0.05)
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.communicate()
    (first,) = results.glob("*.json")
    modified = first.stat().st_mtime_ns

    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "1 skipped, 1 done" in again.stdout
    assert first.stat().st_mtime_ns == modified

    undisturbed = Sweep(tmp_path / "undisturbed")
    for cell in load_study(tmp_path / "study.yaml"):
        expected = run_cell(undisturbed, cell)
        result = read_json(results / f"{cell.name}.json")
        assert all(result[key] == expected[key] for key in ("final", "evaluations", "widths", "config", "hash"))


def test_time_left_is_told_from_earlier_results_of_the_task(cell, tmp_path):
    sweep = Sweep(tmp_path, jobs=2)
    assert sweep.seconds_left([cell]) is None
    for i, seconds in enumerate((10.0, 30.0)):
        write_json(tmp_path / f"{i}.json", {"task": "task", "seconds": {"learn_with_evaluation": seconds}})
    assert sweep.seconds_left([cell] * 3) == 30.0
    assert sweep.seconds_left([]) == 0
