"""Tensors that no cut can reach by itself: their memory is also somebody else's, or they are no plain real matrices."""

from collections.abc import Iterable, Mapping

import torch as th
from torch import nn


def beyond_reach(copies: Iterable[Mapping[str, th.Tensor]], laid_out: Iterable[nn.Module] = ()) -> dict[str, str]:
    """
    :param copies: parameters and buffers of the model and of each that follows it, under the same names; one tensor may
        stand in several.
    :param laid_out: modules whose own weights may lie one after the other in memory, and do so again after a cut (recurrent
        ones).
    :return: by name, why a tensor must keep its shape.
    """
    found: dict[str, str] = {}
    owners: dict[int, tuple[str, th.Tensor]] = {}
    in_turn = {id(parameter) for part in laid_out for parameter in part.parameters(recurse=False)}
    for tensors in copies:
        for name, tensor in tensors.items():
            why = _unlike_others(tensor) or (None if id(tensor) in in_turn else _shared(name, tensor, owners, found))
            if why is not None:
                found.setdefault(name, why)
    return found


def _unlike_others(tensor: th.Tensor) -> str | None:
    if type(tensor).__torch_dispatch__ is not th.Tensor.__torch_dispatch__:
        return f"is a tensor of a kind of its own ({type(tensor).__name__})"
    if tensor.layout != th.strided or tensor.is_quantized or tensor.is_meta:
        return "is stored in a form of its own (sparse, quantized or without data)"
    if tensor.is_complex():
        return "has complex weights, which are neither scored nor refitted"
    return None


def _shared(name: str, tensor: th.Tensor, owners: dict[int, tuple[str, th.Tensor]], found: dict[str, str]) -> str | None:
    storage = tensor.untyped_storage()
    if not storage.nbytes():
        return None
    if tensor.device.type == "cpu" and tensor.is_shared():  # on other devices this is always true
        return "lies in memory that is shared with other processes: prune before share_memory()"
    other, first = owners.setdefault(storage.data_ptr(), (name, tensor))
    if first is not tensor:
        why = "shares its memory with {}, although they are two parameters: tie the modules instead (one Parameter)"
        found.setdefault(other, why.format(name))
        return why.format(other)
    if storage.nbytes() != tensor.numel() * tensor.element_size():
        return "is a part of a larger tensor, which would be left behind: give it memory of its own (p.data = p.data.clone())"
    return None
