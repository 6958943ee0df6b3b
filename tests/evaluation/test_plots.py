import numpy as np
import pytest

from rl_crop.evaluation.plots import describe_cut, plot_comparison, plot_learning_curve

CUT = {"timesteps": 100, "widths_before": {"pi": [256, 256], "qf": [64]}, "widths_after": {"pi": [31, 40], "qf": [9]}}


def report(cuts):
    return {
        "env": "CartPole-v1",
        "algo": "ppo",
        "seed": 0,
        "n_timesteps": 400,
        "final": {"mean": 3.0, "std": 1.0, "returns": [2.0, 4.0]},
        "evaluations": {"timesteps": [200, 400], "mean_returns": [1.5, 3.0]},
        "n_params": {"actor": 10, "critic": 20, "total": 30},
        "cuts": cuts,
    }


def test_a_cut_in_words():
    assert describe_cut(CUT) == "actor 256-256 → 31-40, critic 64 → 9"
    assert describe_cut({"widths_before": [64, 64], "widths_after": [7, 8]}) == "critic 64-64 → 7-8"
    extractor = {"widths_before": {"pi": [], "qf": []}, "widths_after": {"pi": [], "qf": []}}
    assert describe_cut(extractor) == "features extractor"


@pytest.mark.parametrize("n_cuts", [0, 1, 4])
def test_pictures_are_written(tmp_path, n_cuts):
    evaluations = {"timesteps": np.array([200, 400]), "results": np.array([[1.0, 2.0], [2.0, 4.0]])}
    cuts = [CUT | {"timesteps": 50 * (i + 1)} for i in range(n_cuts)]
    paths = [
        plot_learning_curve(tmp_path / "curve.png", report(cuts), evaluations),
        plot_comparison(tmp_path / "comparison.png", {"pruned": report(cuts), "dense": report([])}),
    ]
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000
