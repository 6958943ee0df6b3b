import shutil

import numpy as np
import pytest

from parts.compare import comparison_table, evaluate_agents, plot_robustness, robustness_table, summarize
from rl_crop.evaluation import RunConfig, SavedAgent, run
from rl_crop.evaluation.run import FINAL_SEED


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("agent") / "run"
    config = {"env": "CartPole-v1", "algo": "ppo", "n_timesteps": 64, "n_steps": 64, "normalize": True}
    run(RunConfig.from_dict(config | {"evaluation": {"n_evals": 1, "final_episodes": 10}}), path, seed=0, plot=False)
    return path


def rows_of(agents, **arguments):
    return dict(evaluate_agents(agents, **({"n_episodes": 10, "n_envs": 10, "seed": 3, "levels": (0.05, 0.5)} | arguments)))


def test_agents_meet_the_same_episodes_and_the_same_noise(directory, tmp_path):
    shutil.copytree(directory, tmp_path / "copy")
    rows = rows_of({"agent": SavedAgent.find(directory), "copy": SavedAgent.find(tmp_path / "copy")})
    alone = rows_of({"agent": SavedAgent.find(directory)})["agent"]
    row = rows["agent"]
    assert row["noise"] == rows["copy"]["noise"] and row["returns"] == rows["copy"]["returns"] == alone["returns"]
    assert row["noise"].keys() == {"0.05", "0.5"} and len(row["noise"]["0.5"]["returns"]) == 10
    # The unit is in the scale of the environment, also where the agent sees normalised observations.
    assert row["noise_unit"].shape == (4,) and row["noise_unit"] == pytest.approx(alone["noise_unit"])
    assert row["returns"] != row["noise"]["0.5"]["returns"]


def test_noiseless_episodes_are_those_of_the_run(directory):
    report = rows_of({"agent": SavedAgent.find(directory)}, seed=FINAL_SEED, levels=())["agent"]
    assert report["mean"] == np.mean(report["returns"]) and "noise" not in report
    from rl_crop.files import read_json

    assert report["returns"] == read_json(directory / "report.json")["final"]["returns"]


def test_vanishing_noise_changes_nothing(directory):
    row = rows_of({"agent": SavedAgent.find(directory)}, levels=(1e-12,))["agent"]
    assert row["noise"]["1e-12"]["returns"] == row["returns"]


def test_observations_without_numbers_have_no_noise(tmp_path):
    config = {"env": "FrozenLake-v1", "algo": "ppo", "n_timesteps": 64, "n_steps": 64}
    config |= {"evaluation": {"n_evals": 1, "n_episodes": 3, "final_episodes": 5}}
    run(RunConfig.from_dict(config), tmp_path / "run", seed=0, plot=False)
    assert "noise" not in rows_of({"agent": SavedAgent.find(tmp_path / "run")})["agent"]


def row(returns, **parameters):
    return summarize(returns, parameters, {"pi": [8, 9], "vf": [4]})


def test_what_is_said_of_an_agent():
    summary = row(list(range(20, 0, -1)), total=3)
    assert (summary["mean"], summary["median"], summary["worst_tenth"]) == (10.5, 10.5, 1.5)
    assert summary["mean_low"] < 10.5 < summary["mean_high"] and summary["n_episodes"] == 20


def test_tables():
    rows = {"a": row([1.0, 3.0], actor=1000, critic=2000, total=3000), "longer name": row([2.0] * 4, critic=5, total=5)}
    head, line, first, second = comparison_table(rows).splitlines()
    assert len({len(text) for text in (head, line, first, second)}) == 1
    assert "pi 8-9 vf 4" in first and "3,000" in first and "2.0 [1.0, 3.0]" in first
    assert "–" in second and second.split()[-2:] == ["2.0", "2.0"] and "2.0 [2.0, 2.0]" in second

    rows["a"]["noise"] = {"0.1": row([1.5] * 3), "0.2": row([0.5] * 3)}
    head, _, first, second = robustness_table(rows).splitlines()
    assert "noise 0.1" in head and first.split()[-6:] == ["1.5", "[1.5,", "1.5]", "0.5", "[0.5,", "0.5]"]
    assert second.split()[-2:] == ["–", "–"]


def test_picture(tmp_path):
    rows = {"a": row([1.0, 3.0]) | {"noise": {"0.1": row([0.5, 1.0])}}, "b": row([2.0, 2.0])}
    assert plot_robustness(tmp_path / "noise.png", rows).read_bytes().startswith(b"\x89PNG")
