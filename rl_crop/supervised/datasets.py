"""All data sets by name."""

from collections.abc import Callable

from rl_crop.supervised.cifar import cifar10, cifar100
from rl_crop.supervised.coordinates import coordinates
from rl_crop.supervised.data import Data
from rl_crop.supervised.tables import diabetes, digits, friedman
from rl_crop.supervised.text import text
from rl_crop.supervised.tiny_imagenet import tiny_imagenet

DATASETS: dict[str, Callable[..., Data]] = {
    function.__name__: function
    for function in (digits, cifar10, cifar100, tiny_imagenet, diabetes, friedman, coordinates, text)
}
"""Data sets by name: functions that take plain values."""
