"""One image as a function of place: coordinates in, colours out, as neural fields are fitted."""

import math

import torch as th
import torch.nn.functional as F  # noqa: N812

from lab.supervised.data import Data, in_memory, shares_of
from rl_crop.core.errors import PruningError
from rl_crop.optional import require

PHOTOGRAPHS = ("china", "flower")


def coordinates(image: str = "china", size: int = 96) -> Data:
    """
    The pixels of one image: 80 % to fit, 10 % for validation, 10 % for the test.

    :param image: ``"china"`` or ``"flower"``, photographs that come with scikit-learn, or ``"waves"``, made by a formula.
    :param size: height and width to which it is reduced, in pixels.
    :return: places in [-1, 1]² and colours in [0, 1]³.
    :raises PruningError: the image is not known.
    """
    if image not in (*PHOTOGRAPHS, "waves"):
        raise PruningError(f"image={image!r} is not one of {[*PHOTOGRAPHS, 'waves']}.")
    axis = (th.arange(size) + 0.5) / size * 2 - 1
    places = th.cartesian_prod(axis, axis)
    colours = waves(places) if image == "waves" else _photograph(image, size)
    return in_memory("image", places, colours, shares_of(len(places), (0.8, 0.1)), 3)


def waves(places: th.Tensor) -> th.Tensor:
    """
    Rings, stripes and a checkerboard, one a colour.

    :param places: shape (n, 2), in [-1, 1].
    :return: shape (n, 3), in [0, 1].
    """
    y, x = places.T
    rings = th.sin(6 * math.pi * (x**2 + y**2))
    stripes = th.sin(math.pi * (3 * x + 5 * y) + 2 * x * y)
    board = th.tanh(4 * th.sin(3 * math.pi * x) * th.sin(3 * math.pi * y))
    return (th.stack([rings, stripes, board], 1) + 1) / 2


def _photograph(name: str, size: int) -> th.Tensor:
    require("PIL.Image", "supervised")
    pixels = th.tensor(require("sklearn.datasets", "supervised").load_sample_image(f"{name}.jpg"))
    reduced = F.interpolate(pixels.movedim(2, 0)[None].float() / 255, (size, size), mode="area")[0]
    return reduced.flatten(1).T.contiguous()
