"""Random search (ARS): an actor without a gradient."""

from typing import Any

from rl_crop.sb3.networks import Hyperparameters, Place, PolicyNetworks, hidden_widths


def random_search(policy: Any, hyper: Hyperparameters) -> PolicyNetworks:
    """
    :param policy: an ``ARSPolicy``.
    :param hyper: not used.
    :return: its parts; there is no loss.
    """

    def act(observations: Any, actions: Any) -> Any:
        return policy.action_net(policy.extract_features(observations, policy.features_extractor))

    def net_arch() -> list[int]:
        return hidden_widths(policy.action_net, heads=1)

    def sizes() -> list[Place]:
        return [(policy, "net_arch", net_arch())]

    return PolicyNetworks(
        modules={"actor": [policy.action_net]},
        forwards=[act],
        losses={"actor": None},
        net_arch=net_arch,
        sizes=sizes,
        extractors=[policy.features_extractor],
        one_vector=True,
    )
