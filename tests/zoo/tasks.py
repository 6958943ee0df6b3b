"""A small training run that drivers can carry a recipe through."""

import copy

import torch as th

from rl_crop.core.prune import module_subject
from rl_crop.core.recipes.engine import PruningEngine
from tests.zoo.networks import mse


class SmallTask:
    """A model, fixed batches walked in turn, an optimizer; the whole run has ``steps`` steps."""

    def __init__(self, model, data, loss=mse, steps=100, optimizer=th.optim.Adam, lr=0.01):
        self.model, self.data, self.loss_function, self.steps = model, data, loss, steps
        self.optimizers = [optimizer(model.parameters(), lr=lr)]
        self.place = 0

    def loss(self, model, batch):
        return self.loss_function(model, batch)

    def batches(self, n):
        return [self.data[number % len(self.data)] for number in range(n)]

    def subject(self, batches):
        return module_subject(self.model, self.loss_function, list(batches), optimizers=self.optimizers)

    def train(self, share=1.0, after_step=None):
        self.model.train()
        count = round(share * self.steps)
        for number in range(count):
            self.optimizers[0].zero_grad()
            self.loss(self.model, self.data[self.place % len(self.data)]).backward()
            self.optimizers[0].step()
            self.place += 1
            if after_step is not None:
                after_step((number + 1) / count)

    def evaluate(self):
        self.model.eval()
        with th.no_grad():
            return -sum(self.loss(self.model, batch).item() for batch in self.data) / len(self.data)

    def snapshot(self):
        return copy.deepcopy((self.model.state_dict(), self.optimizers[0].state_dict(), self.place))

    def restore(self, state):
        weights, moments, self.place = copy.deepcopy(state)
        self.model.load_state_dict(weights)
        self.optimizers[0].load_state_dict(moments)


def watch_changes(monkeypatch):
    """A list that grows with every change of any engine: the share of its schedule that has passed, and its masks."""
    seen, update = [], PruningEngine.update

    def watched(self, now, batches, record=None):
        change = update(self, now, batches, record)
        if change is not None:
            masks = {} if self.masks is None else self.masks.keep
            seen.append((self.timetable.share(now), {name: mask.clone() for name, mask in masks.items()}))
        return change

    monkeypatch.setattr(PruningEngine, "update", watched)
    return seen
