"""Things that learn, as a benchmark sees them: they make gradient steps, and a pruning of them can be planned."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch as th
import torch.nn.functional as F  # noqa: N812
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.envs import FakeImageEnv
from torch import nn

from lab.performance.options import Options
from lab.performance.timing import seconds_of
from rl_crop.core.errors import PruningError
from rl_crop.core.prune import plan_pruning
from rl_crop.core.pruning.plan import PruningPlan
from rl_crop.sb3.agent import plan_policy_pruning

N_BATCHES = 8
"""Scoring batches of an event."""
IMAGE_BATCH = 64
"""Images in a batch of the agent."""
CLASSIFIER_BATCH = 16
"""Images in a batch of the deep networks; a gradient step then takes about a second."""
INPUTS, OUTPUTS = 64, 8
"""Of the plain networks whose size grows."""


@dataclass(frozen=True)
class Learner:
    """
    :param name: for tables
    :param step: makes a number of gradient steps
    :param plan: plans a pruning, given the sparsity and :class:`~rl_crop.core.pruning.settings.Settings` as keywords
    :param device: where it is
    :param least: gradient steps come in multiples of it
    """

    name: str
    step: Callable[[int], object]
    plan: Callable[..., PruningPlan]
    device: th.device
    least: int = 1

    def block(self, steps: int, max_seconds: float) -> int:
        """
        :param steps: wanted
        :param max_seconds: what they may take
        :return: gradient steps of one block: fewer where they are long
        """
        self.step(self.least)  # warm-up
        seconds = seconds_of(lambda: self.step(self.least), self.device)
        return max(min(steps, int(max_seconds / seconds) * self.least), self.least)


def build_agent(algo: str, arch: Any, options: Options, device: th.device, **policy_kwargs: Any) -> Any:
    """
    :param algo: ``"sac"`` or ``"ppo"``
    :param arch: hidden widths, as ``net_arch``
    :param options: environment, batch size and transitions
    :param device: where its networks are
    :param policy_kwargs: further ones
    :return: an agent with data, the same one every time; SAC has made no gradient step, PPO one pass over its rollout
    """
    common: dict[str, Any] = {
        "policy_kwargs": {"net_arch": arch} | policy_kwargs, "batch_size": options.batch_size, "device": device, "seed": 0,
    }  # fmt: skip
    env = options.env_of(algo)
    if algo == "sac":
        model: Any = SAC("MlpPolicy", env, learning_starts=options.data, buffer_size=4 * options.data, **common)
    else:
        model = PPO("MlpPolicy", env, n_steps=options.data, n_epochs=1, **common)
    return model.learn(options.data)


def gradient_steps(model: Any, batch_size: int) -> Callable[[int], None]:
    """
    :param model: an agent of SAC or PPO with data
    :param batch_size: transitions in a step
    :return: a function that makes a number of the algorithm's own gradient steps
    """
    if isinstance(model, SAC):
        return lambda n: model.train(n, batch_size)
    in_epoch = steps_in_epoch(model, batch_size)

    def epochs(n: int) -> None:
        if n % in_epoch:
            raise PruningError(
                f"--steps {n}: PPO makes {in_epoch} gradient steps in a pass over its rollout; take a multiple."
            )
        kept, model.n_epochs = model.n_epochs, n // in_epoch
        try:
            model.train()
        finally:
            model.n_epochs = kept

    return epochs


def steps_in_epoch(model: Any, batch_size: int) -> int:
    """:return: gradient steps of PPO in one pass over its rollout; of SAC, which makes any number, one"""
    return 1 if isinstance(model, SAC) else -(-model.n_steps * model.n_envs // batch_size)


def agent_learner(model: Any, name: str, batch_size: int) -> Learner:
    """:return: an agent with data as a learner"""

    def plan(sparsity: float, **settings: Any) -> PruningPlan:
        return plan_policy_pruning(model, sparsity, n_batches=N_BATCHES, batch_size=batch_size, **settings)

    return Learner(name, gradient_steps(model, batch_size), plan, model.device, steps_in_epoch(model, batch_size))


def image_agent(device: th.device) -> Learner:
    """:return: PPO with NatureCNN on four stacked frames of noise"""
    env = FakeImageEnv(n_channels=4)
    model = PPO("CnnPolicy", env, n_steps=N_BATCHES * IMAGE_BATCH, batch_size=IMAGE_BATCH, n_epochs=1, device=device, seed=0)
    return agent_learner(model.learn(N_BATCHES * IMAGE_BATCH), "PPO NatureCNN", IMAGE_BATCH)


def network_learner(
    name: str, network: nn.Module, batches: Sequence[tuple[th.Tensor, th.Tensor]], compare: Callable[..., th.Tensor]
) -> Learner:
    """
    :param name: for tables
    :param network: any network, on its device
    :param batches: inputs and targets, there too
    :param compare: a scalar loss of outputs and targets
    :return: the network with Adam as a learner
    """
    optimizer = th.optim.Adam(network.parameters())

    def loss(model: nn.Module, batch: tuple[th.Tensor, th.Tensor]) -> th.Tensor:
        return compare(model(batch[0]), batch[1])

    def step(n: int) -> None:
        network.train()
        for number in range(n):
            optimizer.zero_grad()
            loss(network, batches[number % len(batches)]).backward()
            optimizer.step()

    def plan(sparsity: float, **settings: Any) -> PruningPlan:
        return plan_pruning(network, loss, batches, sparsity, optimizers=[optimizer], **settings)

    return Learner(name, step, plan, batches[0][0].device)


def image_classifier(kind: str, device: th.device, width: int = 64) -> Learner:
    """
    :param kind: ``"resnet18"`` or ``"vgg16"``
    :param device: where it is
    :param width: channels of its first stage
    :return: the network on images of noise, 32 by 32, ten classes
    """
    from lab.supervised.networks import NETWORKS

    generator = th.Generator().manual_seed(0)
    th.manual_seed(0)
    batches = [
        (th.randn(CLASSIFIER_BATCH, 3, 32, 32, generator=generator), th.randint(10, (CLASSIFIER_BATCH,), generator=generator))
        for _ in range(N_BATCHES)
    ]
    network = NETWORKS[kind]((3, 32, 32), 10, width=width).to(device)
    name = {"resnet18": "ResNet-18", "vgg16": "VGG-16"}[kind]
    return network_learner(name, network, [(x.to(device), y.to(device)) for x, y in batches], F.cross_entropy)


def plain_network(n_parameters: int, batch_size: int, device: th.device) -> tuple[Learner, int]:
    """
    :param n_parameters: about how many
    :param batch_size: observations in a batch
    :param device: where it is
    :return: a network of two equal hidden layers that learns from noise, and how many parameters it has
    """
    outer = INPUTS + OUTPUTS + 2  # columns, rows and biases that each unit brings beside the square
    width = max(round((-outer + (outer**2 + 4 * n_parameters) ** 0.5) / 2), 2)
    th.manual_seed(0)
    layers = [nn.Linear(INPUTS, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, OUTPUTS)]
    network = nn.Sequential(*layers).to(device)
    batches = [(th.randn(batch_size, INPUTS).to(device), th.randn(batch_size, OUTPUTS).to(device)) for _ in range(N_BATCHES)]
    return network_learner("plain network", network, batches, F.mse_loss), sum(p.numel() for p in network.parameters())


FURTHER: Mapping[str, Callable[[th.device], Learner]] = {
    "nature_cnn": image_agent,
    "resnet18": lambda device: image_classifier("resnet18", device),
    "vgg16": lambda device: image_classifier("vgg16", device),
}
"""Networks beside agents with hidden linear layers, by name."""
