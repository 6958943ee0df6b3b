"""Masks: weights held at exactly zero in every copy of a network, through any optimizer's steps."""

import base64
import binascii
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from rl_crop.core.errors import PruningError
from rl_crop.core.pruning.surgery import Transaction

Keep = Mapping[str, th.Tensor]
"""Boolean masks by parameter name: ``True`` is kept, ``False`` is masked to zero."""

_HELD: Any = WeakTensorKeyDictionary()
"""By tensor, the :class:`_Hold` that masks it, and under which name. Neither keeps the tensor alive."""


@dataclass
class _Hold:
    """What hooks share; it refers to no parameter, so that a network which is no longer used is freed."""

    keep: dict[str, th.Tensor] = field(default_factory=dict)
    bits: dict[str, th.Tensor] = field(default_factory=dict)  # the masks as integers, all ones where kept
    handles: list[RemovableHandle] = field(default_factory=list)
    attached: bool = False

    def release(self, transaction: Transaction | None = None) -> None:
        """Take all hooks away; a transaction puts them back."""
        places = [(handle.hooks_dict_ref(), handle.id) for handle in self.handles]
        hooks = [(hooks, key, hooks[key]) for hooks, key in places if hooks is not None and key in hooks]
        before = self.handles, self.attached

        def undo() -> None:
            for owner, key, hook in hooks:
                owner[key] = hook
            self.handles, self.attached = before

        if transaction is not None:
            transaction.call(undo)
        for handle in self.handles:
            handle.remove()
        self.handles, self.attached = [], False


class Masks:
    """
    Which weights are kept, and the hooks that hold all others at zero.

    Training is then that of a network which multiplies its weights by the masks: weight, gradient and every optimizer
    moment of its shape are zero, so that what is masked counts neither in a clipped gradient norm nor when it comes back.

    :param copies: parameters by name: the trained network's first, then targets and mirrors (which may lack some).
    :param keep: by parameter name, a boolean tensor of its shape.
    :param optimizers: those of all copies.
    :param modules: for training without an optimizer: modules whose layers zero what is masked before every call, and before
        they are saved; deep copies of them do so too.
    :raises PruningError: a mask does not fit its parameter, or an optimizer is LBFGS.
    """

    def __init__(
        self,
        copies: Sequence[Mapping[str, th.Tensor]],
        keep: Keep,
        optimizers: Iterable[Optimizer] | Optimizer = (),
        modules: Iterable[nn.Module] = (),
    ) -> None:
        given = (optimizers,) if isinstance(optimizers, Optimizer) else optimizers
        self.optimizers = list({id(optimizer): optimizer for optimizer in given}.values())
        if any(isinstance(optimizer, th.optim.LBFGS) for optimizer in self.optimizers):
            raise PruningError("LBFGS moves all weights along one direction, which masks would bend: use another optimizer.")
        self.copies = [dict(copy) for copy in copies]
        self.layers = list({id(layer): layer for module in modules for layer in module.modules()}.values())
        self._hold = _Hold()
        self._store(keep)

    @property
    def keep(self) -> dict[str, th.Tensor]:
        """By parameter name, the boolean mask."""
        return self._hold.keep

    @property
    def attached(self) -> bool:
        """Whether the hooks are in place."""
        return self._hold.attached

    def _store(self, keep: Keep) -> None:
        for name, mask in keep.items():
            for copy in self.copies[:1] + [copy for copy in self.copies[1:] if name in copy]:
                if name not in copy:
                    raise PruningError(f"There is a mask for {name!r}, which is no parameter of the model.")
                shape, given = tuple(copy[name].shape), tuple(mask.shape)
                if mask.dtype != th.bool or given != shape:
                    raise PruningError(
                        f"The mask of {name!r} must be boolean, of shape {shape}: it is {mask.dtype} of shape {given}."
                    )
        first = self.copies[0] if keep else {}
        own = {name: mask.detach().to(first[name].device, copy=True) for name, mask in keep.items()}
        bits = {name: -mask.to(_integer(first[name])) for name, mask in own.items()}
        self._hold.keep, self._hold.bits = own, bits

    @property
    def sparsity(self) -> float:
        """The share of the elements of all masks that is masked."""
        total = sum(mask.numel() for mask in self.keep.values())
        return 1.0 - sum(int(mask.sum()) for mask in self.keep.values()) / total if total else 0.0

    def set(self, keep: Keep, transaction: Transaction | None = None) -> None:
        """
        Change the masks and apply them. What comes back starts at zero, with moments of zero.

        :param keep: by parameter name, a boolean tensor of its shape; names left out are no longer masked.
        :param transaction: one that undoes it.
        :raises PruningError: a mask does not fit its parameter; nothing was changed.
        """
        if transaction is None:
            with Transaction() as own:
                return self.set(keep, own)
        attached = self.attached
        transaction.keep_attributes(self._hold, "keep", "bits")
        if attached:
            self._hold.release(transaction)
            transaction.call(self.detach)
        self._store(keep)
        if attached:
            self.attach()
        self.apply(transaction)

    def data(self, names: Sequence[str]) -> list[dict[str, th.Tensor]]:
        """:return: by copy, the contents of the parameters named, as they are."""
        return [{name: copy[name].data for name in names if name in copy} for copy in self.copies]

    def apply(self, transaction: Transaction | None = None) -> None:
        """
        Zero what is masked: weights of every copy, their gradients, and optimizer state of a weight's shape.

        :param transaction: one that undoes it; else it happens in place.
        """
        for copy in self.copies:
            for name in self.keep.keys() & copy.keys():
                tensor, gone = copy[name], ~self.keep[name].to(copy[name].device)
                if transaction is not None:
                    gradient = tensor.grad
                    transaction.set_data(tensor, tensor.data.masked_fill(gone, 0))
                    tensor.grad = None if gradient is None else gradient.masked_fill(gone, 0)
                    continue
                for values in (tensor.data, tensor.grad):
                    if values is not None:
                        values.masked_fill_(gone, 0)
        for optimizer in self.optimizers:
            for state, key, value, name in self._moments(optimizer):
                gone = ~self.keep[name].to(value.device)
                if transaction is not None:
                    transaction.set_item(state, key, value.masked_fill(gone, 0))
                else:
                    value.masked_fill_(gone, 0)

    def attach(self) -> None:
        """From now on, what is masked is zero after every step of every optimizer, and so are gradients after a backward."""
        if self.attached:
            return
        try:
            self._attach()
        except BaseException:  # half a network held is worse than none
            self.detach()
            raise

    def _attach(self) -> None:
        hold = self._hold
        hold.attached = True
        hold.handles.extend(optimizer.register_step_post_hook(self._after_step) for optimizer in self.optimizers)
        for copy in self.copies:
            for name in hold.keep.keys() & copy.keys():
                tensor = copy[name]
                _HELD[tensor] = hold, name
                if tensor.requires_grad and tensor.is_leaf:
                    hold.handles.append(tensor.register_post_accumulate_grad_hook(_GradientMask(hold, name)))
        names = {id(copy[name]): name for copy in self.copies for name in hold.keep.keys() & copy.keys()}
        for layer in self.layers:
            if own := {key: names[id(tensor)] for key, tensor in layer._parameters.items() if id(tensor) in names}:
                mask = _CallMask(hold, own)
                hold.handles.append(layer.register_forward_pre_hook(mask))
                hold.handles.append(layer.register_state_dict_pre_hook(mask))

    def detach(self) -> None:
        """Hold nothing any longer; what is zero stays so until something changes it."""
        self._hold.release()

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for copy in self.copies:
            for name, bits in self._hold.bits.items():
                if name in copy and id(copy[name]) in stepped:
                    _clear(copy[name].data, bits)
        for *_, value, name in self._moments(optimizer):
            _clear(value, self._hold.bits[name])

    def _moments(self, optimizer: Optimizer) -> list[tuple[dict[str, Any], str, th.Tensor, str]]:
        """:return: (state of a parameter, key, tensor, name of the parameter) for all state of its parameter's shape."""
        found = []
        for copy in self.copies:
            for name in self.keep.keys() & copy.keys():
                if copy[name] in optimizer.state:
                    state, shape = optimizer.state[copy[name]], copy[name].shape
                    values = [(key, value) for key, value in state.items() if isinstance(value, th.Tensor)]
                    found += [(state, key, value, name) for key, value in values if value.shape == shape and value.dim() > 0]
        return found


@dataclass(frozen=True)
class _GradientMask:
    """Zeroes one parameter's gradient where it is masked, whenever a backward has added to it."""

    hold: _Hold
    name: str

    def __call__(self, parameter: th.Tensor) -> None:
        if parameter.grad is not None:
            _clear(parameter.grad, self.hold.bits[self.name])


@dataclass(frozen=True)
class _CallMask:
    """Zeroes what is masked of one layer's parameters, each by the attribute it is in."""

    hold: _Hold
    names: Mapping[str, str]

    def __call__(self, layer: nn.Module, *args: Any) -> None:
        if getattr(th.compiler, "is_exporting", th.compiler.is_compiling)():
            return  # a traced graph has weights without data
        for key, name in self.names.items():
            _clear(getattr(layer, key).data, self.hold.bits[name])

    def __deepcopy__(self, memo: Any) -> "_CallMask":
        return _CallMask(_Hold(self.hold.keep, self.hold.bits), self.names)


def _integer(tensor: th.Tensor) -> th.dtype:
    return {1: th.int8, 2: th.int16, 4: th.int32, 8: th.int64}[tensor.element_size()]


def _clear(tensor: th.Tensor, bits: th.Tensor) -> None:
    # An AND of bits is as fast as a product, many times faster than masked_fill, and zeroes NaN too (Adam's 0 / 0).
    with th.no_grad():
        tensor.view(_integer(tensor)).bitwise_and_(bits.to(tensor.device, _integer(tensor)))


def attached_masks(tensors: Mapping[str, th.Tensor]) -> dict[str, th.Tensor]:
    """:return: the masks (``True`` is kept) of those tensors that attached :class:`Masks` hold, by the names given here."""
    held = {name: _HELD[tensor] for name, tensor in tensors.items() if tensor in _HELD}
    return {name: hold.keep[own] for name, (hold, own) in held.items() if hold.attached and own in hold.keep}


def release_masks(tensors: Iterable[th.Tensor], transaction: Transaction | None = None) -> None:
    """
    Detach whatever :class:`Masks` hold one of the tensors.

    :param tensors: parameters of any networks.
    :param transaction: one that undoes it.
    """
    held = [(tensor, _HELD[tensor]) for tensor in tensors if tensor in _HELD]

    def restore() -> None:
        for tensor, entry in held:
            _HELD[tensor] = entry

    if transaction is not None:
        transaction.call(restore)
    for hold in {id(hold): hold for _, (hold, _) in held}.values():
        hold.release(transaction)


def refuse_masked(tensors: Mapping[str, th.Tensor]) -> None:
    """:raises PruningError: attached masks hold one of the tensors, so that units cannot be cut."""
    held = sorted(attached_masks(tensors))
    if held:
        raise PruningError(
            f"{held} are masked (structured=False): units are not cut out of masked weights. Let go of the masks first: "
            "rl_crop.core.masking.masks.release_masks(model.parameters()), or of an agent rl_crop.sb3.masks.drop_masks(model)."
        )


def pack(keep: Keep) -> dict[str, dict[str, Any]]:
    """:return: the masks, JSON-ready: by name the shape, and the bits (row by row, first bit highest) in base64."""
    bits = {name: base64.b64encode(np.packbits(mask.detach().cpu().numpy()).tobytes()) for name, mask in keep.items()}
    return {name: {"shape": list(mask.shape), "bits": bits[name].decode("ascii")} for name, mask in keep.items()}


def unpack(packed: Mapping[str, Mapping[str, Any]]) -> dict[str, th.Tensor]:
    """
    :param packed: what :func:`pack` made.
    :return: the masks, on the CPU.
    :raises PruningError: it is something else.
    """
    keep = {}
    for name, entry in packed.items():
        try:
            shape, raw = tuple(entry["shape"]), base64.b64decode(entry["bits"], validate=True)
        except (KeyError, TypeError, binascii.Error) as error:
            raise PruningError(f"The packed mask of {name!r} cannot be read ({error!r}).") from error
        if len(raw) != -(-math.prod(shape) // 8):
            raise PruningError(f"The packed mask of {name!r} has {len(raw)} bytes, which do not fit the shape {shape}.")
        bits = np.unpackbits(np.frombuffer(raw, dtype=np.uint8), count=math.prod(shape))
        keep[name] = th.from_numpy(bits.astype(bool)).reshape(shape)
    return keep
