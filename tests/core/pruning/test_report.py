import dataclasses
import json

import numpy as np
import pytest

from rl_crop.core.prune import plan_pruning, prune_model
from rl_crop.core.pruning.report import PruningReport, table
from tests.zoo.networks import batches, mlp, mse


def test_a_report_is_frozen_json_ready_and_a_table():
    report = prune_model(mlp((3, 12, 8, 2)), mse, batches(), np.float64(0.6), criterion="span_crop", compensation="bias")
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["widths"] == {name: list(pair) for name, pair in report.widths.items()}
    assert plain["n_params_before"] == 170 and plain["criterion"] == "span_crop" and plain["compensation"] == "bias"
    assert plain["sparsity"] == report.sparsity and set(plain["sparsity"]) == {"model", "total"}
    assert plain["untouched"] == {"4": "its outputs are the network's outputs"} and plain["notes"] == []
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.seconds = 0.0
    text = str(report)
    for part in (
        "layer",
        "units before",
        "after",
        "parameters 170 -> ",
        "% of all gone)",
        "FLOPs per observation",
        "model ",
        "left whole: 4",
    ):
        assert part in text
    assert 0 < report.seconds < 10


def test_notes_are_shown():
    report = PruningReport(10, 5, {"total": 0.5}, 20, 10, {"0": (4, 2)}, {}, 0.1, "crop", "bias", ("1 has no bias",))
    assert str(report).endswith("note: 1 has no bias") and report.to_dict()["notes"] == ["1 has no bias"]


def test_a_layer_left_with_one_unit_is_noted_in_plan_and_report():
    plan = plan_pruning(mlp((3, 12, 8, 2)), mse, batches(), 0.9, scope="layer", criterion="magnitude")
    single = {name for name, width in plan.widths_after.items() if width == 1}
    assert single and {note.split()[0] for note in plan.apply().notes} == single
    assert all(f"note: {name} keeps a single unit" in str(plan) for name in single)


def test_tables_align():
    lines = table(["layer", "units"], [["actor.0", "5"], ["c", "1234"]]).splitlines()
    assert lines == ["layer    units", "--------------", "actor.0      5", "c         1234"]
    assert table(["file", ""], [["size", "5 bytes"]], n_left=2).splitlines() == ["file", "-------------", "size  5 bytes"]
