"""Small networks, data and losses that many tests use."""

import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn


def mlp(sizes=(3, 5, 4, 2), activation=nn.Tanh):
    layers = []
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def cnn(channels=(1, 3, 2), size=5, outputs=2, activation=nn.Tanh):
    """Two convolutions and a linear layer after a flatten."""
    first, second, third = channels
    return nn.Sequential(
        nn.Conv2d(first, second, 2),
        activation(),
        nn.Conv2d(second, third, 2),
        activation(),
        nn.Flatten(),
        nn.Linear(third * (size - 2) ** 2, outputs),
    )


class Residual(nn.Module):
    """A stem, a residual block and a head, with BatchNorm; the stem's and the block's outputs are one group."""

    def __init__(self, channels=6, activation=F.relu):
        super().__init__()
        self.stem = nn.Conv2d(2, channels, 3, padding=1)
        self.norm0 = nn.BatchNorm2d(channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, 3)
        self.activation = activation

    def forward(self, x):
        h = self.activation(self.norm0(self.stem(x)))
        inner = self.activation(self.norm1(self.first(h)))
        h = self.activation(h + self.norm2(self.second(inner)))
        return self.head(h.mean((2, 3)))


class Calls(nn.Module):
    """Modules by name and a function of (self, *inputs): a model in one line."""

    def __init__(self, function, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


def batches(shape=(3,), outputs=2, n=12, count=3, seed=1, classes=False):
    """Pairs (inputs, targets)."""
    generator = th.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        x = th.randn(n, *shape, generator=generator)
        y = th.randint(outputs, (n,), generator=generator) if classes else th.randn(n, outputs, generator=generator)
        found.append((x, y))
    return found


def mse(model, batch):
    return F.mse_loss(model(batch[0]), batch[1])


def train(model, optimizer, data, hold=lambda: None):
    """A step on each batch by the mean squared error; ``hold`` is called after it."""
    for batch in data:
        optimizer.zero_grad()
        mse(model, batch).backward()
        optimizer.step()
        hold()


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def noisy_mse(model, batch):
    """Draws noise from the global generator, as the reparameterised actions of a policy do."""
    outputs = model(batch[0])
    return F.mse_loss(outputs * (1.0 + 0.5 * th.randn_like(outputs)), batch[1])


def settled(model, shape, n=64):
    """Give BatchNorm statistics and weights that are not the initial ones."""
    generator = th.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)):
            with th.no_grad():
                module.weight.copy_(1 + 0.3 * th.randn(module.weight.shape, generator=generator))
                module.bias.copy_(0.3 * th.randn(module.bias.shape, generator=generator))
    model.train()
    for _ in range(3):
        model(th.randn(n, *shape, generator=generator))
    return model


CASES = {
    "mlp mse": (mlp, (3,), mse, False),
    "mlp cross-entropy": (mlp, (3,), cross_entropy, True),
    "mlp noisy": (mlp, (3,), noisy_mse, False),
    "cnn mse": (cnn, (1, 5, 5), mse, False),
    "cnn cross-entropy": (cnn, (1, 5, 5), cross_entropy, True),
    "cnn noisy": (cnn, (1, 5, 5), noisy_mse, False),
}
"""Tasks: how to build the model, the shape of an observation, the loss, and whether targets are classes."""
