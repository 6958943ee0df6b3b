"""Real sweeps, disturbed: processes that are killed at random moments, and a Ray cluster that loses a node."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from rl_crop.evaluation.store import Store, compute
from rl_crop.evaluation.study import load_study
from rl_crop.files import read_json

ROOT = Path(__file__).parents[2]
KILLS = 10
"""In the long tests; two in the others."""
TASK = {
    "env": "CartPole-v1",
    "algo": "ppo",
    "n_timesteps": 512,
    "n_envs": 2,
    "n_steps": 64,
    "n_epochs": 2,
    "policy_kwargs": {"net_arch": [16, 16]},
    "evaluation": {"n_evals": 2, "n_episodes": 2, "final_episodes": 5},
}
ARMS = {"dense": "dense", "pruned": {"criterion": "span_crop"}, "small": {"widths_of": "pruned"}}


class Study:
    """
    A study of tiny cells, each with everything a real one has.

    :param folder: where its files and its results are
    :param changes: keys of the task that differ
    """

    def __init__(self, folder, **changes):
        self.folder = folder
        (folder / "task.yaml").write_text(yaml.safe_dump(TASK | changes))
        study = {"tasks": {"t": {"config": "task.yaml"}}, "arms": ARMS, "sparsities": [0.8], "seeds": [0]}
        (folder / "study.yaml").write_text(yaml.safe_dump(study))

    def start(self, name, *options):
        """:return: the process of the script, in a process group of its own; it writes to ``<name>.log``"""
        command = [sys.executable, ROOT / "scripts" / "sweep.py", self.folder / "study.yaml", *options]
        with self.log(name).open("a") as log:
            return subprocess.Popen(
                [*map(str, command), "--results", str(self.folder / name)],
                env=os.environ | {"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def log(self, name):
        """:return: what sweeps into this folder of results say"""
        return self.folder / f"{name}.log"

    def results(self, name):
        """:return: what every result holds besides times"""
        return {path.name: untimed(read_json(path)) for path in (self.folder / name).glob("*.json")}

    def finish(self, name, process):
        """:return: the results of a sweep that must come to its end, and leave nothing but results"""
        assert process.wait() == 0, self.log(name).read_text()
        results = self.results(name)
        assert len(results) == len(ARMS) and list((self.folder / name / ".locks").iterdir()) == []
        return results


def untimed(value):
    if isinstance(value, dict):
        return {key: untimed(item) for key, item in value.items() if key != "seconds"}
    return [untimed(item) for item in value] if isinstance(value, list) else value


@pytest.mark.long
@pytest.mark.parametrize("n_kills", [2, KILLS])
def test_sweeps_killed_at_random_moments_end_with_the_results_of_an_undisturbed_one(tmp_path, n_kills):
    study = Study(tmp_path)
    start = time.monotonic()
    expected = study.finish("undisturbed", study.start("undisturbed", "--jobs", "2"))
    duration = time.monotonic() - start

    # One sweep is killed and started again until it is through, then the next one, until as many kills have struck
    random = np.random.default_rng(0)
    kills, sweeps, written = 0, 0, {}
    while kills < n_kills:
        name = f"disturbed{sweeps}"
        process = study.start(name, "--jobs", "2")
        try:
            process.wait(timeout=random.uniform(0, duration))
        except subprocess.TimeoutExpired:
            # With its cells, as when the machine is switched off, or without, as when memory runs out
            random.choice([os.kill, os.killpg])(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            assert study.results(name).items() <= expected.items()  # whole results or none
            for path in (tmp_path / name).glob("*.json"):
                assert written.setdefault(path, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
        else:
            assert study.finish(name, process) == expected
            sweeps += 1
    assert study.finish(name, study.start(name, "--jobs", "2")) == expected
    assert all(path.stat().st_mtime_ns == moment for path, moment in written.items())  # and none of them twice


@pytest.mark.long
def test_a_sweep_that_is_ended_takes_the_run_directories_of_its_cells_along(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    study = Study(tmp_path, n_timesteps=10**9)
    process = study.start("ended")
    while not list(tmp_path.glob("rl_crop-*/config.yaml")):
        assert process.poll() is None, study.log("ended").read_text()
        time.sleep(0.02)
    process.terminate()
    assert process.wait() == 1 and "Interrupted" in study.log("ended").read_text()
    assert list(tmp_path.glob("rl_crop-*")) == [] == list((tmp_path / "ended" / ".locks").iterdir())


@pytest.mark.long
def test_a_sweep_on_a_cluster_of_two_nodes_completes_when_one_is_killed(tmp_path, monkeypatch, no_other_ray):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{Path(__file__).parent}")  # nodes and their workers inherit it
    marks = tmp_path / "marks"
    study = Study(tmp_path, n_timesteps=2048, env="fragile:Fragile-v0", env_kwargs={"folder": str(marks), "deaths": 0})
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else whatever else this machine does comes first
    monkeypatch.syspath_prepend(Path(__file__).parent)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=1)
        process = study.start("ray", "--engine", "ray", "--ray-address", cluster.address)
        raylet = node.all_processes["raylet"][0].process.pid
        while not any(parent_of(mark.name) == raylet for mark in marks.glob("*")):  # until a cell runs on this node
            assert process.poll() is None, study.log("ray").read_text()
            time.sleep(0.01)
        cluster.remove_node(node, allow_graceful=False)
        found = study.finish("ray", process)
    finally:
        cluster.shutdown()
    assert "died" in study.log("ray").read_text()
    undisturbed = Store(tmp_path / "undisturbed")
    for cell in load_study(tmp_path / "study.yaml"):
        undisturbed.record(cell, compute(cell, undisturbed.widths(cell)))
    assert found == study.results("undisturbed")


def parent_of(pid):
    """:return: the parent of a process, ``None`` where it is gone"""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except FileNotFoundError:
        return None
