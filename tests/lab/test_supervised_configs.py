"""Every file of configs/supervised runs a few steps, on small files where the data set is made of files."""

from pathlib import Path

import pytest
import torch as th

from lab import train_supervised
from lab.supervised.config import SupervisedConfig
from lab.supervised.data import MissingDataError
from lab.supervised.run import run
from rl_crop.evaluation.tasks import load_task
from rl_crop.files import read_json
from tests.lab.image_files import write_cifar10, write_cifar100, write_tiny_imagenet
from tests.zoo.long import all_in_long

FOLDER = Path(__file__).parents[2] / "configs" / "supervised"
CONFIGS = sorted(path.stem for path in FOLDER.glob("*.yaml"))
SMALL = {
    "mlp": {"widths": [16, 16]},
    "cnn": {"channels": [4, 4], "widths": [8]},
    "early_exit_cnn": {"channels": [4, 4]},
    "coordinate": {"widths": [8, 8], "n_frequencies": 4},
    "resnet18": {"width": 2},
    "vgg16": {"width": 2},
    "resnext": {"width": 2, "n_groups": 2, "group_width": 2, "blocks": [1, 1, 1]},
    "character_transformer": {"width": 8, "n_heads": 2, "hidden": 16},
    "character_gru": {"width": 8, "hidden": 16},
}
SMALL_DATA = {"text": {"n_characters": 3000, "length": 16}, "coordinates": {"size": 16}, "friedman": {"n": 300}}


def small(name, root):
    """The configuration with a tiny network, little data, one epoch and files that are made here."""
    data = load_task(FOLDER / f"{name}.yaml").to_dict()
    writers = {
        "cifar10": lambda: write_cifar10(root, pickled=True, n=14),
        "cifar100": lambda: write_cifar100(root, pickled=False),
        "tiny_imagenet": lambda: write_tiny_imagenet(root, n=16),
    }
    source = data["data"]["name"]
    if source in writers:
        writers[source]()
        data["data"]["root"] = str(root)
    data["data"] |= SMALL_DATA.get(source, {})
    data["network"] |= SMALL[data["network"]["name"]]
    return data | {"n_epochs": 1, "batch_size": 16, "num_workers": 0}


@pytest.mark.parametrize("name", all_in_long(CONFIGS, ("digits_cnn", "friedman")))
def test_every_configuration_runs(name, tmp_path):
    data = small(name, tmp_path)
    result = run(SupervisedConfig.from_dict(data), 0)
    assert result["report"]["sparsity"]["total"] >= min(0.5, data["pruning"]["sparsity"])
    assert result["n_params_left"] < result["report"]["n_params_before"]
    assert result["n_steps"] >= 1 and th.isfinite(th.tensor(result["test"]))


def test_where_files_are_absent_a_run_is_skipped(tmp_path):
    with pytest.raises(MissingDataError, match="CIFAR-10 is not there"):
        train_supervised.main(train_supervised.Args(FOLDER / "cifar10_resnet18.yaml", root=tmp_path, out=tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_script_takes_the_file_and_what_the_command_line_changes():
    path = FOLDER / "digits_cnn.yaml"
    arguments = train_supervised.Args
    assert train_supervised.resolve(arguments(path, dense=True)).pruning is None
    assert train_supervised.resolve(arguments(path, recipe="rigl")).pruning == {"sparsity": 0.9, "recipe": "rigl"}
    changed = train_supervised.resolve(arguments(path, sparsity=0.5, when="0.3", criterion="snip", n_epochs=3))
    assert changed.n_epochs == 3 and changed.pruning | {"compensation": ""} == {
        "sparsity": 0.5, "criterion": "snip", "when": 0.3, "compensation": "",
    }  # fmt: skip


def test_the_script_writes_a_report_and_trains_its_rival(tmp_path, capsys):
    path = FOLDER / "digits_mlp.yaml"
    train_supervised.main(train_supervised.Args(path, n_epochs=1, when="0.2", out=tmp_path / "pruned"))
    printed = capsys.readouterr().out
    report = read_json(tmp_path / "pruned" / "report.json")
    assert f"{report['test']:.4f}" in printed and f"--like {tmp_path / 'pruned' / 'report.json'}" in printed
    rival = train_supervised.Args(path, n_epochs=1, like=tmp_path / "pruned" / "report.json", out=tmp_path / "small")
    train_supervised.main(rival)
    small = read_json(tmp_path / "small" / "report.json")
    assert small["widths"] == report["widths"] and small["report"] is None and small["n_params"] == report["n_params"]
    assert [path.name for path in (tmp_path / "small").iterdir()] == ["report.json"]
