"""What a sweep starts, in which order, and what becomes of it. Most cells here only pretend to run."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from rl_crop.evaluation.store import Store, compute
from rl_crop.evaluation.study import Cell
from rl_crop.evaluation.sweep import Sweep
from rl_crop.files import write_json
from scripts.sweep import seconds_left

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
        self.result = RESULT

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
            store.record(cell, self.result)
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


def test_the_lock_of_a_cell_that_outlived_its_sweep_is_removed(arm, store):
    cell = arm("done")
    claim = store.claim(cell)
    store.record(cell, RESULT)
    assert seen(Sweep(store, Pretence()), [cell]) == [("done", "skipped")] and claim.path.exists()  # it may still be held
    claim.release()
    claim.path.touch()
    assert seen(Sweep(store, Pretence()), [cell]) == [("done", "skipped")] and not claim.path.exists()


def test_time_left_is_told_from_earlier_results_of_the_task(arm):
    first, second = arm("first"), arm("second")
    assert seconds_left([], [first], {}) is None
    known = [{**RESULT, "task": "task", "seconds": {"learn_with_evaluation": seconds}} for seconds in (10.0, 30.0)]
    assert seconds_left(known, [first, second], {}) == 40
    assert seconds_left(known, [first, second], {first.name: 5.0}) == 35
    assert seconds_left(known, [first, second], {first.name: 99.0}) == 20  # longer than expected, but not less than nothing
    assert seconds_left(known, [], {}) == 0


def test_small_returns_are_told_with_their_digits(arm, store):
    engine = Pretence(capacity=1)
    engine.result = RESULT | {"final": {"mean": -0.0163}}
    messages = [progress.message for progress in Sweep(store, engine).run([arm("tracking")])]
    assert messages == ["", "return -0.0163, 1 s"]


def test_a_reader_of_the_list_may_stop_early(tmp_path):
    study = Path(__file__).parents[2] / "configs" / "study_returns.yaml"
    command = [sys.executable, "scripts/sweep.py", str(study), "--list", "--results", str(tmp_path)]
    sweep = subprocess.Popen(command, cwd=study.parents[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    sweep.stdout.close()
    assert (sweep.stderr.read(), sweep.wait()) == ("", 0)
