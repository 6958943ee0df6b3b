import pytest
import torch as th
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.importance.curvature import gradient, hessian_gradient_product
from tests.zoo.networks import CASES, Calls, batches, mlp, mse, noisy_mse
from tests.zoo.oracles import dense_hessian


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("count", [1, 3])
def test_gradient_and_product_equal_the_dense_hessians(case, count):
    build, shape, loss, classes = CASES[case]
    model, data = build(), batches(shape, count=count, classes=classes)
    exact, hessian, split = dense_hessian(model, loss, data, seed=7)
    parameters = list(model.parameters())
    g = gradient(lambda batch: loss(model, batch), parameters, data, seed=7)
    product = hessian_gradient_product(lambda batch: loss(model, batch), parameters, data, g, seed=7)
    for found, wanted in ((g, split(exact)), (product, split(hessian @ exact))):
        for tensor, expected in zip(found, wanted.values(), strict=True):
            assert (tensor - expected).abs().max() <= 1e-10 * expected.abs().max()


def test_the_noise_of_the_loss_is_the_seeds_and_the_same_in_both_passes():
    model, data = mlp(), batches()
    parameters = list(model.parameters())
    values = []

    def loss(batch):
        values.append(noisy_mse(model, batch))
        return values[-1]

    state = th.get_rng_state()
    g = gradient(loss, parameters, data, seed=3)
    hessian_gradient_product(loss, parameters, data, g, seed=3)
    assert values[:3] == values[3:] and values[0] != values[1]
    assert not th.equal(g[0], gradient(loss, parameters, data, seed=4)[0])
    assert th.equal(state, th.get_rng_state())


def test_product_by_other_parameters_than_the_gradients():
    """Columns of the Hessian restricted to weights, rows to everything (what ``crop_gate`` needs)."""
    model, data = mlp(), batches()
    exact, hessian, _ = dense_hessian(model, mse, data)
    weights = [p for p in model.parameters() if p.dim() == 2]
    inside = th.cat([th.full((p.numel(),), float(p.dim() == 2)) for p in model.parameters()])
    g = gradient(lambda batch: mse(model, batch), weights, data)
    product = hessian_gradient_product(lambda batch: mse(model, batch), weights, data, g, wrt=list(model.parameters()))
    expected = hessian @ (inside * exact)
    assert (th.cat([p.reshape(-1) for p in product]) - expected).abs().max() < 1e-12


def test_frozen_parameters_have_no_gradient():
    model, data = mlp(), batches()
    model[0].requires_grad_(False)
    parameters = list(model.parameters())
    g = gradient(lambda batch: mse(model, batch), parameters, data)
    product = hessian_gradient_product(lambda batch: mse(model, batch), parameters, data, g)
    assert not g[0].any() and not product[0].any() and g[2].any() and product[2].any()


def test_works_where_the_caller_switched_gradients_off():
    model, data = mlp(), batches()
    parameters = list(model.parameters())
    with th.no_grad():
        g = gradient(lambda batch: mse(model, batch), parameters, data)
        product = hessian_gradient_product(lambda batch: mse(model, batch), parameters, data, g)
    assert product[0].any() and all(parameter.grad is None for parameter in parameters)


def test_attention_and_recurrent_layers_have_second_derivatives():
    model = Calls(
        lambda m, x: m.head(m.lstm(m.block(m.embed(x).unsqueeze(1)))[0][:, 0]),
        embed=nn.Linear(3, 4),
        block=nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True),
        lstm=nn.LSTM(4, 3, batch_first=True),
        head=nn.Linear(3, 2),
    ).eval()
    data, parameters = batches(), list(model.parameters())
    g = gradient(lambda batch: mse(model, batch), parameters, data)
    product = hessian_gradient_product(lambda batch: mse(model, batch), parameters, data, g)
    step = 1e-6
    with th.no_grad():
        for parameter, direction in zip(parameters, g, strict=True):
            parameter.add_(step * direction)
    moved = gradient(lambda batch: mse(model, batch), parameters, data)
    for exact, before, after in zip(product, g, moved, strict=True):
        assert ((after - before) / step - exact).abs().max() < 1e-4


LOSSES = {
    "must be a scalar tensor": lambda model, batch: model(batch[0]),
    "must be a scalar tensor, not <class 'float'>": lambda model, batch: 1.0,
    "is nan": lambda model, batch: mse(model, batch) * float("nan"),
    "without gradients": lambda model, batch: mse(model, batch).detach(),
    "does not depend on any of the parameters": lambda model, batch: batch[0].clone().requires_grad_().sum(),
}


@pytest.mark.parametrize("message", LOSSES)
def test_a_loss_that_cannot_be_used_says_why(message):
    model, data = mlp(), batches()
    parameters, loss = list(model.parameters()), lambda batch: LOSSES[message](model, batch)
    with pytest.raises(PruningError, match=message):
        g = gradient(loss, parameters, data)
        hessian_gradient_product(loss, parameters, data, g)


def test_a_gradient_that_is_not_finite_is_refused():
    model, data = mlp(), batches()
    with pytest.raises(PruningError, match="gradient .* not finite"):
        gradient(lambda batch: (mse(model, batch) * 0).sqrt(), list(model.parameters()), data)


def test_a_loss_without_curvature_has_a_zero_product():
    weight = nn.Parameter(th.randn(3))
    g = gradient(lambda batch: (weight * batch).sum(), [weight], [th.ones(3)])
    assert not hessian_gradient_product(lambda batch: (weight * batch).sum(), [weight], [th.ones(3)], g)[0].any()


def test_an_error_of_autograd_is_explained():
    model, data = mlp(), batches()
    computed_once = mse(model, data[0])  # its graph is gone after the first gradient
    with pytest.raises(PruningError, match="cannot be differentiated .*second time.*snip"):
        gradient(lambda batch: computed_once, list(model.parameters()), data)


def test_an_error_inside_the_loss_is_named():
    model = mlp()
    with pytest.raises(PruningError, match="The loss failed on a batch .KeyError: 'rewards'.; nothing was pruned") as error:
        gradient(lambda batch: batch["rewards"], list(model.parameters()), [{}])
    assert isinstance(error.value.__cause__, KeyError)
