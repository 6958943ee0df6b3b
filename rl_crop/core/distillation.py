"""A short, bounded fit of the cut network to its dense outputs on the same observations."""

from collections.abc import Callable, Mapping
from typing import Any

import torch as th

from rl_crop.core.surgery import Transaction
from rl_crop.core.tracing import tensors_in

STEPS = 300
BATCH_SIZE = 256
LEARNING_RATE = 3e-3


class Distiller:
    """
    Remembers the dense outputs of one copy of the network and fits the cut copy to them.

    :param tensors: this copy's tensors by name.
    :param runs: functions that run it; ``run(index=...)`` on chosen observations.
    """

    def __init__(self, tensors: Mapping[str, th.Tensor], runs: list[Callable[..., Any]]) -> None:
        self.runs = runs
        floating = [tensor for tensor in tensors.values() if tensor.is_floating_point()]
        self.parameters = [tensor for tensor in floating if isinstance(tensor, th.nn.Parameter)]
        with th.no_grad():
            self.targets = [_stacked(run()) for run in runs]

    def fit(self, transaction: Transaction) -> None:
        """
        At most :data:`STEPS` Adam steps on mini-batches of :data:`BATCH_SIZE` observations; each output's squared error
        is divided by its variance, so that every output counts alike.

        :param transaction: remembers every change.
        """
        for parameter in self.parameters:
            transaction.set_data(parameter, parameter.data.clone())
        frozen = [parameter for parameter in self.parameters if not parameter.requires_grad]  # target networks
        scales = [target.var(0, unbiased=False).clamp_min(1e-12) for target in self.targets]
        n_rows = min(len(target) for target in self.targets)
        for parameter in frozen:
            parameter.requires_grad_(True)
        optimizer = th.optim.Adam(self.parameters, lr=LEARNING_RATE)
        try:
            with th.enable_grad():
                for step in range(STEPS):
                    # The rate falls to zero, so that the last steps settle.
                    optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / STEPS)
                    index = th.randint(n_rows, (min(BATCH_SIZE, n_rows),))
                    loss = th.zeros(())
                    for run, target, scale in zip(self.runs, self.targets, scales, strict=True):
                        loss = loss + ((_stacked(run(index=index)) - target[index]) ** 2 / scale).mean()
                    grads = th.autograd.grad(loss, self.parameters, allow_unused=True)
                    for parameter, grad in zip(self.parameters, grads, strict=True):
                        parameter.grad = grad
                    optimizer.step()
        finally:
            for parameter in self.parameters:
                parameter.grad = None
            for parameter in frozen:
                parameter.requires_grad_(False)


def _stacked(outputs: Any) -> th.Tensor:
    """:return: every floating output side by side, one row an observation."""
    parts = [part for part in tensors_in(outputs) if part.is_floating_point() and part.dim()]
    return th.cat([part.reshape(len(part), -1) for part in parts], dim=1)
