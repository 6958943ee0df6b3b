"""A study's results to tables, pictures and a page, and the random policies that returns are measured by."""

import pytest

from rl_crop.core.errors import PruningError
from rl_crop.evaluation import RunConfig
from rl_crop.files import read_json, write_json
from scripts import plot, random_policy
from scripts.random_policy import measure_random_policy, random_policy_path, read_random_returns
from tests.evaluation.studies import write_result


def test_a_random_policy_of_cartpole():
    """Uniformly random pushes keep the pole up for about 22 steps; the same seed gives the same episodes."""
    config = RunConfig.from_dict({"env": "CartPole-v1", "algo": "ppo", "n_timesteps": 1000, "normalize": True})
    mean = measure_random_policy(config, seed=0, n_episodes=100)
    assert 18 < mean < 27 and mean == measure_random_policy(config, seed=0, n_episodes=100)
    assert mean != measure_random_policy(config, seed=1, n_episodes=100)


def test_random_policies_are_measured_once_an_environment(tmp_path, capsys):
    results, out = tmp_path / "results", tmp_path / "random"
    for task in ("one", "two"):
        path = write_result(results, task, "dense", "0", 0, 500.0)
        config = {"env": "CartPole-v1", "algo": "ppo", "n_timesteps": 1000}
        write_json(path, read_json(path) | {"config": RunConfig.from_dict(config).to_dict()})
    random_policy.main(random_policy.Args(results, seeds=2, episodes=3, out=out))
    (path,) = out.iterdir()
    assert read_random_returns(out, "CartPole-v1", {}) == read_json(path)["mean_returns"]
    assert len(read_json(path)["mean_returns"]) == 2 and "mean of 2 seeds" in capsys.readouterr().out
    write_json(path, {"mean_returns": [7.0]})
    random_policy.main(random_policy.Args(results, out=out))
    assert read_random_returns(out, "CartPole-v1", {}) == [7.0]


def test_another_environment_has_another_file(tmp_path):
    paths = {
        random_policy_path(tmp_path, env, kwargs) for env in ("ALE/Pong-v5", "Ant-v5") for kwargs in ({}, {"a": 1}, {"a": 2})
    }
    assert len(paths) == 6 and all(path.parent == tmp_path for path in paths)
    assert read_random_returns(tmp_path, "Ant-v5", {}) is None


def test_plot_writes_everything_of_an_unfinished_study(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "small"
    write_result(results, "task", "dense", "0", 0, 500.0)
    write_result(results, "task", "crop", "0.9", 1, 400.0)
    plot.main(plot.Args(results))
    printed = capsys.readouterr().out
    assert "2 of 4 cells have a result" in printed and "Not normalised: task." in printed
    out = tmp_path / "runs" / "small_report"
    assert sorted(path.name for path in out.iterdir()) == ["pictures", "report.html", "tables", "tables.md"]
    assert "not run yet" in (out / "report.html").read_text(encoding="utf-8")
    assert all(path.stat().st_size > 0 for path in (out / "pictures").iterdir())


def test_plot_refuses_an_empty_folder(tmp_path):
    with pytest.raises(PruningError, match="No results"):
        plot.main(plot.Args(tmp_path))
