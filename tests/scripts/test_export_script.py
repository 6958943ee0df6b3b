"""The export script, and what its table of latencies says."""

import numpy as np
import pytest

from lab import latency
from parts.latency import latency_cells, latency_rows, ways_to_act
from rl_crop.evaluation import ConfigError
from rl_crop.export import export_actor
from scripts import export, prune, train
from tests.scripts.test_scripts import CARTPOLE, SHORT
from tests.zoo.exported import AGENTS, RECURRENT


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A dense agent with normalised observations, as train.py leaves it."""
    directory = tmp_path_factory.mktemp("dense") / "run"
    train.main(train.Args(CARTPOLE, dense=True, set=(*SHORT, "normalize=true"), out=directory, progress_bar=False))
    return directory


def test_sizes_and_latencies_beside_the_dense_agent(dense, tmp_path, capsys):
    small = tmp_path / "small.zip"
    prune.main(prune.Args(dense, sparsity=0.8, out=small))
    before = sorted(path.name for path in dense.iterdir())
    capsys.readouterr()
    out = tmp_path / "policy.c"
    export.main(export.Args(small, out=(out,), dense=dense, repetitions=1))
    printed = capsys.readouterr().out
    assert "VecNormalize" in printed and f"{out.stat().st_size:,} bytes" in printed
    assert "batch 256, µs" in printed and printed.count("predict") >= 3
    first, second = [line.split() for line in printed.splitlines() if line.startswith(("dense ", "this "))][:2]
    assert first[0] == "dense" and int(first[1].replace(",", "")) > out.stat().st_size
    assert second == ["this", f"{out.stat().st_size:,}"]
    assert sorted(path.name for path in dense.iterdir()) == before


def test_an_onnx_beside_the_agent_is_the_default(dense, capsys):
    export.main(export.Args(dense, repetitions=0))
    assert (dense / "model.onnx").is_file() and "float32 (batch, 4)" in capsys.readouterr().out


def test_two_files_of_a_kind_are_refused(dense, tmp_path):
    with pytest.raises(ConfigError, match="same kind"):
        export.main(export.Args(dense, out=(tmp_path / "a.c", tmp_path / "b.c")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [AGENTS["ppo_parts_normalized"], RECURRENT["recurrent"]])
def test_every_way_does_the_same(make, tmp_path):
    model = make()
    export_actor(model, tmp_path / "policy.onnx")
    ways = ways_to_act(model, {".onnx": tmp_path / "policy.onnx"}, None, 5)
    actions = [call()[0] for call in ways.values()]
    assert len(actions) == 3 and actions[0].shape == (5, *model.action_space.shape)
    for action in actions[1:]:
        np.testing.assert_allclose(action, actions[0], atol=1e-4)


def test_rows_compare_with_predict_and_with_the_first_agent(tmp_path):
    agents = {}
    for name in ("ppo", "tqc"):
        path = tmp_path / f"{name}.c"
        export_actor(model := AGENTS[name](), path)
        agents[name] = (model, {".c": path}, None)
    rows = latency_rows(agents, repetitions=1)
    assert len(rows) == 2 * 2 * 3  # agents, batch sizes, ways
    by_key = {(row["agent"], row["way"], row["batch_size"]): row for row in rows}
    for (_, way, size), row in by_key.items():
        first = by_key["ppo", way, size]["microseconds"]
        assert row["times_faster_than_first"] == pytest.approx(first / row["microseconds"])
        assert row["times_faster_than_predict"] > 0
    header, lines = latency_cells(rows)
    assert header[:3] == ["agent", "way", "batch 1, µs"] and [line[:2] for line in lines[:2]] == [
        ["ppo", "predict"],
        ["ppo", "torch"],
    ]
    assert header[3:5] == ["× predict", "× ppo"]
    header, lines = latency_cells([row for row in rows if row["agent"] == "ppo"])
    assert header[2:] == ["batch 1, µs", "× predict", "batch 256, µs", "× predict"] and {len(line) for line in lines} == {6}


def test_the_page_gets_its_table_and_keeps_the_rest(tmp_path, monkeypatch):
    row = {
        "agent": "dense",
        "way": "predict",
        "microseconds": 2.0,
        "times_faster_than_predict": 1,
        "times_faster_than_first": 1,
    }
    result = {
        "widths": {"dense": {"pi": [3, 2]}},
        "bytes": {"dense": {".onnx": 5000, ".c": 700}},
        "rows": [row | {"batch_size": size} for size in (1, 256)],
    }
    monkeypatch.setattr(latency, "measure", lambda task, args: result | {"task": task})
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{latency.BEGIN}old\n{latency.END}\n\nafter\n")
    for _ in range(2):
        latency.main(latency.Args(out=tmp_path / "out", page=page))
    text = page.read_text()
    assert text.startswith("before\n\n<!--") and text.endswith("-->\n\nafter\n") and "old" not in text
    assert text.count("dense 3-2: 5,000 bytes of ONNX, 700 of C") == len(latency.TASKS)
    assert sorted(path.stem for path in (tmp_path / "out").iterdir()) == sorted(latency.TASKS)
