"""ResNet-18, VGG-16 and ResNeXt for small images: the first convolution keeps their size."""

from collections.abc import Sequence

import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn

Shape = tuple[int, ...]
VGG16 = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))
"""Channels of each stage, in units of the first."""


class Residual(nn.Module):
    """
    Convolutions, and a way around them that is a convolution itself where the shape changes.

    :param inputs: channels received.
    :param outputs: channels returned.
    :param stride: of the way around.
    :param convolutions: each followed by a BatchNorm and, but for the last one, a ReLU.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, convolutions: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(convolutions)
        self.norms = nn.ModuleList(nn.BatchNorm2d(convolution.out_channels) for convolution in convolutions)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: th.Tensor) -> th.Tensor:
        inner = x
        for place, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            inner = norm(convolution(inner if place == 0 else F.relu(inner)))
        return F.relu(inner + self.shortcut(x))


def basic_block(inputs: int, outputs: int, stride: int) -> Residual:
    """:return: two 3 by 3 convolutions and a way around (He et al., CVPR 2016)."""
    convolutions = [_conv(inputs, outputs, 3, stride), _conv(outputs, outputs, 3)]
    return Residual(inputs, outputs, stride, convolutions)


def grouped_block(inputs: int, outputs: int, stride: int, inner: int, n_groups: int) -> Residual:
    """:return: a 3 by 3 convolution in groups between two of 1 by 1, and a way around (Xie et al., CVPR 2017)."""
    convolutions = [_conv(inputs, inner, 1), _conv(inner, inner, 3, stride, n_groups), _conv(inner, outputs, 1)]
    return Residual(inputs, outputs, stride, convolutions)


def resnet18(input_shape: Shape, n_outputs: int, width: int = 64, blocks: Sequence[int] = (2, 2, 2, 2)) -> nn.Module:
    """
    :param input_shape: channels, height and width.
    :param n_outputs: classes.
    :param width: channels of the first stage; every further one has twice as many.
    :param blocks: residual blocks in each stage.
    :return: the network.
    """
    layers: list[nn.Module] = []
    before = width
    for stage, count in enumerate(blocks):
        for number in range(count):
            layers.append(basic_block(before, width << stage, 2 if stage and not number else 1))
            before = width << stage
    return nn.Sequential(*_stem(input_shape[0], width), *layers, *_head(before, n_outputs))


def resnext(
    input_shape: Shape,
    n_outputs: int,
    n_groups: int = 8,
    group_width: int = 64,
    width: int = 64,
    blocks: Sequence[int] = (3, 3, 3),
) -> nn.Module:
    """
    ResNeXt-29, 8×64d by default.

    :param input_shape: channels, height and width.
    :param n_outputs: classes.
    :param n_groups: groups of each grouped convolution ("cardinality").
    :param group_width: channels of a group in the first stage; every further one has twice as many.
    :param width: channels of the stem; the first stage returns four times as many.
    :param blocks: residual blocks in each stage.
    :return: the network.
    """
    layers: list[nn.Module] = []
    before = width
    for stage, count in enumerate(blocks):
        for number in range(count):
            stride, inner = 2 if stage and not number else 1, n_groups * (group_width << stage)
            layers.append(grouped_block(before, width << (stage + 2), stride, inner, n_groups))
            before = width << (stage + 2)
    return nn.Sequential(*_stem(input_shape[0], width), *layers, *_head(before, n_outputs))


def vgg16(input_shape: Shape, n_outputs: int, width: int = 64) -> nn.Module:
    """
    VGG-16 with BatchNorm and one linear layer (Simonyan and Zisserman, ICLR 2015, as is usual for small images).

    :param input_shape: channels, height and width of at least 32.
    :param n_outputs: classes.
    :param width: channels of the first stage.
    :return: the network.
    """
    layers: list[nn.Module] = []
    before = input_shape[0]
    for stage in VGG16:
        for multiple in stage:
            layers += [_conv(before, multiple * width, 3), nn.BatchNorm2d(multiple * width), nn.ReLU()]
            before = multiple * width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, *_head(before, n_outputs))


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, n_groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=n_groups, bias=False)


def _stem(channels: int, width: int) -> list[nn.Module]:
    return [_conv(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU()]


def _head(channels: int, n_outputs: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, n_outputs)]
