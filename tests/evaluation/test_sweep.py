"""What a sweep starts, in which order, and what becomes of it. Most cells here only pretend to run."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from rl_crop.evaluation.store import Store, compute
from rl_crop.evaluation.study import Cell, load_study
from rl_crop.evaluation.sweep import Sweep
from rl_crop.files import read_json, write_json

ROOT = Path(__file__).parents[2]
RESULT = {"task": "task", "final": {"mean": 1.0}, "seconds": {"learn": 1.0, "learn_with_evaluation": 10.0}}


class Pretence:
    """
    An engine that ends one cell at a time, in the order of their start.

    :param capacity: cells side by side
    :param ends: by arm, what becomes of each try: ``"done"``, ``"error"``, or the exit code of a process that died
    """

    def __init__(self, capacity=1, **ends):
        self.capacity, self.ends = capacity, {arm: list(tries) for arm, tries in ends.items()}
        self.running, self.started, self.stopped = [], [], False

    def start(self, store, cell, claim):
        assert len(self.running) < self.capacity and store.state(cell) == "running"
        self.running.append((store, cell))
        self.started.append(cell.arm)

    def ended(self, timeout):
        if not self.running:
            return []
        store, cell = self.running.pop(0)
        end = self.ends.get(cell.arm, ["done"]).pop(0)
        if end == "done":
            store.record(cell, RESULT)
        elif end == "error":
            store.record_failure(cell, "Traceback\nValueError: so it is")
        return [(cell, None if end in ("done", "error") else end)]

    def stop(self):
        self.stopped = True


@pytest.fixture
def cell(tiny):
    return Cell("task", "dense", 0, 0, dataclasses.replace(tiny, n_timesteps=64))


@pytest.fixture
def arm(cell):
    return lambda name, of=None: dataclasses.replace(cell, arm=name, widths_of=of)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def seen(sweep, cells, **options):
    return [(progress.cell.arm, progress.status) for progress in sweep.run(cells, **options)]


def test_a_cell_takes_the_widths_that_another_ended_with(cell, store):
    pruned = dataclasses.replace(cell, arm="pruned", sparsity=0.9, config=cell.config.with_pruning({"sparsity": 0.9}))
    small = dataclasses.replace(cell, arm="small", sparsity=0.9, widths_of=pruned)
    assert store.widths(cell) is None
    write_json(store.result_path(pruned), {"widths": {"pi": [3, 2], "vf": [5, 4]}})
    result = compute(small, store.widths(small))
    assert result["widths"] == {"pi": [3, 2], "vf": [5, 4]}
    assert (result["task"], result["arm"], result["seed"], result["hash"]) == ("task", "small", 0, small.hash)
    assert result["evaluations"]["timesteps"] and result["config"]["n_timesteps"] == 64


def test_a_result_replaces_the_failure_of_an_earlier_try(cell, store):
    store.record_failure(cell, "an earlier try")
    store.record(cell, RESULT)
    assert list(store.folder.iterdir()) == [store.result_path(cell)]


def test_dependent_cells_start_as_soon_as_their_source_is_done(arm, store):
    first, second = arm("first"), arm("second")
    engine = Pretence(capacity=2)
    seen(Sweep(store, engine), [arm("needs_second", second), arm("needs_first", first), first, second, arm("last")])
    assert engine.started == ["first", "second", "needs_first", "needs_second", "last"] and engine.stopped


def test_a_cell_whose_source_failed_or_is_not_there_waits(arm, store):
    broken = arm("broken")
    engine = Pretence(broken=["error"])
    assert seen(Sweep(store, engine), [arm("needs_broken", broken), arm("needs_other", arm("other")), broken]) == [
        ("needs_other", "waiting"),
        ("broken", "started"),
        ("broken", "failed"),
        ("needs_broken", "waiting"),
    ]
    assert store.error(broken) == "ValueError: so it is"


def test_killed_cells_are_tried_again_a_few_times_and_errors_not(arm, store):
    engine = Pretence(unlucky=["-9 (SIGKILL)", "done"], doomed=["-9 (SIGKILL)"] * 9, broken=["error"])
    cells = [arm("unlucky"), arm("doomed"), arm("broken"), arm("fine")]
    ends = [step for step in seen(Sweep(store, engine, retries=2), cells) if step[1] != "started"]
    assert ends == [
        ("unlucky", "died"),
        ("unlucky", "done"),
        ("doomed", "died"),
        ("doomed", "died"),
        ("doomed", "failed"),
        ("broken", "failed"),
        ("fine", "done"),
    ]
    assert store.error(cells[1]) == "The process ended with exit code -9 (SIGKILL) at try 3 of 3"


def test_failed_cells_run_again_on_request_alone(arm, store):
    sweep = Sweep(store, Pretence(broken=["error", "error", "done"]))
    cells = [arm("broken"), arm("needs_broken", arm("broken"))]
    seen(sweep, cells)
    assert seen(sweep, cells) == [("broken", "failed"), ("needs_broken", "waiting")]
    assert ("broken", "failed") in seen(sweep, cells, retry_failed=True)
    assert seen(sweep, cells, retry_failed=True)[1::2] == [("broken", "done"), ("needs_broken", "done")]


def test_two_sweeps_on_one_folder_share_the_cells(arm, store):
    cells = [arm("first"), arm("needs_first", arm("first")), arm("second"), arm("third")]
    ours, theirs = Pretence(), Pretence()
    one, other = Sweep(store, ours).run(cells), Sweep(store, theirs).run(cells)
    steps = [[], []]
    for _ in range(9):
        for mine, sweep in zip(steps, (one, other)):
            mine += [(progress.cell.arm, progress.status) for progress in [next(sweep, None)] if progress]
    assert sorted(ours.started + theirs.started) == sorted(cell.arm for cell in cells) and ours.started and theirs.started
    ends = [sorted(step for step in mine if step[1] != "started") for mine in steps]
    assert all({status for _, status in end} == {"done", "skipped"} and len(end) == len(cells) for end in ends)


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

    for cell in load_study(tmp_path / "study.yaml"):
        expected = compute(cell)
        result = read_json(results / f"{cell.name}.json")
        assert all(result[key] == expected[key] for key in ("final", "evaluations", "widths", "config", "hash"))


def test_time_left_is_told_from_earlier_results_of_the_task(arm, store):
    first, second = arm("first"), arm("second")
    assert store.seconds_left([first], {}) is None
    for i, seconds in enumerate((10.0, 30.0)):
        write_json(store.folder / f"{i}.json", {"task": "task", "seconds": {"learn_with_evaluation": seconds}})
    assert store.seconds_left([first, second], {}) == 40
    assert store.seconds_left([first, second], {first.name: 5.0}) == 35
    assert store.seconds_left([first, second], {first.name: 99.0}) == 20  # longer than expected, but not less than nothing
    assert store.seconds_left([], {}) == 0
