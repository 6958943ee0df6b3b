"""A short, bounded fit of the cut network to its dense outputs on the same observations."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch as th

from rl_crop.core.graph.tracer import tensors_in
from rl_crop.core.pruning.surgery import Transaction

STEPS = 300
BATCH_SIZE = 256
LEARNING_RATE = 3e-3


class Distiller:
    """
    Remembers the dense outputs of one copy of the network and fits the cut copy to them.

    :param tensors: this copy's tensors by name.
    :param runs: functions that run it; ``run(index=...)`` on chosen observations, where these can be told apart.
    """

    def __init__(self, tensors: Mapping[str, th.Tensor], runs: Sequence[Callable[..., Any]]) -> None:
        self.runs = runs
        floating = [tensor for tensor in tensors.values() if tensor.is_floating_point()]
        self.parameters = [tensor for tensor in floating if isinstance(tensor, th.nn.Parameter)]
        with th.no_grad():
            targets = [_stacked(run()) for run in runs]
            # Rows may lie along another axis, or not be told apart.
            few = th.tensor([0, 0])
            self.by_rows = all(
                len(_stacked(run(index=few))) == 2 != len(target) for run, target in zip(runs, targets, strict=True)
            )
        # What is infinite by design (masked logits) has no error.
        self.finite = [th.isfinite(target) for target in targets]
        self.targets = [target.masked_fill(~finite, 0.0) for target, finite in zip(targets, self.finite, strict=True)]
        # Each output counts alike; one that hardly varies must not drown the others.
        variances = [target.var(0, unbiased=False) for target in self.targets]
        self.scales = [v.clamp_min(max(1e-3 * v.mean().item(), 1e-30)) for v in variances]

    def fit(self, transaction: Transaction) -> None:
        """
        At most :data:`STEPS` Adam steps on mini-batches of :data:`BATCH_SIZE` observations, each output's squared error
        divided by its variance; what is not closer on all observations than before is taken back.

        :param transaction: remembers every change.
        """
        plain = [parameter.data for parameter in self.parameters]
        for parameter in self.parameters:
            transaction.set_data(parameter, parameter.data.clone())
        frozen = [parameter for parameter in self.parameters if not parameter.requires_grad]  # target networks
        n_rows = min(len(target) for target in self.targets)
        with th.no_grad():
            before = self._error()
        for parameter in frozen:
            parameter.requires_grad_(True)
        optimizer = th.optim.Adam(self.parameters, lr=LEARNING_RATE)
        try:
            with th.enable_grad():
                for step in range(STEPS):
                    # The rate falls to zero, so that the last steps settle.
                    optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / STEPS)
                    rows = th.randint(n_rows, (min(BATCH_SIZE, n_rows),))
                    error = self._error(rows if self.by_rows else None)
                    grads = th.autograd.grad(error, self.parameters, allow_unused=True)
                    for parameter, grad in zip(self.parameters, grads, strict=True):
                        parameter.grad = grad
                    optimizer.step()
        finally:
            for parameter in self.parameters:
                parameter.grad = None
            for parameter in frozen:
                parameter.requires_grad_(False)
        with th.no_grad():
            if not self._error() < before:
                for parameter, data in zip(self.parameters, plain, strict=True):
                    parameter.data.copy_(data)

    def _error(self, index: th.Tensor | None = None) -> th.Tensor:
        """The mean squared error over outputs, in units of their variance, on all observations or on those chosen."""
        errors = []
        for run, target, finite, scale in zip(self.runs, self.targets, self.finite, self.scales, strict=True):
            wanted, counted = (target, finite) if index is None else (target[index], finite[index])
            errors.append(((_stacked(run(index=index)).masked_fill(~counted, 0.0) - wanted) ** 2 / scale).mean())
        return th.stack(errors).sum()


def _stacked(outputs: Any) -> th.Tensor:
    """:return: every floating output side by side, one row an observation."""
    parts = [part for part in tensors_in(outputs) if part.is_floating_point() and part.dim()]
    return th.cat([part.reshape(len(part), -1) for part in parts], dim=1)
