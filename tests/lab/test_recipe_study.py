"""Studies of recipes: supervised tasks and agents side by side, single runs and outer loops, tables and pictures."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
import yaml

import rl_crop
from lab import recipe_tables as script
from lab.recipe_report.tables import REFUSED, outcome, recipe_tables
from lab.supervised.config import SupervisedConfig
from rl_crop.core.errors import PruningError
from rl_crop.evaluation.config import ConfigError
from rl_crop.evaluation.results import CELL, Results, load_results
from rl_crop.evaluation.store import Store, compute
from rl_crop.evaluation.study import Cell, load_study
from tests.evaluation.studies import without

FRIEDMAN = {
    "class": "lab.supervised.task.SupervisedTask",
    "data": {"name": "friedman", "n": 300}, "network": {"name": "mlp", "widths": [8, 8]}, "n_epochs": 2, "batch_size": 32,
    "pruning": {"sparsity": 0.5},
}  # fmt: skip
AGENT = {
    "env": "CartPole-v1", "algo": "ppo", "n_timesteps": 128, "n_steps": 64, "n_epochs": 1,
    "policy_kwargs": {"net_arch": {"pi": [8, 8], "vf": [8, 8]}},
    "evaluation": {"n_evals": 1, "n_episodes": 1, "final_episodes": 2, "n_envs": 1},
}  # fmt: skip
STUDY = {
    "tasks": {"friedman": {"config": "friedman.yaml"}, "cartpole": {"config": "agent.yaml"}},
    "arms": {"dense": "dense", "small": {"widths_of": "efficient_convnets"}},
    "recipes": ["efficient_convnets", "imp", "random_candidates"],
    "sparsities": [0.5],
    "seeds": [0],
}


@pytest.fixture
def load(tmp_path):
    def load(study=STUDY, friedman=FRIEDMAN):
        for name, content in {"friedman": friedman, "agent": AGENT, "study_tiny": study}.items():
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return load_study(tmp_path / "study_tiny.yaml")

    return load


def test_the_study_of_recipes_has_all_of_them_on_every_task():
    cells = load_study(Path(__file__).parents[2] / "configs" / "study_recipes.yaml")
    arms = {"dense", "dense_small", "dense_small_even", *rl_crop.recipes} - {"granet", "set"}  # to be run again
    for task in ("digits_cnn", "friedman", "ppo_cartpole"):
        assert {cell.arm for cell in cells if cell.task == task} == arms
    assert len({cell.name for cell in cells}) == len(cells) == 3 * 5 * (1 + 4 * (len(arms) - 1))


def test_an_arm_that_is_written_out_stands_for_the_recipe_of_its_name(load):
    usual = load()
    cells = load(STUDY | {"arms": STUDY["arms"] | {"imp": {"recipe": "imp", "rate": 0.3}}})
    assert len(cells) == len(usual)
    assert {cell.arm for cell in cells if cell.name not in {one.name for one in usual}} == {"imp"}
    assert [cell.config.pruning["rate"] for cell in cells if cell.arm == "imp"] == [0.3, 0.3]


def test_a_recipe_that_is_not_known_is_named(load):
    with pytest.raises(ConfigError, match="rigel"):
        load(STUDY | {"recipes": ["rigel"]})
    with pytest.raises(ConfigError, match=r"friedman\.yaml.*batches"):
        load(STUDY, FRIEDMAN | {"batches": 1})


@pytest.mark.parametrize("named", ["lab.supervised.config.Nothing", "no.such.module.Task", "Task", 3])
def test_a_class_that_cannot_be_imported_is_named(load, named):
    with pytest.raises(ConfigError, match=rf"friedman\.yaml: the class `{named}` cannot be imported"):
        load(STUDY, FRIEDMAN | {"class": named})


def test_the_hash_of_a_supervised_run_knows_what_the_result_depends_on(load):
    def hashes(**changes):
        return {cell.hash for cell in load(STUDY, FRIEDMAN | changes) if cell.task == "friedman"}

    assert hashes() == hashes(precision="float32", optimizer={"name": "Adam"})  # the defaults
    assert hashes() == hashes(pruning=None)  # arms say what is pruned
    assert hashes().isdisjoint(hashes(n_epochs=3)) and hashes().isdisjoint(hashes(max_grad_norm=1.0))
    config = SupervisedConfig.from_dict({key: value for key, value in FRIEDMAN.items() if key != "class"})
    assert SupervisedConfig.from_dict(config.canonical()) == config


def test_a_recipe_that_is_made_of_other_parts_makes_other_cells(load, monkeypatch):
    def hashes():
        return {cell.arm: cell.hash for cell in load() if cell.task == "friedman"}

    before, recipe = hashes(), rl_crop.recipes["efficient_convnets"]
    monkeypatch.setitem(rl_crop.recipes, "efficient_convnets", dataclasses.replace(recipe, source="elsewhere"))
    assert hashes() == before
    monkeypatch.setitem(rl_crop.recipes, "efficient_convnets", dataclasses.replace(recipe, when=0.4))
    after = hashes()
    assert {arm for arm in after if after[arm] != before[arm]} == {"efficient_convnets", "small"}


@pytest.mark.long
def test_every_kind_of_cell_has_what_the_tables_need(load, tmp_path):
    cells = {(cell.task, cell.arm): cell for cell in load()}
    store = Store(tmp_path / "results")
    for cell in sorted(cells.values(), key=lambda cell: cell.widths_of is not None):
        store.record(cell, compute(cell, store.widths(cell)))
    found = load_results(store.folder, cells.values(), outcome)
    assert len(found.runs) == len(cells) == 10 and found.failures.empty and found.missing.empty
    n_runs = {"dense": 1, "small": 1, "efficient_convnets": 1, "imp": 5, "random_candidates": 1 + 8 / 10}
    for task in ("friedman", "cartpole"):
        runs = {run.arm: run for run in found.runs[found.runs["task"] == task].itertuples()}
        dense, units, weights = runs["dense"], runs["efficient_convnets"], runs["imp"]
        assert units.flops < 0.6 * dense.flops and weights.flops == dense.flops  # masks save nothing
        assert max(units.n_params, weights.n_params) < 0.6 * dense.n_params
        assert (runs["small"].n_params, runs["small"].flops) == (units.n_params, units.flops)
        for arm, times in n_runs.items():  # ten-round trials of an agent are whole rollouts
            assert runs[arm].n_steps / dense.n_steps == pytest.approx(times, rel=0.1 if task == "friedman" else 2.0)
    assert [table.title for table in recipe_tables(found)] == ["cartpole, 50 %", "friedman, 50 %"]
    with pytest.raises(PruningError, match=r"recipe_tables\.py"):
        load_results(store.folder, cells.values())


PRUNES = {"rigl": "weights", "dense": "–", "snap": "units"}


def outcomes(scores, failures=(), missing=()):
    """:return: results with these scores by task, arm, sparsity and seed"""
    same = {
        "metric": "accuracy",
        "n_params": 100,
        "flops": 2000,
        "narrowest": 7,
        "n_steps": 480,
        "training": 3.0,
        "pruning": 0.5,
    }
    runs = [dict(zip(CELL, key), score=score, prunes=PRUNES[key[1]], **same) for key, score in scores.items()]
    return Results(pd.DataFrame(runs), *(without(dict(some)) for some in (failures, missing)))


def test_the_best_is_on_top_and_the_refused_below_with_the_reason():
    scores = {("digits", "dense", "0", seed): 0.9 + 0.01 * seed for seed in (0, 1)}
    scores |= {("digits", "rigl", "0.8", seed): 0.95 for seed in (0, 1)} | {("digits", "snap", "0.8", 1): 0.5}
    scores |= {("digits", "rigl", "0.9", 0): 0.7}
    found = outcomes(
        scores,
        {("digits", "snap", "0.8", 0): f"{REFUSED}nothing would be left", ("digits", "gbn", "0.8", 0): "KeyError: 'x'"},
        {("digits", "gbn", "0.8", 1): "not run yet"},
    )
    first, second = recipe_tables(found)
    assert first.title == "digits, 80 %" and second.title == "digits, 90 %"
    assert [row[:2] for row in first.rows] == [["rigl", "weights"], ["dense", "–"], ["snap", "units"], ["gbn", "units"]]
    assert first.rows[0][2:6] == ["0.9500", "2", "0.9500–0.9500", "+0.0450"]
    assert first.rows[2][5] == "-0.4100"  # to the dense network of the same seed
    assert first.rows[2][-1] == "refused: nothing would be left (seed 0)"
    assert first.rows[3][2:4] == ["–", "0"]
    assert first.rows[3][-1] == "failed: KeyError: 'x' (seed 0); not run yet (seed 1)"
    assert [row[0] for row in second.rows] == ["dense", "rigl"]


def test_the_script_writes_a_page_tables_and_pictures(load, tmp_path, capsys, monkeypatch):
    results = tmp_path / "results"
    report = {
        "final": {"mean": 0.5},
        "metric": "R2",
        "n_params_left": 9,
        "flops": 100,
        "widths": {"0": 4, "2": 1},
        "n_steps": 10,
    }
    report |= {"seconds": {"learn_cpu": 2.0, "prune_cpu": 0.5}}
    cells = [cell for cell in load() if cell.task == "friedman"]
    dense = next(cell for cell in load() if cell.task == "cartpole" and cell.arm == "dense")  # of a task that has only begun
    for cell in (*cells[:-1], dense):
        Store(results).record(cell, report | {"task": cell.task, "config": {"pruning": cell.config.pruning}})
    Store(results).record_failure(cells[-1], f"Traceback\n{REFUSED}it cannot be")
    monkeypatch.chdir(tmp_path)
    script.main(script.Args(tmp_path / "study_tiny.yaml", results=results))
    page = (tmp_path / "runs" / "results_report" / "README.md").read_text()
    assert "| efficient_convnets | units | 0.5000 |" in page and "refused: it cannot be (seed 0)" in page
    assert "5 cells have a result, 1 none for an error, 4 are to run." in capsys.readouterr().out
    files = {path.name for path in (tmp_path / "runs" / "results_report").rglob("*.*")}
    assert {"README.md", "friedman_0.5.csv", "cartpole_0.5.csv", "recipes_friedman.png", "recipes_friedman.svg"} == files


def test_the_widths_of_a_supervised_source_are_part_of_the_hash(load):
    small = next(cell for cell in load() if cell.arm == "small" and cell.task == "friedman")
    assert isinstance(small, Cell) and small.widths_of.arm == "efficient_convnets" and small.config.pruning is None
    assert small.hash != dataclasses.replace(small, widths_of=None).hash
