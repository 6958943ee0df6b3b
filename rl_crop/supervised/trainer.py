"""An ordinary training loop, offered to the core's drivers as a task."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from itertools import islice
from typing import Any

import torch as th
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import named_tensors
from rl_crop.core.model import Subject
from rl_crop.core.prune import module_subject
from rl_crop.core.rng import eval_mode, isolated_rng
from rl_crop.supervised.averaging import WeightAverage, check_average
from rl_crop.supervised.batches import batches_of
from rl_crop.supervised.objectives import Objective

Batch = tuple[th.Tensor, th.Tensor]
MakeScheduler = Callable[[th.optim.Optimizer, int], LRScheduler | None]
"""Makes a schedule of the learning rate over a number of optimizer steps."""

EVALUATION_BATCH = 512


class Trainer:
    """
    Trains a model on pairs of inputs and targets; a :class:`~rl_crop.core.recipes.drivers.Task`.

    :param model: called with the inputs of a batch.
    :param objective: what is minimised and measured.
    :param optimizer: any of torch, over the model's parameters.
    :param train_set: takes a list of numbers, and returns a batch.
    :param validation_set: what :meth:`evaluate` measures on.
    :param n_epochs: passes through the training set in a whole run.
    :param batch_size: pairs in a batch.
    :param make_scheduler: makes the schedule of a run, which is stepped after every optimizer step.
    :param precision: ``float32``, or ``bfloat16`` for mixed precision; scores are computed in full precision.
    :param max_grad_norm: what the norm of the gradient is clipped to; ``None`` leaves it.
    :param average: of the weights over optimizer steps: the share of the old average in the new one, in [0, 1). The averaged
        model is what :meth:`measure` measures, and is cut and masked along; 0 measures the weights as they are.
    :param seed: of the data's order.
    :param num_workers: processes that read ahead.
    :raises PruningError: the precision is not known, the average is wrong, or there is less than one batch.

    ``seconds`` and ``cpu_seconds`` are what optimizer steps have taken so far, ``n_done`` is their number, and ``cuts`` are
    pairs (optimizer steps, parameters left), one for each time units went between two of them.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: th.optim.Optimizer,
        train_set: Dataset,
        validation_set: Dataset,
        *,
        n_epochs: int,
        batch_size: int,
        make_scheduler: MakeScheduler | None = None,
        precision: str = "float32",
        max_grad_norm: float | None = None,
        average: float = 0.0,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        if precision not in ("float32", "bfloat16"):
            raise PruningError(f"precision={precision!r} is not one of ['float32', 'bfloat16'].")
        check_average(average)
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self.average = WeightAverage(model, average) if average else None
        self.train_set, self.validation_set = train_set, validation_set
        self.make_scheduler, self.precision, self.max_grad_norm = make_scheduler, precision, max_grad_norm
        self.seed, self.batch_size = seed, batch_size
        self.order = th.Generator().manual_seed(seed)
        self.loader: DataLoader = batches_of(train_set, batch_size, self.order, num_workers)
        self.n_steps = n_epochs * len(self.loader)
        self.seconds = self.cpu_seconds = 0.0
        self.n_done = 0
        self.cuts: list[tuple[int, int]] = []
        self._left_over = 0.0  # of a step, that earlier calls of train did too little (or, below 0, too much)
        self._scoring = th.Generator().manual_seed(seed + 1)
        self._rates = [group["lr"] for group in optimizer.param_groups]

    @property
    def optimizers(self) -> Sequence[th.optim.Optimizer]:
        """The optimizer."""
        return (self.optimizer,)

    @property
    def measured(self) -> nn.Module:
        """What is measured: the averaged model where weights are averaged, else the model."""
        return self.model if self.average is None else self.average.model

    @property
    def n_params(self) -> int:
        """Parameters of the model as it is now."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def device(self) -> th.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def loss(self, model: nn.Module, batch: Batch) -> th.Tensor:
        """:return: the scalar loss of a batch."""
        inputs, targets = (part.to(self.device) for part in batch)
        return self.objective.loss(model(inputs), targets)

    def batches(self, n: int) -> list[Batch]:
        """:return: n random training batches for scores, or as many as there are; training goes on as if none were drawn."""
        with isolated_rng(self.seed):
            return list(islice(batches_of(self.train_set, self.batch_size, self._scoring), n))

    def subject(self, batches: Sequence[Any]) -> Subject:
        """:return: what the core plans and cuts."""
        mirrors = () if self.average is None else (self.average.model,)
        return module_subject(self.model, self.loss, list(batches), optimizers=self.optimizers, mirrors=mirrors)

    def train(self, share: float = 1.0, after_step: Callable[[float], None] | None = None) -> None:
        """
        Train for a share of the run's steps, under a schedule of the learning rate of its own.

        :param share: of a whole run. What rounding to whole steps leaves over goes to the next call: shares add up.
        :param after_step: called after every optimizer step with the share of this call that is done, in (0, 1].
        """
        wanted = share * self.n_steps + self._left_over
        n_steps = max(round(wanted), 0)
        self._left_over = wanted - n_steps
        if not n_steps:
            return
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
        scheduler = None if self.make_scheduler is None else self.make_scheduler(self.optimizer, n_steps)
        for done, batch in enumerate(islice(self._endless(), n_steps), start=1):
            start, cpu_start = time.perf_counter(), time.process_time()
            self._step(batch)
            if scheduler is not None:
                scheduler.step()
            self.n_done += 1
            self.seconds += time.perf_counter() - start
            self.cpu_seconds += time.process_time() - cpu_start
            if after_step is not None:
                before = self.n_params
                after_step(done / n_steps)
                if self.n_params != before:
                    self.cuts.append((self.n_done, self.n_params))

    def evaluate(self) -> float:
        """:return: the measure on the validation set; higher is better."""
        return self.measure(self.validation_set)

    def measure(self, dataset: Dataset) -> float:
        """
        :param dataset: pairs.
        :return: the objective's measure over all of them, in evaluation mode.
        """
        outputs, targets = [], []
        model = self.measured
        with th.no_grad(), eval_mode(model):
            for inputs, target in batches_of(dataset, EVALUATION_BATCH):
                with self._autocast():
                    outputs.append(model(inputs.to(self.device)).float())
                targets.append(target.to(self.device))
        return float(self.objective.metric(th.cat(outputs), th.cat(targets)))

    def snapshot(self) -> dict[str, Any]:
        """
        :return: a copy of weights (averaged ones too), buffers and optimizer state, of the data's order and of torch's global
            generator.
        """
        return {
            "tensors": [tensor.detach().clone() for tensor in self._tensors()],
            "n_averaged": 0 if self.average is None else self.average.n_updates,
            "optimizer": deepcopy(self.optimizer.state_dict()),
            "order": self.order.get_state(),
            "random": th.get_rng_state(),
            "left_over": self._left_over,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """
        Put a snapshot back; the next call of :meth:`train` then does what it would have done at that moment.

        :param state: the snapshot.
        :raises PruningError: units have been removed since; nothing was changed.
        """
        pairs = list(zip(self._tensors(), state["tensors"], strict=True))
        if any(tensor.shape != kept.shape for tensor, kept in pairs):
            raise PruningError("A snapshot from before units were removed cannot be put back.")
        with th.no_grad():
            for tensor, kept in pairs:
                tensor.copy_(kept)
        if self.average is not None:
            self.average.n_updates = state["n_averaged"]
        self.optimizer.load_state_dict(deepcopy(state["optimizer"]))
        self.order.set_state(state["order"])
        th.set_rng_state(state["random"])
        self._left_over = state["left_over"]

    def _tensors(self) -> list[th.Tensor]:
        models = [self.model] if self.average is None else [self.model, self.average.model]
        return [tensor for model in models for tensor in named_tensors(model).values()]

    def _endless(self) -> Iterable[Batch]:
        while True:
            yield from self.loader

    def _step(self, batch: Batch) -> None:
        self.model.train()
        with self._autocast():
            loss = self.loss(self.model, batch)
        self.optimizer.zero_grad()
        loss.backward()
        if self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model)

    def _autocast(self) -> AbstractContextManager:
        return nullcontext() if self.precision == "float32" else th.autocast(self.device.type, th.bfloat16)
