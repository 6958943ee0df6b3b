"""Masks of an agent, beyond the process that made them."""

from stable_baselines3.common.base_class import BaseAlgorithm

from rl_crop.core.graph.groups import named_tensors
from rl_crop.core.masking.masks import Masks, attached_masks, release_masks, unpack
from rl_crop.sb3.adapters import unwrap
from rl_crop.sb3.subject import algorithm_optimizers, own_optimizers


def restore_masks(model: BaseAlgorithm) -> bool:
    """
    Hold the masks again that a loaded agent was saved with. (``PruningCallback`` does so when training starts.)

    The zip's weights are zero where they are masked, wherever it is loaded; without this, training would fill them again.

    :param model: the agent; its ``pruning_history`` holds the masks.
    :return: whether there are masks that were not held yet.
    :raises PruningError: they do not fit the policy.
    """
    packed = next((event["masks"] for event in getattr(model, "pruning_history", []) if "masks" in event), None)
    policy = unwrap(model.policy)
    tensors = named_tensors(policy)
    if packed is None or attached_masks(tensors):
        return False
    optimizers = [*algorithm_optimizers(model), *own_optimizers(policy)]
    masks = Masks([tensors], unpack(packed), optimizers, () if optimizers else (policy,))
    masks.apply()
    masks.attach()
    return True


def drop_masks(model: BaseAlgorithm) -> None:
    """
    Let go of an agent's masks: its weights are free to train again, from zero where they were masked.

    :param model: the agent; its ``pruning_history`` then holds no masks.
    """
    release_masks(named_tensors(unwrap(model.policy)).values())
    for event in getattr(model, "pruning_history", []):
        event.pop("masks", None)
