"""Q-learning (DQN, QR-DQN): the temporal-difference loss on replay samples; the Q-network is ``critic``."""

from collections.abc import Callable
from typing import Any

import torch as th
import torch.nn.functional as F  # noqa: N812

from rl_crop.sb3.batches import needs, td_target
from rl_crop.sb3.networks import Hyperparameters, Place, PolicyNetworks, hidden_widths


def q_learning(policy: Any, hyper: Hyperparameters) -> PolicyNetworks:
    """
    :param policy: a ``DQNPolicy``.
    :param hyper: of the algorithm.
    :return: its parts.
    """

    def loss(batch: Any) -> th.Tensor:
        needs(batch, "actions", "next_observations", "rewards", "dones")
        with th.no_grad():
            next_values = policy.q_net_target(batch.next_observations).max(dim=1, keepdim=True).values
            targets = td_target(batch, next_values, hyper.gamma)
        values = policy.q_net(batch.observations).gather(1, batch.actions.reshape(-1, 1).long())
        return F.smooth_l1_loss(values, targets)

    return _assemble(policy, policy.q_net, policy.q_net_target, lambda: hidden_widths(policy.q_net.q_net, heads=1), loss)


def quantile_regression(policy: Any, hyper: Hyperparameters) -> PolicyNetworks:
    """
    :param policy: a ``QRDQNPolicy``.
    :param hyper: of the algorithm.
    :return: its parts.
    """
    network, target = policy.quantile_net, policy.quantile_net_target

    def of_actions(quantiles: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Quantiles (n, quantiles, actions) of one action each, shape (n, quantiles)."""
        index = actions.reshape(-1, 1, 1).long().expand(-1, quantiles.shape[1], 1)
        return quantiles.gather(2, index).squeeze(2)

    def loss(batch: Any) -> th.Tensor:
        from sb3_contrib.common.utils import quantile_huber_loss

        needs(batch, "actions", "next_observations", "rewards", "dones")
        with th.no_grad():
            quantiles = target(batch.next_observations)
            greedy = of_actions(quantiles, quantiles.mean(dim=1).argmax(dim=1))
            targets = td_target(batch, greedy, hyper.gamma)
        found = of_actions(network(batch.observations), batch.actions)
        return quantile_huber_loss(found, targets, sum_over_quantiles=True)

    return _assemble(policy, network, target, lambda: hidden_widths(network.quantile_net, heads=1), loss)


def _assemble(
    policy: Any, network: Any, target: Any, net_arch: Callable[[], list[int]], loss: Callable[[Any], th.Tensor]
) -> PolicyNetworks:
    def sizes() -> list[Place]:
        arch = net_arch()
        return [(owner, "net_arch", arch) for owner in (policy, policy.net_args, network, target)]

    return PolicyNetworks(
        modules={"critic": [network]},
        forwards=[lambda observations, actions: network(observations)],
        losses={"critic": loss},
        net_arch=net_arch,
        sizes=sizes,
        targets=[(network, target, lambda observations, actions: target(observations))],
        extractors=[network.features_extractor, target.features_extractor],
    )
