"""What holds on every engine."""

import dataclasses
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from rl_crop.evaluation.config import ConfigError
from rl_crop.evaluation.engines import LocalEngine, RayEngine
from rl_crop.evaluation.store import Store, compute
from rl_crop.evaluation.study import Cell
from rl_crop.evaluation.sweep import Sweep
from rl_crop.files import read_json


def test_without_a_cluster_the_error_says_how_to_start_one(no_other_ray):
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match="ray start --head"):
        RayEngine("auto")


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=pytest.mark.long)])
def engine(request):
    """An engine whose workers find the modules of this folder."""
    folder = str(Path(__file__).parent)
    if request.param == "local":
        sys.path.append(folder)  # processes inherit it
        yield LocalEngine(2)
        sys.path.remove(folder)
        return
    ray = pytest.importorskip("ray")
    request.getfixturevalue("no_other_ray")
    root = str(Path(__file__).parents[2])
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    ray.init("local", num_cpus=2, runtime_env={"env_vars": {"PYTHONPATH": f"{root}:{folder}"}}, **options)
    yield RayEngine()
    ray.shutdown()


@pytest.fixture
def cell(tiny):
    return Cell("task", "dense", 0, 0, dataclasses.replace(tiny, n_timesteps=64))


def with_env(cell, arm, env, **env_kwargs):
    return dataclasses.replace(cell, arm=arm, config=dataclasses.replace(cell.config, env=env, env_kwargs=env_kwargs))


def seen(sweep, cells):
    return sorted((progress.cell.arm, progress.status) for progress in sweep.run(cells))


def test_cells_survive_a_kill_fail_alone_and_run_once(engine, cell, tmp_path):
    store = Store(tmp_path / "results")
    sweep = Sweep(store, engine, retries=1)
    killed = with_env(cell, "killed", "fragile:Fragile-v0", folder=str(tmp_path / "deaths"), deaths=1)
    broken = with_env(cell, "broken", "NoSuchTask-v0")
    cells = [killed, broken, cell]
    ends = [("broken", "failed"), ("dense", "done"), ("killed", "done")]
    starts = [(arm, "started") for arm in ("broken", "dense", "killed", "killed")]
    assert seen(sweep, cells) == sorted([*ends, *starts, ("killed", "died")])
    assert engine.ended(0) == [] and list((store.folder / ".locks").iterdir()) == []

    assert "NoSuchTask" in store.error(broken)
    result, expected = read_json(store.result_path(cell)), compute(cell)
    assert all(result[key] == expected[key] for key in expected if key != "seconds")
    assert result["seconds"]["threads"] == 1

    written = {path: path.stat().st_mtime_ns for path in store.folder.glob("*.*")}
    assert seen(sweep, cells) == [("broken", "failed"), ("dense", "skipped"), ("killed", "skipped")]
    assert {path: path.stat().st_mtime_ns for path in store.folder.glob("*.*")} == written


def test_an_interrupted_sweep_ends_its_cells_and_frees_them(engine, cell, tmp_path):
    store = Store(tmp_path)
    endless = dataclasses.replace(cell, config=dataclasses.replace(cell.config, n_timesteps=10**9))
    progress = Sweep(store, engine).run([endless])
    assert next(progress).status == "started" and store.state(endless) == "running"
    progress.close()
    assert store.state(endless) == "to do" and engine.ended(0) == []


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")
def test_cells_whose_server_died_are_ended_before_they_are_run_again(cell, tmp_path):
    store, engine = Store(tmp_path), LocalEngine()
    endless = dataclasses.replace(cell, config=dataclasses.replace(cell.config, n_timesteps=10**9))
    progress = Sweep(store, engine, retries=1).run([endless])
    assert next(progress).status == "started"
    (process,) = multiprocessing.active_children()
    os.kill(int(status(process.pid)[1]), signal.SIGKILL)  # its parent is the server
    assert next(progress).status == "died" and not_running(process.pid)
    assert next(progress).status == "started"
    progress.close()


def status(pid):
    """:return: what Linux says of a process after its name: state, parent, …"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def not_running(pid):
    """:return: whether a process ends within some seconds, or only waits to be reaped"""
    for _ in range(500):
        try:
            if status(pid)[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False
