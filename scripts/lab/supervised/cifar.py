"""CIFAR-10 and CIFAR-100 from local files, in either of the published formats: binary, or pickles of Python 2."""

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from lab.supervised.data import Data, DataError, MissingDataError, existing_file
from lab.supervised.images import image_data

SHAPE = (3, 32, 32)
N_PIXELS = 3 * 32 * 32

Labelled = tuple[np.ndarray, np.ndarray]
"""Bytes of shape (images, 3072), and labels."""


def cifar10(root: str = "data", augmented: bool = True) -> Data:
    """
    :param root: the folder in which ``cifar-10-batches-bin`` or ``cifar-10-batches-py`` lies, as unpacked.
    :param augmented: whether training images are shifted and mirrored at random.
    :return: 50,000 and 10,000 images of 10 classes.
    :raises MissingDataError: there is neither folder, or a file of it is missing.
    :raises DataError: a file is truncated, or no file of this data set.
    """
    folder, binary = _folder(root, "CIFAR-10", "cifar-10-batches-bin", "cifar-10-batches-py")
    numbers = [f"data_batch_{number}" for number in range(1, 6)]
    if binary:
        return _data(folder, "CIFAR-10", [f"{n}.bin" for n in numbers], "test_batch.bin", 1, 10, augmented)
    return _data(folder, "CIFAR-10", numbers, "test_batch", b"labels", 10, augmented)


def cifar100(root: str = "data", augmented: bool = True) -> Data:
    """
    :param root: the folder in which ``cifar-100-binary`` or ``cifar-100-python`` lies, as unpacked.
    :param augmented: see :func:`cifar10`; and so for the errors.
    :return: 50,000 and 10,000 images of 100 classes.
    """
    folder, binary = _folder(root, "CIFAR-100", "cifar-100-binary", "cifar-100-python")
    if binary:
        return _data(folder, "CIFAR-100", ["train.bin"], "test.bin", 2, 100, augmented)
    return _data(folder, "CIFAR-100", ["train"], "test", b"fine_labels", 100, augmented)


def read_binary(path: Path, n_labels: int, n_classes: int) -> Labelled:
    """
    Read a file of records: label bytes, the last one the finest, then the pixels, channel by channel.

    :param path: the file.
    :param n_labels: label bytes in a record.
    :param n_classes: number of classes.
    :return: pixels and labels.
    :raises DataError: the file is truncated, or no file of this format.
    """
    content = np.frombuffer(path.read_bytes(), np.uint8)
    if not content.size or content.size % (n_labels + N_PIXELS):
        raise DataError(
            f"{path} has {content.size} bytes, which is no multiple of {n_labels + N_PIXELS}: it is truncated, or no binary "
            f"file of CIFAR. Copy it again."
        )
    records = content.reshape(-1, n_labels + N_PIXELS)
    return _checked(path, records[:, n_labels:], records[:, n_labels - 1], n_classes)


def read_pickle(path: Path, key: bytes, n_classes: int) -> Labelled:
    """
    Read a pickled dictionary, in which nothing but plain values and numpy arrays is allowed.

    :param path: the file.
    :param key: of the labels.
    :param n_classes: number of classes.
    :return: pixels and labels.
    :raises DataError: the file is truncated, holds anything else, or is no file of this format.
    """
    try:
        content = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle fails in many ways
        raise DataError(
            f"{path} cannot be unpickled ({error}): it is truncated, or no file of CIFAR. Copy it again."
        ) from error
    if not isinstance(content, dict) or not {b"data", key} <= set(content):
        raise DataError(f"{path} holds no dictionary with data and {key.decode()}: it is no file of CIFAR.")
    return _checked(path, content[b"data"], content[key], n_classes)


class _ArraysOnly(pickle.Unpickler):
    """A pickle may name any function to call: only what rebuilds a numpy array is let through."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.empty(0).__reduce__()[0]  # wherever this numpy keeps it
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise DataError(
            f"A pickled data set asks for {module}.{name}, but only numpy arrays are allowed: it is no file of CIFAR."
        )


def _checked(path: Path, pixels: Any, labels: Any, n_classes: int) -> Labelled:
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (N_PIXELS,):
        raise DataError(f"{path}: the pixels are not bytes of shape (images, {N_PIXELS}): it is no file of CIFAR.")
    labels = np.asarray(labels)
    whole = labels.dtype.kind in "iu" and labels.shape == (len(pixels),)
    if not whole or not len(labels) or labels.min() < 0 or labels.max() >= n_classes:
        raise DataError(f"{path}: the labels are not {len(pixels)} numbers from 0 to {n_classes - 1}: it is no file of CIFAR.")
    return pixels, labels.astype(np.int64)


def _folder(root: str, name: str, binary: str, pickled: str) -> tuple[Path, bool]:
    for folder in (binary, pickled):
        if (Path(root) / folder).is_dir():
            return Path(root) / folder, folder == binary
    raise MissingDataError(
        f"{name} is not there: unpack the published archive, so that {Path(root) / binary} or {Path(root) / pickled} exists, "
        f"or say where it is with data.root."
    )


def _data(
    folder: Path, name: str, train: Sequence[str], test: str, label: int | bytes, n_classes: int, augmented: bool
) -> Data:
    def read(file: str) -> Labelled:
        path = existing_file(folder / file, name)
        return read_binary(path, label, n_classes) if isinstance(label, int) else read_pickle(path, label, n_classes)

    def joined(files: Sequence[str]) -> tuple[th.Tensor, th.Tensor]:
        pixels, labels = zip(*(read(file) for file in files), strict=True)
        return th.from_numpy(np.concatenate(pixels).reshape(-1, *SHAPE)), th.from_numpy(np.concatenate(labels))

    return image_data(joined(train), joined([test]), SHAPE, n_classes, augmented)
