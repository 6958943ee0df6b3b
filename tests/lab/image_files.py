"""Small files in the published formats of CIFAR and Tiny-ImageNet."""

import io
import pickle
import struct

import numpy as np
from PIL import Image

CIFAR10_FILES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def images(n, n_classes, seed):
    """:return: bytes of shape (n, 3072), and labels; every class occurs."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    pixels = generator.integers(0, 256, (n, 3072)) // 2 + labels[:, None] * 127 // n_classes
    return pixels.astype(np.uint8), labels


class Python2Pickler(pickle._Pickler):
    """Writes byte strings with the opcodes of Python 2, as the published files have them."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_bytes(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def python2(content):
    """:return: a pickle of protocol 2 as Python 2 and an early numpy wrote it."""
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(content)
    return stream.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def write_cifar10(root, pickled, n=20):
    """:return: the folder, and (pixels, labels) by file name without suffix."""
    folder = root / ("cifar-10-batches-py" if pickled else "cifar-10-batches-bin")
    folder.mkdir(parents=True)
    written = {}
    for seed, name in enumerate(CIFAR10_FILES):
        pixels, labels = written[name] = images(n, 10, seed)
        if pickled:
            content = {
                b"batch_label": name.encode(),
                b"labels": labels.tolist(),
                b"data": pixels,
                b"filenames": [b"a.png"] * n,
            }
            (folder / name).write_bytes(python2(content))
        else:
            records = np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1)
            (folder / f"{name}.bin").write_bytes(records.tobytes())
    return folder, written


def write_cifar100(root, pickled, n=100):
    """:return: the folder, and (pixels, fine labels) by file name without suffix."""
    folder = root / ("cifar-100-python" if pickled else "cifar-100-binary")
    folder.mkdir(parents=True)
    written = {}
    for seed, name in enumerate(("train", "test")):
        pixels, labels = written[name] = images(n, 100, seed)
        coarse = labels // 5
        if pickled:
            content = {b"fine_labels": labels.tolist(), b"coarse_labels": coarse.tolist(), b"data": pixels}
            (folder / name).write_bytes(python2(content))
        else:
            records = np.concatenate([np.stack([coarse, labels], 1).astype(np.uint8), pixels], axis=1)
            (folder / f"{name}.bin").write_bytes(records.tobytes())
    return folder, written


def write_tiny_imagenet(root, n_classes=3, n=12, n_test=4):
    """:return: the folder; all images of a class have one colour, and the first of all is grey."""
    folder = root / "tiny-imagenet-200"
    names = [f"n{number:08d}" for number in range(n_classes)]
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("\n".join(names) + "\n")

    def write(path, number, grey=False):
        shade = 40 + 60 * number
        image = Image.new("L", (64, 64), shade) if grey else Image.new("RGB", (64, 64), (shade, 255 - shade, 128))
        image.save(path, "JPEG")

    for number, name in enumerate(names):
        (folder / "train" / name / "images").mkdir(parents=True)
        for place in range(n):
            write(folder / "train" / name / "images" / f"{name}_{place}.JPEG", number, grey=number == place == 0)
    lines = []
    for place in range(n_test):
        write(folder / "val" / "images" / f"val_{place}.JPEG", place % n_classes)
        lines.append(f"val_{place}.JPEG\t{names[place % n_classes]}\t0\t0\t62\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder
