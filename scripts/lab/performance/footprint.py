"""How much memory something holds and takes."""

from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import torch as th
from torch.profiler import ProfilerActivity, profile

from rl_crop.core.graph.groups import named_tensors
from rl_crop.sb3.subject import algorithm_optimizers


def peak_bytes(call: Callable[[], object], device: th.device) -> int:
    """
    :param call: what is looked at
    :param device: where it works
    :return: the most memory in tensors that it held at once, beyond what was there before
    """
    if device.type == "cuda":
        th.cuda.synchronize(device)
        th.cuda.reset_peak_memory_stats(device)
        before = th.cuda.memory_allocated(device)
        call()
        th.cuda.synchronize(device)
        return th.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    result: Any = profiler.profiler
    changes = sorted((e.start_ns(), e.nbytes()) for e in result.kineto_results.events() if e.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def part_of(batch: Any, divisor: int) -> Any:
    """
    :param batch: tensors, in tuples, mappings or as attributes
    :param divisor: of the number of rows
    :return: a batch of the same kind with the first rows of every tensor; what holds no tensors as it is
    """
    if isinstance(batch, th.Tensor):
        return batch[: max(1, len(batch) // divisor)] if batch.dim() else batch
    if isinstance(batch, Mapping):
        return {key: part_of(value, divisor) for key, value in batch.items()}
    if isinstance(batch, SimpleNamespace):
        return type(batch)(**part_of(vars(batch), divisor))
    if isinstance(batch, tuple | list):
        parts = [part_of(value, divisor) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def bytes_of(tensors: Iterable[Any]) -> int:
    """:return: bytes of tensors, each object once; what is no tensor counts nothing"""
    found = {id(tensor): tensor for tensor in tensors if isinstance(tensor, th.Tensor)}
    return sum(tensor.numel() * tensor.element_size() for tensor in found.values())


def agent_bytes(model: Any) -> dict[str, int]:
    """
    :param model: an agent
    :return: bytes of what it learns, of its optimizers' state and of its target networks
    """
    tensors = named_tensors(model.policy)
    targets = [tensor for name, tensor in tensors.items() if name.split(".")[0].endswith("_target")]
    followed = {id(tensor) for tensor in targets}
    states = [state for optimizer in algorithm_optimizers(model) for state in optimizer.state.values()]
    return {
        "parameters_bytes": bytes_of(tensor for tensor in tensors.values() if id(tensor) not in followed),
        "optimizer_bytes": bytes_of(value for state in states for value in state.values()),
        "targets_bytes": bytes_of(targets),
    }
