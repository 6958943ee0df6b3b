"""Layers that no call reached: one that reads a cut layer later would find another width."""

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import torch as th
from torch import nn

from rl_crop.core.graph.tracer import LabelTracer

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
SIBLING = "is a sibling of another size"


def follow_siblings(model: nn.Module, tracer: LabelTracer, unit_of: np.ndarray) -> None:
    """
    Cut a layer that no call reached like those beside it in a list: an expert without tokens, a head of another task.

    That is safe where the list is no chain: the layers reached read one thing, or take another number of features than they
    give. Others are left to :func:`possible_readers`.

    :param model: the root module.
    :param tracer: what has been recorded; ties are added, and what is tied counts as reached.
    :param unit_of: the unit of each label.
    """
    for prefix, parent in model.named_modules():
        if not isinstance(parent, (nn.ModuleList, nn.ModuleDict)):
            continue
        start = f"{prefix}." if prefix else ""
        families: dict[object, list[str]] = {}
        for name, child in parent.named_children():
            shapes = tuple((key, tuple(tensor.shape)) for key, tensor in child.named_parameters())
            if shapes and all(f"{start}{name}.{key}" in tracer.axes_of for key, _ in shapes):  # none is shared or a target's
                families.setdefault((type(child), shapes), []).append(f"{start}{name}")
        for (_, shapes), names in families.items():  # type: ignore[misc]
            keys = [key for key, _ in shapes]
            reached = [name for name in names if any(f"{name}.{key}" in tracer.met for key in keys)]
            if not reached or not _side_by_side(tracer, unit_of, dict(shapes), reached):
                continue
            for name in names:
                if name not in reached:
                    for key in keys:
                        for own, other in zip(tracer.axes_of[f"{name}.{key}"], tracer.axes_of[f"{reached[0]}.{key}"]):
                            tracer.tie(own, other, SIBLING)
                        tracer.met.add(f"{name}.{key}")


def _side_by_side(tracer: LabelTracer, unit_of: np.ndarray, shapes: Mapping[str, tuple[int, ...]], reached: list[str]) -> bool:
    weights = [key for key, shape in shapes.items() if len(shape) >= 2]
    if not weights:
        return False
    if len(reached) == 1:
        return shapes[weights[0]][1] != shapes[weights[-1]][0]
    read = [unit_of[tracer.axes_of[f"{name}.{weights[0]}"][1]] for name in reached]
    return all(np.array_equal(read[0], other) for other in read)


def possible_readers(model: nn.Module, reached: Collection[str], exempt: Collection[int]) -> dict[int, str]:
    """
    :param model: the root module.
    :param reached: names of the parameters and buffers that some call used.
    :param exempt: identities of parameters that are left alone on request.
    :return: by size, the first layer that was not reached and may read that many features.
    """
    used = {id(tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()] if name in reached}
    sizes: dict[int, str] = {}
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if own and not any(id(tensor) in used or id(tensor) in exempt for tensor in own.values()):
            for size in _read_by(module, own):
                sizes.setdefault(size, name)
    return sizes


def _read_by(module: nn.Module, own: Mapping[str, th.Tensor]) -> Iterator[int]:
    if isinstance(module, _WEIGHTED):
        yield module.weight.shape[1] * getattr(module, "groups", 1)
    elif not isinstance(module, nn.Embedding):
        yield from (size for tensor in own.values() for size in tensor.shape if size > 1)
