"""Pruning of any torch module: a loss and batches are all that a task gives."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch as th
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.plan import PruningPlan, Settings, Target, make_plan
from rl_crop.core.report import PruningReport
from rl_crop.core.rng import eval_mode, isolated_rng
from rl_crop.core.steps import apply_steps, step_targets
from rl_crop.core.subject import Copy, Network, Subject, make_run
from rl_crop.core.units import named_tensors

MAX_OBSERVATIONS = 2048
"""Observations kept for activations and compensation; a convolution has many rows in each."""

ModelLoss = Callable[[nn.Module, Any], th.Tensor]


def plan_pruning(
    model: nn.Module,
    loss: ModelLoss | None,
    batches: Iterable[Any] | None,
    sparsity: Target,
    *,
    example_inputs: Any = None,
    optimizers: Sequence[th.optim.Optimizer] = (),
    mirrors: Sequence[nn.Module] = (),
    **settings: Any,
) -> PruningPlan:
    """
    Score, rank and allocate the units of any torch module; changes nothing.

    :param model: the module.
    :param loss: ``loss(model, batch)``, a scalar tensor; ``None`` for criteria without a gradient.
    :param batches: an iterable that can be walked twice; ``None`` where neither criterion nor compensation needs data.
        Where ``loss`` is ``None``, the model is called on the batch, or on its first item if it is a tuple or list.
    :param sparsity: share of the prunable parameters to remove, in [0, 1).
    :param example_inputs: inputs of the model (a tensor, or a tuple of arguments); by default those that ``loss`` passes.
    :param optimizers: whose state is cut along when the plan is applied.
    :param mirrors: modules of the same structure (an averaged copy, a target) cut at the same indices.
    :param settings: see :class:`~rl_crop.core.plan.Settings`.
    :return: the plan.
    :raises PruningError: the arguments, the loss or the data do not allow it; says what to do.
    """
    chosen = _settings(settings)
    batches = [] if batches is None else list(batches)
    if any(isinstance(mirror, nn.Module) and not _same_structure(model, mirror) for mirror in mirrors):
        raise PruningError("A mirror must have the same parameters, by name and shape, as the model.")
    inputs = _collect_inputs(model, loss, batches)
    has_observations = bool(inputs)
    if not inputs:
        if example_inputs is None:
            raise PruningError("The model's inputs are not known: give batches, or example_inputs.")
        inputs = list(example_inputs) if isinstance(example_inputs, tuple) else [example_inputs]
    tensors = named_tensors(model)
    network = Network(
        "model",
        frozenset(name for name, _ in model.named_parameters()),
        None if loss is None else lambda batch: loss(model, batch),
        batches,
    )
    mirrored = []
    for mirror in mirrors:
        own = named_tensors(mirror)
        mirrored.append(Copy({name: own[name] for name in tensors}, {"model": make_run(mirror, inputs)}, (mirror,)))
    subject = Subject(
        model,
        (network,),
        Copy(tensors, {"model": make_run(model, inputs)}, (model,)),
        tuple(mirrored),
        has_observations,
        optimizers=tuple(optimizers),
    )
    return make_plan(subject, sparsity, chosen)


def prune_model(
    model: nn.Module,
    loss: ModelLoss | None,
    batches: Iterable[Any] | None,
    sparsity: float,
    *,
    schedule: str = "one_shot",
    **keywords: Any,
) -> PruningReport:
    """
    Plan and apply; see :func:`plan_pruning` for the other arguments.

    :param schedule: ``"one_shot"``, or ``"iterative"``: in seven steps, scored anew at each.
    :return: the report. Model, optimizers and mirrors have been cut in place: the same ``Parameter`` objects.
    :raises PruningError: nothing was changed.
    """
    return apply_steps(lambda target: plan_pruning(model, loss, batches, target, **keywords), step_targets(sparsity, schedule))


def _settings(keywords: dict[str, Any]) -> Settings:
    unknown = sorted(set(keywords) - set(Settings.__dataclass_fields__))
    if unknown:
        raise TypeError(f"Unknown arguments {unknown}; known are {sorted(Settings.__dataclass_fields__)}.")
    if "ignore" in keywords and not isinstance(keywords["ignore"], str):
        keywords = {**keywords, "ignore": tuple(keywords["ignore"])}
    return Settings(**keywords)


def _same_structure(model: nn.Module, mirror: nn.Module) -> bool:
    first, second = named_tensors(model), named_tensors(mirror)
    return {name: tensor.shape for name, tensor in first.items()} == {name: tensor.shape for name, tensor in second.items()}


def _collect_inputs(model: nn.Module, loss: ModelLoss | None, batches: Sequence[Any]) -> list[Any]:
    """The arguments with which the model is called on the batches, joined and copied."""
    calls: list[tuple[Any, ...]] = []
    if loss is None:
        calls = [(batch[0] if isinstance(batch, (tuple, list)) else batch,) for batch in batches]
    else:
        handle = model.register_forward_pre_hook(lambda module, args: calls.append(args))
        try:
            with isolated_rng(0), eval_mode(model), th.no_grad():
                for batch in batches:
                    loss(model, batch)
        finally:
            handle.remove()
    if not calls or not all(isinstance(item, th.Tensor) for args in calls for item in args):
        return []
    shapes = [item.shape[1:] for item in calls[0]]
    alike = [args for args in calls if [item.shape[1:] for item in args] == shapes]
    return [th.cat(items)[:MAX_OBSERVATIONS].detach().clone() for items in zip(*alike, strict=True)]
