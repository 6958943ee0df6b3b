"""A small training run that drivers can carry a recipe through."""

import copy

import torch as th

from rl_crop.core.prune import module_subject
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
