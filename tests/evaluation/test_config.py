from pathlib import Path

import pytest

from rl_crop.evaluation.config import ConfigError, RunConfig, load_config, merge, short_hash

CONFIGS = sorted(p for p in (Path(__file__).parents[2] / "configs").glob("*.yaml") if not p.stem.startswith("study_"))
MINIMAL = {"env": "CartPole-v1", "algo": "ppo", "n_timesteps": 100}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_of_the_repository_is_valid_and_survives_a_round_trip(path):
    config = load_config(path)
    assert config.pruning is not None and config.evaluation.final_episodes == 100
    assert RunConfig.from_dict(config.to_dict()) == config
    assert RunConfig.from_dict(config.canonical()) == config


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"env": None}, "`env`"),
        ({"algo": "reinforce"}, "reinforce"),
        ({"learning_rat": 0.1}, "`learning_rat`"),
        ({"seed": 3}, "`seed`"),
        ({"tau": 0.01}, "`tau`.*PPO"),
        ({"n_timesteps": "many"}, "`n_timesteps`"),
        ({"n_envs": 0}, "`n_envs`"),
        ({"policy_kwargs": [1]}, "`policy_kwargs`"),
        ({"pruning": 0.9}, "`pruning`"),
        ({"normalize": "yes"}, "`normalize`"),
        ({"evaluation": {"episodes": 3}}, "`evaluation.episodes`"),
        ({"evaluation": {"n_evals": 0.5}}, "`evaluation.n_evals`"),
    ],
)
def test_errors_name_the_key(changes, named):
    with pytest.raises(ConfigError, match=named):
        RunConfig.from_dict(MINIMAL | changes)


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("env: CartPole-v1\nalgo: ppo\n")
    with pytest.raises(ConfigError, match="broken.yaml.*`n_timesteps`"):
        load_config(path)
    path.write_text("env: [")
    with pytest.raises(ConfigError, match="broken.yaml is no valid YAML"):
        load_config(path)


def test_numbers_in_the_forms_that_yaml_reads_as_text():
    config = RunConfig.from_dict(MINIMAL | {"n_timesteps": "1e5", "learning_rate": "3e-4", "clip_range": "lin_0.2"})
    assert config.n_timesteps == 100_000
    assert config.hyperparams == {"learning_rate": 3e-4, "clip_range": "lin_0.2"}


def test_canonical_form_forgets_how_a_run_was_spelled():
    spelled_out = RunConfig.from_dict(RunConfig.from_dict(MINIMAL).to_dict())
    assert spelled_out.canonical() == MINIMAL
    assert RunConfig.from_dict(MINIMAL | {"evaluation": {"n_evals": 20}}).canonical() == MINIMAL
    assert RunConfig.from_dict(MINIMAL | {"n_envs": 2}).canonical() == MINIMAL | {"n_envs": 2}


def test_hash_ignores_the_order_of_keys():
    assert short_hash({"a": 1, "b": 2}) == short_hash({"b": 2, "a": 1}) != short_hash({"a": 1, "b": 3})


def test_overrides_are_merged_key_by_key():
    assert merge({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 5}, "d": {"e": 1}}) == {"a": {"b": 5, "c": 2}, "d": {"e": 1}}
