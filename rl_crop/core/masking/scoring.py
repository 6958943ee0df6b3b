"""What a criterion gives each single weight of a network."""

from collections.abc import Mapping

import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.importance.context import Criterion, ImportanceContext
from rl_crop.core.importance.criteria import resolve_criterion
from rl_crop.core.masking.masks import Keep
from rl_crop.core.model import Network, Subject


def element_scores(
    subject: Subject,
    network: Network,
    weights: Mapping[str, th.Tensor],
    criterion: str | Criterion,
    seed: int = 0,
    keep: Keep | None = None,
    initial: Mapping[str, th.Tensor] | None = None,
    dense: Mapping[str, th.Tensor] | None = None,
) -> dict[str, th.Tensor]:
    """
    Score every weight of one network; the lowest are to go first.

    :param subject: the model.
    :param network: whose objective and batches count.
    :param weights: its weights by name: gradient and Hessian are over these alone.
    :param criterion: a name in :data:`~rl_crop.core.importance.criteria.CRITERIA`, or a function of a ``ImportanceContext``.
    :param seed: of everything random.
    :param keep: what is masked already: the gradient flow is that of the masked network (names left out: nothing).
    :param initial: the weights as they were at first, for criteria that compare with them.
    :param dense: the weights without masks, for criteria that look at what is masked.
    :return: by name, a detached tensor of the weight's shape. What is masked has scores like all others.
    :raises PruningError: a score is missing, not finite or of the wrong shape.
    """
    masks = {name: th.ones_like(weight, dtype=th.bool) for name, weight in weights.items()} | {
        name: mask for name, mask in (keep or {}).items() if name in weights
    }
    context = ImportanceContext(
        groups=(),
        parameters=weights,
        loss=subject.loss_of(network),
        batches=network.batches,
        forward_on_ones=lambda: [run(ones=True) for run in subject.trained.runs],
        activations=dict,
        seed=seed,
        tensors=subject.trained.tensors,
        initial=initial,
        dense=dense,
        keep=masks,
    )
    saliency = resolve_criterion(criterion)(context)
    if not isinstance(saliency, Mapping):
        raise PruningError(f"A criterion must return a mapping from names to scores, not {type(saliency).__name__}.")
    scores = {}
    for name, weight in weights.items():
        if name not in saliency:
            raise PruningError(f"The criterion returned no score for {name!r}: structured=False ranks single weights.")
        score = th.as_tensor(saliency[name], device=weight.device).detach()
        if score.dtype in (th.bfloat16, th.float16):  # numpy knows no bfloat16
            score = score.float()
        if score.shape != weight.shape or not bool(th.isfinite(score).all()):
            raise PruningError(f"The criterion's scores of {name!r} must be finite, of shape {tuple(weight.shape)}.")
        scores[name] = score
    return scores
