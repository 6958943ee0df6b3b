"""The readers give back what was written in the published formats, and say what is wrong with a file."""

import pickle
import sys

import numpy as np
import pytest
import torch as th

from lab.supervised.cifar import cifar10, cifar100
from lab.supervised.data import DataError, MissingDataError
from lab.supervised.tiny_imagenet import tiny_imagenet
from rl_crop.core.errors import PruningError
from rl_crop.supervised.batches import batches_of
from tests.lab.image_files import python2, write_cifar10, write_cifar100, write_tiny_imagenet


def bytes_of(part):
    """The images of a part as they were before they were scaled, and their labels."""
    images, labels = next(iter(batches_of(part, len(part))))
    mean, deviation = (value[:, None, None] for value in part.scale)
    return (images * deviation + mean).round().to(th.uint8).flatten(1).numpy(), labels.numpy()


def assert_same_pairs(parts, written):
    """The parts together hold exactly the written pairs."""
    pixels, labels = (np.concatenate(values) for values in zip(*(bytes_of(part) for part in parts), strict=True))
    expected_pixels, expected_labels = (np.concatenate(values) for values in zip(*written, strict=True))
    first, second = (np.lexsort(rows.T) for rows in (pixels, expected_pixels))
    assert np.array_equal(pixels[first], expected_pixels[second])
    assert np.array_equal(labels[first], expected_labels[second])


@pytest.mark.parametrize("pickled", [False, True])
def test_cifar10_is_read_as_written(tmp_path, pickled):
    _, written = write_cifar10(tmp_path, pickled)
    data = cifar10(str(tmp_path), augmented=False)
    assert (data.input_shape, data.n_outputs, len(data.train), len(data.validation)) == ((3, 32, 32), 10, 90, 10)
    assert_same_pairs([data.test], [written.pop("test_batch")])
    assert_same_pairs([data.train, data.validation], written.values())


@pytest.mark.parametrize("pickled", [False, True])
def test_cifar100_has_the_fine_labels(tmp_path, pickled):
    _, written = write_cifar100(tmp_path, pickled)
    data = cifar100(str(tmp_path), augmented=False)
    assert data.n_outputs == 100
    assert_same_pairs([data.test], [written["test"]])
    assert_same_pairs([data.train, data.validation], [written["train"]])


def test_pixels_keep_their_place(tmp_path):
    """A record is red, green, blue, each row by row."""
    folder, _ = write_cifar10(tmp_path, pickled=False)
    record = np.zeros(3073, np.uint8)
    record[1 + 1024 + 2 * 32 + 5] = 255  # green, row 2, column 5
    (folder / "test_batch.bin").write_bytes(record.tobytes())
    data = cifar10(str(tmp_path))
    images, _ = data.test[0]
    assert np.unravel_index(int(images.argmax()), images.shape) == (1, 2, 5)


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("length", [0, 1000, -1])
def test_truncated_files_are_refused(tmp_path, pickled, length):
    folder, _ = write_cifar10(tmp_path, pickled)
    path = next(folder.glob("data_batch_3*"))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match="data_batch_3.*truncated"):
        cifar10(str(tmp_path))


def test_missing_files_are_named(tmp_path):
    for load, name in ((cifar10, "CIFAR-10"), (cifar100, "CIFAR-100"), (tiny_imagenet, "Tiny-ImageNet")):
        with pytest.raises(MissingDataError, match=f"{name} is not there.*{tmp_path}"):
            load(str(tmp_path))
    folder, _ = write_cifar10(tmp_path, pickled=False)
    (folder / "data_batch_4.bin").unlink()
    with pytest.raises(MissingDataError, match=r"data_batch_4\.bin"):
        cifar10(str(tmp_path))


class Runs:
    """Unpickled by the ordinary reader, this would run code."""

    def __reduce__(self):
        return sys.exit, ("a pickle has run code",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: pickle.dumps(Runs(), protocol=2), "only numpy arrays"),
        (lambda: python2({b"data": Runs(), b"labels": [1]}), "only numpy arrays"),
        (lambda: python2([1, 2]), "no dictionary"),
        (lambda: python2({b"data": np.zeros((2, 3072)), b"labels": [1, 2]}), "not bytes"),
        (lambda: python2({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}), "labels"),
        (lambda: python2({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}), "labels"),
    ],
)
def test_other_pickles_are_refused(tmp_path, content, message):
    folder, _ = write_cifar10(tmp_path, pickled=True)
    (folder / "test_batch").write_bytes(content())
    with pytest.raises(DataError, match=message):
        cifar10(str(tmp_path))


def test_training_images_are_shifted_and_mirrored(tmp_path):
    write_cifar10(tmp_path, pickled=False)
    plain, augmented = (cifar10(str(tmp_path), augmented=flag) for flag in (False, True))
    th.manual_seed(0)
    before, after = (data.train[list(range(90))][0] for data in (plain, augmented))
    assert before.shape == after.shape
    found = set()
    for one, other in zip(before, after, strict=True):
        padded = th.nn.functional.pad(one, (4,) * 4)
        places = {
            (row, column, mirrored)
            for row in range(9)
            for column in range(9)
            for mirrored in (False, True)
            if th.equal(padded[:, row : row + 32, column : column + 32].flip([2] if mirrored else []), other)
        }
        assert len(places) == 1
        found |= places
    assert {mirrored for *_, mirrored in found} == {False, True} and len({place[:2] for place in found}) > 40
    assert th.equal(plain.test[3][0], augmented.test[3][0])  # only training images


def test_tiny_imagenet_is_read_as_written(tmp_path):
    write_tiny_imagenet(tmp_path)
    data = tiny_imagenet(str(tmp_path), augmented=False)
    assert (data.input_shape, data.n_outputs) == ((3, 64, 64), 3)
    assert (len(data.train), len(data.validation), len(data.test)) == (32, 4, 4)
    pixels, labels = bytes_of(data.test)
    assert labels.tolist() == [0, 1, 2, 0]
    red, green = pixels[:, 0], pixels[:, 4096]
    assert np.abs(red.astype(int) - [40, 100, 160, 40]).max() <= 2 and np.abs(green.astype(int) - (255 - red)).max() <= 4
    pixels, labels = (np.concatenate(v) for v in zip(bytes_of(data.train), bytes_of(data.validation), strict=True))
    assert np.abs(pixels[:, 0].astype(int) - 40 - 60 * labels).max() <= 2
    assert np.bincount(labels).tolist() == [12, 12, 12]


def test_damaged_images_and_lists_are_named(tmp_path):
    folder = write_tiny_imagenet(tmp_path)
    image = folder / "val" / "images" / "val_2.JPEG"
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="val_2.*truncated"):
        list(batches_of(tiny_imagenet(str(tmp_path)).test, 2))
    image.unlink()
    with pytest.raises(MissingDataError, match="val_2"):
        tiny_imagenet(str(tmp_path))
    annotations = folder / "val" / "val_annotations.txt"
    annotations.write_text("val_0.JPEG")
    with pytest.raises(DataError, match="val_annotations"):
        tiny_imagenet(str(tmp_path))
    assert issubclass(DataError, PruningError)
