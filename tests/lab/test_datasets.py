"""The data sets that need no files, and the batches made of them."""

import pytest
import torch as th

from lab.supervised.coordinates import coordinates, waves
from lab.supervised.data import DataError, shares_of
from lab.supervised.tables import diabetes, digits, friedman
from lab.supervised.text import help_texts, text
from rl_crop.core.errors import PruningError
from rl_crop.supervised.batches import batches_of


@pytest.mark.parametrize("load", [digits, diabetes, friedman, lambda: friedman(500, 3), lambda: coordinates("waves", 16)])
def test_parts_are_disjoint_and_together_all(load):
    data = load()
    rows = [inputs.flatten(1) for inputs in (data.train.tensors[0], data.validation.tensors[0], data.test.tensors[0])]
    n = {id(digits): 1797, id(diabetes): 442, id(friedman): 2000}.get(id(load), sum(len(part) for part in rows))
    together = th.cat(rows)
    assert len(together) == n and len(th.unique(together, dim=0)) == len(together)
    again = load()
    assert all(th.equal(a, b) for a, b in zip(data.test.tensors, again.test.tensors, strict=True))


def test_shares_are_random_and_always_the_same():
    first, second, rest = shares_of(100, (0.6, 0.1))
    assert (len(first), len(second), len(rest)) == (60, 10, 30)
    assert sorted(th.cat([first, second, rest]).tolist()) == list(range(100)) != th.cat([first, second, rest]).tolist()
    assert th.equal(first, shares_of(100, (0.6, 0.1))[0])


def test_statistics_are_of_the_training_part():
    data = diabetes()
    inputs, targets = data.train.tensors
    assert inputs.mean(0).abs().max() < 1e-6 and (inputs.std(0) - 1).abs().max() < 1e-5
    assert abs(float(targets.mean())) < 1e-6 and abs(float(targets.std()) - 1) < 1e-5
    assert float(data.test.tensors[0].mean(0).abs().max()) > 1e-3
    images, labels = digits().train.tensors
    assert images.shape[1:] == (1, 8, 8) and labels.dtype == th.int64 and bool(th.isfinite(images).all())
    assert bool((images[:, 0, 0, 0] == 0).all())  # a corner that is always white


def test_batches_come_in_a_new_order_that_the_generator_decides():
    data = digits()
    loader = batches_of(data.train, 100, th.Generator().manual_seed(1))
    epochs = [th.cat([labels for _, labels in loader]) for _ in range(2)]
    assert len(loader) == 10 and all(len(labels) == 1000 for labels in epochs) and not th.equal(*epochs)
    again = batches_of(data.train, 100, th.Generator().manual_seed(1))
    assert th.equal(epochs[0], th.cat([labels for _, labels in again]))
    in_order = th.cat([labels for _, labels in batches_of(data.train, 100)])
    assert th.equal(in_order, data.train.tensors[1])
    with pytest.raises(PruningError, match="batch_size"):
        batches_of(data.train, 5000, th.Generator())


def test_colours_belong_to_places():
    data = coordinates("waves", 20)
    places, colours = data.train.tensors
    assert th.equal(colours, waves(places)) and 0 <= float(colours.min()) < 0.05 and 0.95 < float(colours.max()) <= 1
    photograph = coordinates("china", 12)
    places, colours = (
        th.cat(parts) for parts in zip(*(part.tensors for part in (photograph.train, photograph.test)), strict=True)
    )
    blue = colours[:, 2]
    assert blue[places[:, 0] < -0.5].mean() > blue[places[:, 0] > 0.5].mean() + 0.2  # the sky is above
    with pytest.raises(PruningError, match="image"):
        coordinates("mona_lisa")


def test_targets_of_a_text_are_its_next_characters(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(chr(97 + number % 26) for number in range(600)))
    data = text(str(path), length=20)
    assert data.n_outputs == 26 and data.input_shape == (20,)
    for part, stride in ((data.train, 10), (data.validation, 20), (data.test, 20)):
        inputs, targets = part[[0, 1]]
        assert inputs.shape == targets.shape == (2, 20)
        assert th.equal(targets, (inputs + 1) % 26) and th.equal(inputs[1], (inputs[0] + stride) % 26)
    assert int(data.validation[0][0][0]) == 480 % 26 and int(data.test[0][0][0]) == 540 % 26
    with pytest.raises(PruningError, match="length"):
        text(str(path), length=60)
    with pytest.raises(DataError, match="nothing.txt"):
        text(str(tmp_path / "nothing.txt"))


def test_python_brings_enough_text():
    assert len(help_texts()) > 200_000
