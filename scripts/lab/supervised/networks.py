"""Networks for small tasks, and all networks by name: functions of an input shape, the number of outputs and plain values."""

import math
from collections.abc import Callable, Sequence

import torch as th
from torch import nn

from lab.supervised.convnets import resnet18, resnext, vgg16
from lab.supervised.language import character_gru, character_transformer
from rl_crop.core.errors import PruningError
from rl_crop.core.recipes.systems.early_exits import MultiExit

Shape = tuple[int, ...]


def mlp(
    input_shape: Shape, n_outputs: int, widths: Sequence[int] = (256, 256), activation: str = "ReLU", normalised: bool = False
) -> nn.Module:
    """
    :param input_shape: of one observation, which is flattened.
    :param n_outputs: outputs.
    :param widths: of the hidden layers.
    :param activation: name of a class of ``torch.nn``.
    :param normalised: whether a BatchNorm precedes each activation.
    :return: the network.
    """
    return nn.Sequential(nn.Flatten(), *_hidden(math.prod(input_shape), widths, activation, normalised, n_outputs))


def cnn(
    input_shape: Shape,
    n_outputs: int,
    channels: Sequence[int] = (32, 64),
    widths: Sequence[int] = (128,),
    activation: str = "ReLU",
    normalised: bool = True,
) -> nn.Module:
    """
    3 by 3 convolutions, each followed by a maximum over 2 by 2 pixels, then linear layers.

    :param input_shape: channels, height and width.
    :param n_outputs: outputs.
    :param channels: of the convolutions.
    :param widths: of the hidden linear layers.
    :param activation: name of a class of ``torch.nn``.
    :param normalised: whether a BatchNorm follows each convolution.
    :return: the network.
    """
    before, height, width = input_shape
    layers: list[nn.Module] = []
    for after in channels:
        layers += [nn.Conv2d(before, after, 3, padding=1), *([nn.BatchNorm2d(after)] if normalised else [])]
        layers += [_activation(activation), nn.MaxPool2d(2)]
        before, height, width = after, height // 2, width // 2
    return nn.Sequential(*layers, nn.Flatten(), *_hidden(before * height * width, widths, activation, False, n_outputs))


def early_exit_cnn(
    input_shape: Shape, n_outputs: int, channels: Sequence[int] = (32, 64), activation: str = "ReLU", normalised: bool = True
) -> nn.Module:
    """
    The convolutions of :func:`cnn`, each with an exit: means over quarters of the picture, and a linear layer.

    :param input_shape: channels, height and width.
    :param n_outputs: outputs of each exit.
    :param channels: of the convolutions.
    :param activation: name of a class of ``torch.nn``.
    :param normalised: whether a BatchNorm follows each convolution.
    :return: the network; it returns (observations, exits, outputs).
    """
    before, stages, exits = input_shape[0], [], []
    for after in channels:
        norm = [nn.BatchNorm2d(after)] if normalised else []
        stages.append(nn.Sequential(nn.Conv2d(before, after, 3, padding=1), *norm, _activation(activation), nn.MaxPool2d(2)))
        exits.append(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * after, n_outputs)))
        before = after
    return MultiExit(stages, exits)


class FourierFeatures(nn.Module):
    """
    Sines and cosines of coordinates at fixed random frequencies (Tancik et al., NeurIPS 2020).

    :param n_inputs: coordinates.
    :param n_frequencies: how many.
    :param scale: standard deviation of the frequencies, in periods over a distance of 1.
    """

    frequencies: th.Tensor

    def __init__(self, n_inputs: int, n_frequencies: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", th.randn(n_inputs, n_frequencies) * scale * 2 * math.pi)

    def forward(self, places: th.Tensor) -> th.Tensor:
        angles = places @ self.frequencies
        return th.cat([angles.sin(), angles.cos()], -1)


def coordinate(
    input_shape: Shape,
    n_outputs: int,
    widths: Sequence[int] = (256, 256, 256),
    activation: str = "ReLU",
    n_frequencies: int = 64,
    scale: float = 2.0,
) -> nn.Module:
    """
    A network on Fourier features of its inputs, whose frequencies stay whole.

    :param input_shape: (coordinates,).
    :param n_outputs: outputs.
    :param widths: of the hidden layers.
    :param activation: name of a class of ``torch.nn``.
    :param n_frequencies: see :class:`FourierFeatures`.
    :param scale: see :class:`FourierFeatures`.
    :return: the network.
    """
    features = FourierFeatures(input_shape[0], n_frequencies, scale)
    return nn.Sequential(features, *_hidden(2 * n_frequencies, widths, activation, False, n_outputs))


def _hidden(before: int, widths: Sequence[int], activation: str, normalised: bool, n_outputs: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for after in widths:
        layers += [nn.Linear(before, after), *([nn.BatchNorm1d(after)] if normalised else []), _activation(activation)]
        before = after
    return [*layers, nn.Linear(before, n_outputs)]


def _activation(name: str) -> nn.Module:
    found = getattr(nn, name, None)
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        raise PruningError(f"activation={name!r} is no class of torch.nn, such as ReLU, Tanh or GELU.")
    return found()


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    function.__name__: function
    for function in (mlp, cnn, early_exit_cnn, coordinate, resnet18, vgg16, resnext, character_transformer, character_gru)
}
"""Networks by name."""
