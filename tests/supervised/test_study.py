"""Supervised studies: every cell once, dense rivals of a pruned arm's widths, and a table of the rows."""

from pathlib import Path

import pytest

from rl_crop.core.errors import PruningError
from rl_crop.supervised.config import SupervisedConfig
from rl_crop.supervised.study import SupervisedStudy, read_study, run_task, table

CONFIG = {
    "data": {"name": "diabetes"}, "network": {"name": "mlp", "widths": [12, 12]}, "n_epochs": 2, "batch_size": 64,
    "pruning": {"criterion": "magnitude", "when": 0.5, "compensation": "none"},
}  # fmt: skip
ARMS = {"plain": {}, "spread": {"scope": "layer"}, "small": {"like": "spread"}, "masks": {"recipe": "random_erk"}}


def study(**changes):
    parts = {"tasks": {"net": SupervisedConfig.from_dict(CONFIG)}, "arms": ARMS, "sparsities": [0.5], "seeds": [0, 1]}
    return SupervisedStudy(**{**parts, **changes})


def test_every_cell_runs_once_and_the_table_shows_it():
    rows, new = [], []
    run_task(study(), "net", rows, new.append, ["plain"])
    assert [(row["arm"], row["seed"]) for row in rows] == [("dense", 0), ("plain", 0), ("dense", 1), ("plain", 1)]
    run_task(study(), "net", rows, new.append)
    assert rows == new and len(rows) == 10 and not any("error" in row for row in rows)
    run_task(study(), "net", rows, new.append)
    assert len(new) == 10
    run_task(study(arms={**ARMS, "plain": {"when": 0.25}}), "net", rows, new.append)
    assert [(row["arm"], row["seed"]) for row in new[10:]] == [("plain", 0), ("plain", 1)] and len(rows) == 10

    by = {(row["arm"], row["seed"]): row for row in rows}
    assert by["small", 1]["widths"] == by["spread", 1]["widths"] and by["small", 1]["cuts"] == []
    assert by["small", 1]["n_params"] == by["spread", 1]["n_params"] < by["dense", 1]["n_params"]
    assert by["masks", 0]["pruning"] == {"recipe": "random_erk", "sparsity": 0.5}
    lines = table(study(), rows).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| `{arm}`" for arm in ("dense", *ARMS)]
    mean = sum(by["spread", seed]["test"] for seed in (0, 1)) / 2
    assert f"{mean:.4f} ±" in lines[4] and "| 50% |" in lines[4]


def test_what_fails_is_a_row_of_its_own_and_runs_again():
    rows = []
    impossible = study(sparsities=[0.999], seeds=[0])
    run_task(impossible, "net", rows, lambda row: None)
    errors = {row["arm"]: row.get("error", "") for row in rows}
    assert "largest reachable" in errors["plain"] and errors["small"] == "spread has no result." and not errors["masks"]
    assert "largest reachable" in table(impossible, rows)
    again = []
    run_task(impossible, "net", rows, again.append)
    assert {row["arm"] for row in again} == {"plain", "spread", "small"} and len(rows) == 5


def test_what_is_wrong_with_a_study_is_said(tmp_path):
    for arms in ({"small": {"like": "plain"}, "plain": {}}, {"plain": {}, "small": {"like": "plain", "scope": "layer"}}):
        with pytest.raises(PruningError, match=r"arms\.small: `like` names a pruned arm above it"):
            study(arms=arms)
    with pytest.raises(PruningError, match="Unknown keys"):
        study(arms={"plain": {"criteria": "crop"}})
    (tmp_path / "study.yaml").write_text("tasks: {}\narms: {}\n")
    with pytest.raises(PruningError, match="has tasks, arms, sparsities and seeds"):
        read_study(tmp_path / "study.yaml")


def test_the_study_of_digits_can_be_read():
    read = read_study(Path(__file__).parents[2] / "configs/supervised/studies/digits.yaml")
    assert set(read.tasks) == {"digits_cnn", "friedman"} and len(read.seeds) == 5
    assert read.pruning("friedman", "crop_gate", 0.9)["criterion"] == "crop_gate"
