"""All data sets by name."""

from collections.abc import Callable

from lab.supervised.cifar import cifar10, cifar100
from lab.supervised.coordinates import coordinates
from lab.supervised.data import Data
from lab.supervised.tables import diabetes, digits, friedman
from lab.supervised.text import text
from lab.supervised.tiny_imagenet import tiny_imagenet

DATASETS: dict[str, Callable[..., Data]] = {
    function.__name__: function
    for function in (digits, cifar10, cifar100, tiny_imagenet, diabetes, friedman, coordinates, text)
}
"""Data sets by name: functions that take plain values."""
