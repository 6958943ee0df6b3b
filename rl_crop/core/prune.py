"""Pruning of any torch module: a loss and batches are all that a task gives."""

import gc
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch as th
from torch import nn
from torch.nn.parameter import UninitializedParameter

from rl_crop.core.errors import PruningError, explained
from rl_crop.core.given import check_callable, listed, listed_batches
from rl_crop.core.graph.groups import named_tensors
from rl_crop.core.inputs import given_inputs, input_of, recorded_inputs
from rl_crop.core.masking.plan import make_mask_plan
from rl_crop.core.model import Copy, Network, Subject
from rl_crop.core.pruning.original import Event, share_of_now
from rl_crop.core.pruning.plan import PruningPlan
from rl_crop.core.pruning.planning import make_plan
from rl_crop.core.pruning.report import PruningReport
from rl_crop.core.pruning.settings import Settings, Target, is_auto
from rl_crop.core.pruning.steps import apply_at_once, apply_steps, step_targets
from rl_crop.core.rng import eval_mode, turn

ModelLoss = Callable[[nn.Module, Any], th.Tensor]
NOT_CALLED = (
    "What the model is called with is not known. Give batches and a loss that calls the model itself (not only "
    "parts of it) with tensors; or give example_inputs, with compensation='none'."
)


@turn()
def plan_pruning(
    model: nn.Module,
    loss: ModelLoss | None,
    batches: Iterable[Any] | None,
    sparsity: Target | None = None,
    *,
    example_inputs: Any = None,
    batch_axis: Any = None,
    optimizers: Sequence[th.optim.Optimizer] = (),
    mirrors: Sequence[nn.Module] = (),
    of: str = "current",
    history: Sequence[Event] | None = None,
    **settings: Any,
) -> PruningPlan:
    """
    Score, rank and allocate the units (or, with ``structured=False``, the weights) of any torch module; changes nothing.

    :param model: the module.
    :param loss: ``loss(model, batch)``, a scalar tensor; ``None`` for criteria without a gradient.
    :param batches: an iterable that can be walked twice; ``None`` where neither criterion nor compensation needs data.
        Where ``loss`` is ``None``, the model is called on the batch, or on its first item if it is a tuple or list.
    :param sparsity: share of the prunable parameters to remove, in [0, 1); ``"auto"`` (the default, where no ``max_params`` or
        ``max_flops`` is given) finds the smallest widths at which the repaired network computes the same.
    :param example_inputs: inputs of the model (a tensor, or a tuple of arguments); by default those that ``loss`` passes.
    :param batch_axis: the axis of the inputs along which observations lie: a number; one, or ``None``, for each argument (a
        tuple, or a dictionary by keyword); ``"whole"`` for inputs that cannot be taken apart (a graph), which count as one
        observation; or a function of (the model's argument, or the tuple of them; positions) that returns these observations,
        and how many there are where positions is ``None``. By default it is found by trying.
    :param optimizers: whose state is cut along when the plan is applied. Masks hold through their steps; without any, before
        every call of the module.
    :param mirrors: modules of the same structure (an averaged copy, a target) cut at the same indices.
    :param of: whose share a sparsity is: ``"current"``, of the module as it is, or ``"original"``, as it was before the first
        cut in ``history``.
    :param history: reports of all earlier cuts of the module, for ``of="original"``; an empty list where there were none.
    :param settings: see :class:`~rl_crop.core.pruning.settings.Settings`.
    :return: the plan.
    :raises PruningError: the arguments, the loss or the data do not allow it; says what to do.
    """
    chosen, batches = _settings(settings), listed_batches(batches)
    sparsity = _of_now(sparsity, of, history, settings)
    with explained("Pruning could not be planned"):
        subject = module_subject(
            model, loss, batches, example_inputs=example_inputs, batch_axis=batch_axis, optimizers=optimizers, mirrors=mirrors
        )
        if not subject.has_observations and batches and chosen.compensation != "none":
            raise PruningError(NOT_CALLED)
        return (make_plan if chosen.structured else make_mask_plan)(subject, sparsity, chosen)


def module_subject(
    model: nn.Module,
    loss: ModelLoss | None,
    batches: Sequence[Any],
    *,
    example_inputs: Any = None,
    batch_axis: Any = None,
    optimizers: Sequence[th.optim.Optimizer] = (),
    mirrors: Sequence[nn.Module] = (),
) -> Subject:
    """
    What the core has to know of a module; see :func:`plan_pruning` for the arguments.

    :param batches: a list.
    :return: the subject, one network named ``"model"``.
    :raises PruningError: the module cannot be pruned, or what it is called with is not known.
    """
    check_callable("loss", loss, "a function of (model, batch), or None")
    model = _checked(model)
    mirrors = [_checked(mirror) for mirror in listed("mirrors", mirrors, nn.Module, "modules of the model's structure")]
    optimizers = listed("optimizers", optimizers, th.optim.Optimizer, "optimizers of torch")
    tensors = named_tensors(model)
    if any(not _same_structure(model, mirror) for mirror in mirrors):
        raise PruningError("A mirror must have the same parameters, by name and shape, as the model.")
    inputs = recorded_inputs(model, loss, batches, batch_axis)
    has_observations = inputs is not None
    if inputs is None:
        inputs = None if example_inputs is None else given_inputs(model, example_inputs, batch_axis)
    if inputs is None:
        raise PruningError(NOT_CALLED)
    network = Network(
        "model",
        frozenset(name for name, _ in model.named_parameters()),
        None if loss is None else lambda batch: loss(model, batch),
        batches,
    )
    copies = [Copy({name: named_tensors(m)[name] for name in tensors}, [inputs.run_of(m)], (m,)) for m in mirrors]
    return Subject(
        root=model,
        networks=(network,),
        trained=Copy(tensors, [inputs.run_of(model)], (model,)),
        mirrors=tuple(copies),
        has_observations=has_observations,
        apart=inputs.apart,
        uses=tuple(partial(_used, loss, model, batch) for batch in batches),
        optimizers=tuple(optimizers),
    )


@turn()
def prune_model(
    model: nn.Module,
    loss: ModelLoss | None,
    batches: Iterable[Any] | None,
    sparsity: Target | None = None,
    *,
    schedule: str = "one_shot",
    of: str = "current",
    history: Sequence[Event] | None = None,
    **keywords: Any,
) -> PruningReport:
    """
    Plan and apply; see :func:`plan_pruning` for the other arguments.

    :param schedule: ``"one_shot"``, or ``"iterative"``: in seven steps, scored anew at each.
    :param of: whose share a sparsity is: ``"current"`` or ``"original"``.
    :param history: reports of all earlier cuts of the module, for ``of="original"``.
    :return: the report. Model, optimizers and mirrors have been cut in place: the same ``Parameter`` objects.
    :raises PruningError: nothing was changed.
    """
    batches = listed_batches(batches)
    sparsity = _of_now(sparsity, of, history, keywords)
    if sparsity is None or is_auto(sparsity):
        return apply_at_once(plan_pruning(model, loss, batches, sparsity, **keywords), schedule)
    shares: Any = sparsity
    return apply_steps(lambda target: plan_pruning(model, loss, batches, target, **keywords), step_targets(shares, schedule))


def _of_now(sparsity: Any, of: str, history: Sequence[Event] | None, settings: dict[str, Any]) -> Any:
    if history is not None and of == "current":
        raise PruningError("history is what of='original' counts by: give of='original', or no history.")
    return share_of_now(sparsity, of, history, settings)


def _settings(keywords: dict[str, Any]) -> Settings:
    Settings.check_names(keywords)
    return Settings(**keywords)


def _used(loss: ModelLoss | None, model: nn.Module, batch: Any) -> Any:
    return loss(model, batch) if loss is not None else model(input_of(batch))


def _checked(model: Any) -> nn.Module:
    """The module itself, out of a ``torch.compile`` wrapper; refuses what cannot be cut in place."""
    model = getattr(model, "_orig_mod", model)
    if not isinstance(model, nn.Module) or isinstance(model, th.jit.ScriptModule):
        raise PruningError(f"Expected a torch.nn.Module that is not scripted, not {type(model).__name__}.")
    if any(isinstance(parameter, UninitializedParameter) for parameter in model.parameters()):
        raise PruningError("The model has layers whose sizes are not known yet: call it once on a batch first.")
    _refuse_replicated(model)
    try:
        with eval_mode(model):
            pass
    except NotImplementedError as error:
        raise PruningError(
            f"The model, or a part of it, has no evaluation mode ({error}), as what torch.export returns: prune the module "
            f"that it was exported from, and export it anew."
        ) from error
    return model


def _refuse_replicated(model: nn.Module) -> None:
    """Hooks of data parallelism go with the old gradient accumulators: ranks would drift apart without a word."""
    if not th.distributed.is_available() or not th.distributed.is_initialized():
        return
    own = {id(parameter) for parameter in model.parameters()}
    gc.collect()  # a wrapper that nobody holds any more
    for wrapper in gc.get_objects():
        if type(wrapper) in (dict, list, tuple) or not issubclass(type(wrapper), nn.parallel.DistributedDataParallel):
            continue
        if any(id(parameter) in own for parameter in wrapper.module.parameters()):
            raise PruningError(
                "The model is wrapped in DistributedDataParallel, which would no longer average its gradients: prune the "
                "module itself on every rank, with the same batches and seed, while no wrapper is alive, and wrap it anew."
            )


def _same_structure(model: nn.Module, mirror: nn.Module) -> bool:
    first, second = named_tensors(model), named_tensors(mirror)
    shapes = [{name: tensor.shape for name, tensor in tensors.items()} for tensors in (first, second)]
    return shapes[0] == shapes[1] and mirror is not model
