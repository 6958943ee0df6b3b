"""The look at units that listen to noise: its figures for weights that are known, and a short run."""

from pathlib import Path

import numpy as np
import pytest
import torch as th

from lab import noise_inputs
from rl_crop.evaluation import load_config
from rl_crop.evaluation.building import build_env, build_model
from rl_crop.files import read_json

TRACKING = Path(__file__).parents[2] / "configs" / "ppo_tracking.yaml"


def test_units_that_listen_to_noise_alone_are_told_from_the_others():
    config = load_config(TRACKING, {"noise_dims": 0.9, "policy_kwargs": {"net_arch": [10, 10]}})
    env = build_env(config, 0, 1)
    real = env.get_attr("real")[0]
    model = build_model(config, env, 0)
    first = model.policy.mlp_extractor.policy_net[0]
    with th.no_grad():
        first.weight[:5, real] = 0  # five units hear noise alone
        first.weight[5:] = 0
        first.weight[5:, real] = 1  # and five what is real
        first.weight[9, np.setdiff1d(np.arange(80), real)[:8]] = 1  # one of them as much noise
    shares = noise_inputs.noise_shares(model, real)
    assert shares["mlp_extractor.policy_net.0"] == pytest.approx([1, 1, 1, 1, 1, 0, 0, 0, 0, 0.5])
    assert shares["mlp_extractor.value_net.0"].mean() == pytest.approx(0.9, abs=0.03)  # as it was drawn

    with th.no_grad():
        first.weight[:5] *= 1e-3
    found = noise_inputs.kept(model, "magnitude", 0.6, shares, 0)["mlp_extractor.policy_net.0"]
    assert found["units"] <= 5 and found["noise"] <= 0.25  # the weakest went first: those that hear noise


@pytest.mark.long
def test_it_prints_and_writes_every_criterion(tmp_path, capsys):
    out = tmp_path / "noise.json"
    noise_inputs.main(noise_inputs.Args(TRACKING, n_timesteps=2048, sparsities=(0.8,), out=out))
    rows = read_json(out)["rows"]
    printed = capsys.readouterr().out
    assert {row["criterion"] for row in rows} == set(noise_inputs.CRITERIA)
    assert all(name in printed for name in noise_inputs.CRITERIA)
    assert sum(row["criterion"] == "random" for row in rows) == noise_inputs.RANDOM_DRAWS
    random = [row["kept"]["mlp_extractor.policy_net.0"]["noise"] for row in rows if row["criterion"] == "random"]
    assert np.mean(random) == pytest.approx(read_json(out)["before"]["mlp_extractor.policy_net.0"], abs=0.02)
