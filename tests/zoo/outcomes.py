"""What may come of a cut: it equals the masked twin and all that ran before runs, or a refusal that changes nothing."""

import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.tracer import tensors_in
from rl_crop.core.prune import plan_pruning
from tests.zoo.snapshots import same, state


def outputs(model, data, run):
    """What the model computes in evaluation mode."""
    model.eval()
    with th.no_grad():
        found = [output.clone() for batch in data for output in tensors_in(run(model, batch))]
    model.train()
    return found


def masked_outputs(model, plan, data, run):
    """The same while nothing reads what is going to be removed."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    kept = {name: tensor.data for name, tensor in tensors.items()}
    for name, units in plan.kept_units.items():
        group = plan.graph.groups[name]
        removed = [unit for unit in range(group.n_units) if unit not in units]
        for slot in group.slots:
            if slot.role == "in":
                index = th.as_tensor(slot.index[removed].ravel())
                tensors[slot.tensor].data = tensors[slot.tensor].data.index_fill(slot.axis, index, 0.0)
    found = outputs(model, data, run)
    for name, tensor in tensors.items():
        tensor.data = kept[name]
    return found


def widths_of_exact_cut(model, loss, data, sparsity=0.4, run=None, tolerance=1e-9, **keywords):
    """
    Plan, cut, and compare with a twin whose readers are zero where units are removed.

    :param run: what is compared, of (model, batch): by default the model on the batch's first item.
    :return: widths by layer, and the plan; widths are ``None`` where the cut is refused, with the model as it was.
    """
    run = run or (lambda m, b: m(b[0]))
    checks = [(mode, batch) for mode in (True, False) for batch in data if loss is not None]
    ran = [works(loss, model, batch, mode) for mode, batch in checks]
    before = state(model)
    plan = None
    try:
        keywords = {"criterion": "magnitude", "compensation": "none", **keywords}
        plan = plan_pruning(model, loss, data, sparsity, **keywords)
        assert same(before, state(model))
        masked = masked_outputs(model, plan, data, run)
        plan.apply()
    except PruningError as error:
        assert same(before, state(model))
        return None, plan if plan is not None else error
    for one, other in zip(outputs(model, data, run), masked, strict=True):
        th.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    assert all(works(loss, model, batch, mode) or not dense for (mode, batch), dense in zip(checks, ran, strict=True))
    return {name: (plan.widths_before[name], plan.widths_after[name]) for name in plan.widths_after}, plan


def works(loss, model, batch, training):
    """Whether a loss runs and can be differentiated."""
    model.train(training)
    try:
        loss(model, batch).backward()
    except RuntimeError:
        return False
    finally:
        model.zero_grad(set_to_none=True)
        model.train()
    return True
