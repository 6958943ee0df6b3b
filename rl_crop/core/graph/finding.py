"""Finding the units of a network: it is run, and what its calls say of parameters is put together."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch as th

from rl_crop.core.errors import PruningError, lacks_memory
from rl_crop.core.graph.attention import known_attention
from rl_crop.core.graph.groups import DependencyGraph, build_graph, units_of_labels
from rl_crop.core.graph.looking import OUTPUT, look_further
from rl_crop.core.graph.propagation import propagate
from rl_crop.core.graph.recurrence import own_states
from rl_crop.core.graph.tracer import LabelTracer, no_grad_trace
from rl_crop.core.graph.unmet import pin_unmet
from rl_crop.core.graph.unreached import follow_siblings, possible_readers
from rl_crop.core.rng import eval_mode, isolated_rng, undisturbed

TRAINING = "meets a layer that is run in training only, which could not be repaired"


def find_units(
    model: th.nn.Module,
    tensors: Mapping[str, th.Tensor],
    forwards: Sequence[Callable[[], object]],
    batch_size: int,
    ignore: Mapping[str, str] | Iterable[str] = (),
    ties: Iterable[tuple[tuple[str, int], tuple[str, int]]] = (),
    pinned: Mapping[str, Callable[[], object]] | None = None,
    training: Sequence[Callable[[], object]] = (),
    strangers: Mapping[str, Mapping[str, th.Tensor]] | None = None,
    fixed: Mapping[str, str] | None = None,
    stored: Mapping[str, th.Tensor] | None = None,
    one_width: Mapping[str, Sequence[tuple[str, int]]] | None = None,
    further: Sequence[Callable[[], object]] = (),
    uses: Sequence[Callable[[], object]] = (),
) -> DependencyGraph:
    """
    Run the network once and find its units.

    :param model: the root module.
    :param tensors: its parameters and buffers by qualified name (targets, which only follow, left out).
    :param forwards: functions without arguments that run parts of the model on real inputs and return
        what is an output (never cut).
    :param batch_size: number of observations in those inputs.
    :param ignore: modules (by name, or a prefix of it) whose own units stay whole; a mapping gives the reasons.
    :param ties: pairs of (tensor name, axis) that hold the same units although no call joins them
        (twin critics, the rows of a state-dependent ``log_std``).
    :param pinned: by reason, further functions whose outputs keep their size.
    :param training: functions that training runs, looked at in training mode: what acts only there must keep its size too.
    :param strangers: what beside the model may read it (see :func:`~rl_crop.core.graph.unmet.pin_unmet`); ``None`` for a
        model by itself (see :mod:`~rl_crop.core.graph.unreached`).
    :param fixed: tensors that keep their shape, by name, with the reason.
    :param stored: data that the functions read and whose last axis holds units (states of a recurrent layer), by name.
    :param one_width: by reason, pairs of (tensor name, axis) whose units may differ, but not their number.
    :param further: forwards on further rows, looked at in both modes.
    :param uses: what training does with the network, such as the loss of each batch.
    :raises PruningError: an ignored module does not exist, or the model does not run.
    """
    tracer = LabelTracer(tensors, propagate)
    tracer.attention = known_attention(model)
    for name, tensor in (stored or {}).items():
        tracer.store(name, tensor)
    for name, why in (fixed or {}).items():
        tracer.freeze_tensor(tensors[name], why)
    with own_states(model, tracer.own_states):
        with isolated_rng(), undisturbed(model), no_grad_trace(tracer):
            for why, forward in (pinned or {}).items():
                tracer.freeze_all(_outputs(forward), why)
            tracer.applications.clear()  # a layer that runs for its size alone is no further application
            for forward in forwards:
                tracer.freeze_all(_outputs(forward), OUTPUT)
            counts = {name: count / batch_size for name, count in tracer.applications.items()}
            with eval_mode(model, training=True):
                for forward in training:
                    try:
                        tracer.freeze_all(_outputs(forward), OUTPUT)
                    except PruningError as error:  # it may need more than these few observations
                        if lacks_memory(error):
                            raise
            for name in tracer.applications.keys() - counts.keys():
                tracer.freeze_tensor(tensors[name], TRAINING)
        look_further(tracer, model, further, uses)
    modules = dict(model.named_modules(remove_duplicate=False))
    for ignored in ignore:
        if ignored not in modules:
            raise PruningError(
                f"ignore={ignored!r} is not a module of the model; its modules are {sorted(filter(None, modules))}."
            )
        own = {id(parameter) for parameter in modules[ignored].parameters()}
        why = ignore[ignored] if isinstance(ignore, Mapping) else "ignored on request"
        for name in tracer.producer_axis:
            if id(tensors[name]) in own:
                tracer.freeze(tracer.axes_of[name][0], why)
    if strangers is not None:
        pin_unmet(tracer, model, tensors, strangers, [*ignore, *(name for tie in ties for name, _ in tie)])
    for (first, first_axis), (second, second_axis) in ties:
        tracer.tie(tracer.axes_of[first][first_axis], tracer.axes_of[second][second_axis], "is tied to another size")
    readers = {}
    if strangers is None:
        follow_siblings(model, tracer, units_of_labels(tracer)[1])
        alone = {id(parameter) for name in ignore for parameter in modules[name].parameters()}
        alone |= {id(parameter) for parameter in model.parameters() if id(parameter) not in tracer.names}
        readers = possible_readers(model, tracer.met, alone)
    return build_graph(tracer, tensors, counts, readers, one_width or {})


def _outputs(forward: Callable[[], object]) -> object:
    try:
        return forward()
    except PruningError:
        raise
    except Exception as error:
        if lacks_memory(error):
            raise
        raise PruningError(f"The model does not run on the inputs that were given ({error}); nothing was pruned.") from error
