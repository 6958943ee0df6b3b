"""
A cut tried out: the cut network must compute what the dense one does when nothing reads the removed units.

What a trace cannot see shows here: numbers computed from a width (``64 / h.shape[-1]``), and calls that no trace sees
(scripted functions, ``vmap``, DLPack, extensions).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import torch as th
import torch.nn.functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from rl_crop.core.errors import lacks_memory
from rl_crop.core.graph.groups import DependencyGraph, Group
from rl_crop.core.graph.tracer import tensors_in
from rl_crop.core.model import Subject
from rl_crop.core.pruning.surgery import Transaction, cut, keep_index, sizes_as_given, update_sizes
from rl_crop.core.rng import Steady, isolated_rng, undisturbed

ROWS = 16
"""Observations on which the two are compared."""
WIDTH = "the forward pass computes with its width, or mixes its units where no call shows it"
TOLERANCE = {th.float64: 1e-6, th.float32: 1e-3}
"""Largest difference, relative to the dense outputs; ten times the precision of smaller types at most."""

Kept = Mapping[str, np.ndarray]


class Trial(Transaction):
    """Changes that are always taken back; graphs of earlier losses stay valid, so nothing may be differentiated within."""

    def set_data(self, tensor: th.Tensor, data: th.Tensor) -> None:
        """Give a tensor other contents for as long as the trial lasts; its gradient stays."""
        old = tensor.data

        def undo() -> None:
            tensor.data = old

        self._undo.append(undo)
        tensor.data = data

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        super().__exit__(kind or RuntimeError, error or RuntimeError("a trial ends"), trace)


def whole_where_it_differs(subject: Subject, graph: DependencyGraph) -> DependencyGraph:
    """
    Half of all units are removed for a moment; layers that a cut would change in another way than masks stay whole.

    :param subject: the model; unchanged afterwards.
    :param graph: its units.
    :return: the graph with the units that can be cut exactly.
    """
    half = {name: _half(group) for name, group in graph.groups.items()}
    if not half or difference(subject, graph, half) is None:
        return graph
    passed: dict[str, np.ndarray] = {}
    failed: dict[str, str] = {}
    for name, kept in half.items():
        why = difference(subject, graph, {**passed, name: kept}) if len(kept) < graph.groups[name].n_units else None
        if why is None:
            passed[name] = kept
        else:
            failed[name] = why
    return graph.without(failed)


def _half(group: Group) -> np.ndarray:
    every_second = np.arange(group.n_units)[:: 2 if group.n_units > 1 else 1]
    return every_second if len(every_second) >= group.least else np.arange(min(group.least, group.n_units))


def difference(subject: Subject, graph: DependencyGraph, kept: Kept) -> str | None:
    """
    :param kept: kept units by group name.
    :return: how the cut network differs from the masked one, ``None`` where they agree; nothing is changed.
    """
    if subject.stored:
        return None  # what is handed to the network has its old width until the cut is made
    masked = masked_outputs(subject, graph, kept)
    return None if masked is None else differs(masked, lambda: _outputs(subject, partial(_cut, subject, graph, kept)))


def masked_outputs(subject: Subject, graph: DependencyGraph, kept: Kept) -> list[th.Tensor] | None:
    """:return: what the network computes where nothing reads the removed units; ``None`` where it does not run so."""
    masked = _outputs(subject, partial(_mask, subject, graph, kept), KeptNorms(subject, graph, kept))
    return None if isinstance(masked, Exception) else masked


def cut_outputs(subject: Subject) -> list[th.Tensor] | Exception:
    """:return: what the network, once cut, computes on the same observations, or its error"""
    return _outputs(subject, lambda trial: None)


def differs(masked: Sequence[th.Tensor], cut_network: Callable[[], list[th.Tensor] | Exception]) -> str | None:
    """
    :param masked: outputs of the masked network.
    :param cut_network: computes those of the cut one.
    :return: how these differ; ``None`` also where the cut network does not agree with itself.
    """
    found = cut_network()
    if isinstance(found, Exception):
        return f"the forward pass expects its width ({found})"
    if _agree(found, masked):
        return None
    again = cut_network()
    return WIDTH if not isinstance(again, Exception) and _agree(again, found) else None


def _outputs(
    subject: Subject, change: Callable[[Trial], None], mode: TorchFunctionMode | None = None
) -> list[th.Tensor] | Exception:
    trial = Trial()
    with undisturbed(subject.root), isolated_rng(0), th.no_grad(), trial:
        change(trial)
        try:
            with mode or Steady(), sizes_as_given(trial, subject.trained.modules):
                results = [run(index=slice(ROWS)) for run in subject.trained.runs]
            return [output.clone() for result in results for output in tensors_in(result)]
        except Exception as error:
            if lacks_memory(error):
                raise
            return error


def _cut(subject: Subject, graph: DependencyGraph, kept: Kept, trial: Trial) -> None:
    update_sizes(trial, subject.trained.modules, cut(trial, graph, subject.trained.tensors, kept))


def _mask(subject: Subject, graph: DependencyGraph, kept: Kept, trial: Trial) -> None:
    """Zero what reads the removed units, so that they go nowhere, whatever they are."""
    for name, units in kept.items():
        group = graph.groups[name]
        removed = np.setdiff1d(np.arange(group.n_units), units)
        for slot in group.slots:
            if slot.role == "in":
                tensor = subject.trained.tensors[slot.tensor]
                index = th.as_tensor(slot.index[removed].ravel(), device=tensor.device)
                trial.set_data(tensor, tensor.data.index_fill(slot.axis, index, 0))


def _agree(first: Sequence[th.Tensor], second: Sequence[th.Tensor]) -> bool:
    if [x.shape for x in first] != [x.shape for x in second]:
        return False
    return all(_close(x, y) for x, y in zip(first, second, strict=True))


def _close(x: th.Tensor, y: th.Tensor) -> bool:
    if not (x.is_floating_point() or x.is_complex()):
        return bool((x == y).float().mean() > 0.9) if x.numel() else True  # decisions that rounding may tip
    finite = th.isfinite(y)
    if bool((finite != th.isfinite(x)).any()):
        return False
    if not bool(finite.any()):
        return True
    x, y = x[finite], y[finite]
    tolerance = TOLERANCE.get(y.dtype, 10 * th.finfo(y.dtype).eps)
    return float((x - y).abs().max()) <= tolerance * max(float(y.abs().max()), th.finfo(y.dtype).tiny)


class KeptNorms(Steady):
    """
    While active, norms over features see the kept ones alone, as they will once the others are gone.

    :param subject: whose norms.
    :param graph: its units.
    :param kept: kept units by group name.
    """

    def __init__(self, subject: Subject, graph: DependencyGraph, kept: Kept) -> None:
        super().__init__()
        self.index: dict[int, dict[int, np.ndarray]] = {}
        for name, tensor in subject.trained.tensors.items():
            index = keep_index(graph, name, kept)
            if index and not any(slot.role != "along" for _, slot in graph.slots_of(name)):
                self.index[id(tensor)] = index

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take the kept features out, normalise them, and put them back."""
        if func in _NORMS:
            call = dict(zip(_NORMS[func], args, strict=False)) | (kwargs or {})
            index = self.index.get(id(call.get("weight")), {})
            if index:
                return _on_kept(func, call, index)
        return super().__torch_function__(func, types, args, kwargs)


_NORMS: dict[Callable, tuple[str, ...]] = {
    F.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
    F.rms_norm: ("input", "normalized_shape", "weight", "eps"),
    F.group_norm: ("input", "num_groups", "weight", "bias", "eps"),
}


def _on_kept(func: Callable, call: dict[str, Any], index: Mapping[int, np.ndarray]) -> th.Tensor:
    x, weight = call["input"], call["weight"]
    first = 1 if func is F.group_norm else x.dim() - weight.dim()
    places = {axis: th.as_tensor(positions, device=x.device) for axis, positions in index.items()}
    inner, own, bias = x, weight, call.get("bias")
    for axis, positions in places.items():
        inner = inner.index_select(first + axis, positions)
        own = own.index_select(axis, positions)
        bias = None if bias is None else bias.index_select(axis, positions)
    replaced = {**call, "input": inner, "weight": own} | ({"bias": bias} if "bias" in call else {})
    if func is not F.group_norm:
        replaced["normalized_shape"] = tuple(own.shape)
    out = func(**replaced)
    for axis, positions in places.items():
        wider = list(out.shape)
        wider[first + axis] = x.shape[first + axis]
        out = out.new_zeros(wider).index_copy(first + axis, positions, out)
    return out
