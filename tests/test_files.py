import numpy as np
import pytest
import torch as th

from rl_crop.files import read_json, write_arrays, write_atomically, write_json, write_text


def test_an_interrupted_write_leaves_the_old_content_and_nothing_else(tmp_path):
    path = write_text(tmp_path / "deep" / "file.txt", "old")

    def fail(temporary):
        temporary.write_text("half of the n")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_json_takes_arrays_and_scalars(tmp_path):
    data = {"a": np.arange(3), "b": np.float64(0.5), "c": th.tensor([1.0, 2.0]), "d": {2, 1}, "e": tmp_path}
    path = write_json(tmp_path / "a.json", data)
    assert read_json(path) == {"a": [0, 1, 2], "b": 0.5, "c": [1.0, 2.0], "d": [1, 2], "e": str(tmp_path)}
    with pytest.raises(TypeError, match="object"):
        write_json(tmp_path / "b.json", object())
    assert not (tmp_path / "b.json").exists()


def test_arrays(tmp_path):
    with np.load(write_arrays(tmp_path / "a.npz", x=[1, 2], y=[[3.0]])) as stored:
        assert stored["x"].tolist() == [1, 2] and stored["y"].shape == (1, 1)
