"""Tiny-ImageNet from local files, as published: folders of JPEG files, decoded when a batch needs them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from lab.supervised.data import Data, DataError, MissingDataError, existing_file
from lab.supervised.images import image_data
from rl_crop.optional import require

SHAPE = (3, 64, 64)


def tiny_imagenet(root: str = "data", augmented: bool = True) -> Data:
    """
    The published test images have no labels, so those of ``val`` are the test set.

    :param root: the folder in which ``tiny-imagenet-200`` lies, as unpacked.
    :param augmented: whether training images are shifted and mirrored at random.
    :return: 100,000 and 10,000 images of 200 classes.
    :raises MissingDataError: the folder, or a file of it, is missing.
    :raises DataError: a list or an image is not what it should be.
    """
    folder = Path(root) / "tiny-imagenet-200"
    if not folder.is_dir():
        raise MissingDataError(
            f"Tiny-ImageNet is not there: unpack the published archive, so that {folder} exists, or say where it is with "
            f"data.root."
        )
    require("PIL.Image", "supervised")
    classes = {name: number for number, name in enumerate(_lines(folder / "wnids.txt"))}
    train = [(path, number) for name, number in classes.items() for path in _images(folder / "train" / name / "images")]
    test = [_annotated(folder, line, classes) for line in _lines(folder / "val" / "val_annotations.txt")]
    return image_data(_labelled(train), _labelled(test), SHAPE, len(classes), augmented)


class ImageFiles:
    """
    Images that are decoded when they are asked for.

    :param paths: their files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __getitem__(self, rows: th.Tensor) -> th.Tensor:
        """:return: bytes of shape (images, 3, 64, 64)."""
        return th.stack([self._decoded(self.paths[row]) for row in rows.tolist()])

    def _decoded(self, path: Path) -> th.Tensor:
        pillow = require("PIL.Image", "supervised")
        try:
            with pillow.open(path) as image:
                pixels = np.array(image.convert("RGB"))  # some are grey
        except OSError as error:
            raise DataError(f"{path} cannot be decoded ({error}): it is truncated, or no image. Copy it again.") from error
        if pixels.shape != (*SHAPE[1:], 3):
            raise DataError(f"{path} is of {pixels.shape[1]} by {pixels.shape[0]} pixels, not 64 by 64.")
        return th.from_numpy(pixels).movedim(2, 0)


def _lines(path: Path) -> list[str]:
    text = existing_file(path, "Tiny-ImageNet").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty: it is truncated. Copy it again.")
    return lines


def _images(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.JPEG"))
    if not paths:
        raise MissingDataError(f"Tiny-ImageNet: no image is in {folder}.")
    return paths


def _annotated(folder: Path, line: str, classes: dict[str, int]) -> tuple[Path, int]:
    file, *rest = line.split("\t")
    if not rest or rest[0] not in classes:
        raise DataError(f"{folder / 'val' / 'val_annotations.txt'}: {line!r} names no class of wnids.txt; is it truncated?")
    return existing_file(folder / "val" / "images" / file, "Tiny-ImageNet"), classes[rest[0]]


def _labelled(images: Sequence[tuple[Path, int]]) -> tuple[Any, th.Tensor]:
    return ImageFiles([path for path, _ in images]), th.tensor([number for _, number in images])
