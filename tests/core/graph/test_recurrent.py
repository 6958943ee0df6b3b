"""Recurrent layers: hidden units are cut as the masked twin says, whatever reads them, or left whole with the reason."""

import copy

import pytest
import torch as th
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rl_crop.core.importance.criteria import CRITERIA
from rl_crop.core.prune import plan_pruning, prune_model
from rl_crop.core.pruning.surgery import keep_index, select
from tests.zoo.networks import Calls, batches, mse
from tests.zoo.networks import train as trained
from tests.zoo.oracles import MaskedTwin, count_removed

SEQUENCE = (4, 3)


def network(layer, read=lambda out, states: out[:, -1], width=6, run=None):
    """A linear layer, a recurrent one, and a head that reads a sequence's outputs or last states."""
    run = run or (lambda recurrent, x: recurrent(x))
    return Calls(lambda m, x: m.c(read(*run(m.b, m.a(x)))), a=nn.Linear(3, 5), b=layer, c=nn.Linear(width, 2))


def cells(kind):
    def forward(m, x):
        state = None
        for step in x.unbind(1):
            state = m.b(th.tanh(m.a(step)), state)
        return m.c(state if isinstance(state, th.Tensor) else state[0])

    return Calls(forward, a=nn.Linear(3, 5), b=kind(5, 6), c=nn.Linear(6, 2))


def time_first(recurrent, x):
    out, states = recurrent(x.transpose(0, 1))
    return out.transpose(0, 1), states


def packed(recurrent, x):
    lengths = [4, 2, 1] * (len(x) // 3) + [3] * (len(x) % 3)
    out, states = recurrent(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    return pad_packed_sequence(out, batch_first=True)[0], states


def from_features():
    """The initial state is computed, so that its units are those of the layer that computes it."""
    return Calls(
        lambda m, x: m.c(m.b(m.a(x), m.start(x[:, 0]).tanh().unsqueeze(0))[0].mean(1)),
        a=nn.Linear(3, 5), start=nn.Linear(3, 6), b=nn.GRU(5, 6, batch_first=True), c=nn.Linear(6, 2),
    )  # fmt: skip


def both_directions(out, states):
    return th.cat((states[-1], states[-2]), 1)


NETWORKS = {
    "lstm": lambda: network(nn.LSTM(5, 6, batch_first=True)),
    "gru": lambda: network(nn.GRU(5, 6, batch_first=True)),
    "rnn": lambda: network(nn.RNN(5, 6, nonlinearity="relu", batch_first=True)),
    "time first": lambda: network(nn.LSTM(5, 6), run=time_first),
    "without biases": lambda: network(nn.LSTM(5, 6, bias=False, batch_first=True)),
    "states": lambda: network(nn.LSTM(5, 6, batch_first=True), lambda out, states: states[0][-1] + states[1][0]),
    "layers": lambda: network(nn.LSTM(5, 6, num_layers=2, dropout=0.5, batch_first=True)),
    "directions": lambda: network(nn.GRU(5, 6, 2, bidirectional=True, batch_first=True), both_directions, 12),
    "projection": lambda: network(nn.LSTM(5, 6, num_layers=2, proj_size=4, batch_first=True), width=4),
    "packed": lambda: network(nn.LSTM(5, 6, num_layers=2, batch_first=True), run=packed),
    "computed state": from_features,
    "lstm cell": lambda: cells(nn.LSTMCell),
    "gru cell": lambda: cells(nn.GRUCell),
    "rnn cell": lambda: cells(nn.RNNCell),
}


def adam(model):
    return th.optim.Adam(model.parameters(), lr=1e-2)


def train(model, *how):
    trained(model.eval(), *how)  # without dropout


@pytest.mark.parametrize("name", NETWORKS)
def test_a_cut_network_trains_like_its_masked_twin(name):
    model, data = NETWORKS[name](), batches(SEQUENCE)
    optimizer = adam(model)
    train(model, optimizer, data)
    plan = plan_pruning(model, mse, data, 0.5, compensation="none", optimizers=[optimizer], scope="layer")
    twin = MaskedTwin(model, plan)
    follower = adam(twin.model)
    follower.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    removed, prunable = count_removed(model, plan)
    report = plan.apply()
    assert report.n_params_before - report.n_params_after == removed and removed >= prunable / 2
    hidden = report.widths["start" if name == "computed state" else "b"]
    assert hidden == (6, model.b.hidden_size) and model.b.hidden_size < 6
    assert model.b.input_size == report.widths["a"][1] == model.a.out_features
    for _ in range(2):
        assert max((model.eval()(x) - twin.model.eval()(x)).abs().max().item() for x, _ in data) < 1e-12
        train(model, optimizer, data)
        train(twin.model, follower, data, twin.hold)
    for (key, own), dense in zip(model.named_parameters(), twin.model.parameters(), strict=True):
        assert th.allclose(own, select(dense, keep_index(plan.graph, key, plan.kept_units)), atol=1e-12)


ALL = sorted(CRITERIA.keys() - {"relative_change"})
OTHERS = [("directions", "span_crop"), ("projection", "obs"), ("gru cell", "obs")]


@pytest.mark.parametrize(("name", "criterion"), [*(("lstm", each) for each in ALL), *OTHERS])
def test_every_criterion_ranks_hidden_units(name, criterion):
    model, data = NETWORKS[name](), batches(SEQUENCE)
    plan = plan_pruning(model, mse, data, 0.5, criterion=criterion)
    assert all(len(scores) == plan.graph.groups[layer].n_units for layer, scores in plan.scores.items())
    plan.apply()
    assert all(p.grad is None for p in model.parameters()) and mse(model, data[0]).isfinite()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_units_that_others_stand_in_for_are_found_and_made_up_for(kind):
    """Every unit of a layer of five stands there twice, with another share of what reads it."""
    model, data = network(kind(5, 10, num_layers=2, batch_first=True), width=10), batches(SEQUENCE, n=64)
    with th.no_grad():
        for name, tensor in model.b.named_parameters():
            pairs = tensor.view(-1, 2, 5, *tensor.shape[1:])
            pairs[:, 1] = pairs[:, 0]
            if name.startswith("weight_hh") or name == "weight_ih_l1":
                tensor[:, 5:] *= 0.3
    dense = copy.deepcopy(model)
    prune_model(model, mse, data, 0.5, criterion="obs", ignore=["a"])
    assert model.b.hidden_size < 7
    lost = sum((model(x) - dense(x)).square().sum().item() for x, _ in data)
    assert lost < 2e-3 * sum((dense(x) - dense(x).mean(0)).square().sum().item() for x, _ in data)


WHOLE = {
    "is given a state of a fixed size": lambda: network(nn.GRU(5, 6), run=lambda m, x: m(x, th.zeros(1, 4, 6))),
    "its outputs are the network's outputs": lambda: Calls(lambda m, x: m.b(m.a(x))[1][0], a=nn.Linear(3, 5), b=nn.GRU(5, 2)),
    "is computed": lambda: network(nn.utils.parametrizations.weight_norm(nn.LSTM(5, 6), "weight_hh_l0")),
}


@pytest.mark.parametrize("why", WHOLE)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_cut_is_left_whole(why):
    inner = WHOLE[why]()
    model = Calls(lambda m, x: (m.inner(x), m.c(th.tanh(m.d(x)))), inner=inner, c=nn.Linear(8, 2), d=nn.Linear(3, 8))
    hidden, data = inner.b.hidden_size, batches(SEQUENCE, n=4)
    report = prune_model(model, lambda m, batch: m(batch[0])[1].square().mean() + m(batch[0])[0].square().mean(), data, 0.3)
    assert inner.b.hidden_size == hidden and model.d.out_features < 8 and why in report.untouched["inner.b"]


def test_weights_that_lie_one_after_the_other_are_cut():
    """As the kernels of some devices want them."""
    model, data = NETWORKS["lstm"](), batches(SEQUENCE)
    flat, start = th.cat([p.detach().reshape(-1) for p in model.b.parameters()]), 0
    for parameter in model.b.parameters():
        parameter.data = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    assert prune_model(model, mse, data, 0.5, scope="layer").widths["b"][1] == model.b.hidden_size < 6
