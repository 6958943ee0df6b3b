import pytest
import torch as th
from torch import nn

from rl_crop.core import inputs
from rl_crop.core.inputs import given_inputs, recorded_inputs
from rl_crop.core.model import make_run
from tests.zoo.networks import Calls, batches, mlp, mse
from tests.zoo.snapshots import hooks


def echo(**modules):
    """A model that returns what it was called with."""
    return Calls(lambda m, *args, **kwargs: (args, kwargs), **modules)


def test_calls_of_all_batches_are_joined_and_copied():
    model, data = mlp(), batches(n=7)
    found = recorded_inputs(model, mse, data)
    x = th.cat([x for x, _ in data])
    data[0][0].zero_()
    assert th.equal(found.rows[0], x) and th.equal(found.run_of(model)(), model(x))


def test_keywords_dictionaries_and_nested_arguments():
    x, y = th.randn(5, 3), th.randn(5, 2)

    def loss(model, batch):
        model(batch["x"], {"y": batch["y"], "deep": (batch["x"], None)}, flag=True, scale=2.0)
        return 0.0

    found = recorded_inputs(echo(), loss, [{"x": x, "y": y}] * 2)
    args, kwargs = found.run_of(echo())()
    assert th.equal(args[0], th.cat([x, x])) and th.equal(args[1]["y"], th.cat([y, y]))
    assert args[1]["deep"][1] is None and kwargs == {"flag": True, "scale": 2.0}
    args, _ = found.run_of(echo())(index=th.tensor([1, 6]))
    assert th.equal(args[1]["deep"][0], x[[1, 1]])


def test_scalars_and_tensors_without_rows_are_passed_on():
    mask, temperature = th.ones(3, 3), th.tensor(0.5)
    found = recorded_inputs(echo(), lambda m, b: m(b, mask, temperature), [th.randn(5, 2), th.randn(5, 2)])
    args, _ = found.run_of(echo())(2)
    assert len(args[0]) == 2 and th.equal(args[1], mask) and args[2] == temperature


def test_only_calls_that_look_alike_are_joined():
    sequences = [th.randn(4, 6, 2), th.randn(4, 6, 2), th.randn(4, 9, 2)]
    assert recorded_inputs(echo(), lambda m, b: m(b), sequences).rows[0].shape == (8, 6, 2)

    def twice(model, batch):
        model(batch, flag=False)
        model(2 * batch, flag=True)
        model(batch, batch, flag=False)

    found = recorded_inputs(echo(), twice, [th.ones(4, 2), th.ones(3, 2)])
    assert th.equal(found.rows[0], th.ones(7, 2))


def test_no_more_observations_than_needed(monkeypatch):
    monkeypatch.setattr(inputs, "MAX_OBSERVATIONS", 10)
    found = recorded_inputs(mlp(), mse, batches(n=7, count=4))
    assert found.rows[0].shape == (10, 3)


@pytest.mark.parametrize("data", [[], [None], [3.0]])
def test_what_is_not_known_is_not_guessed(data):
    assert recorded_inputs(mlp(), None, data) is None
    assert recorded_inputs(mlp(), lambda m, b: m[0](th.ones(2, 3)).sum(), data) is None


def test_given_inputs():
    x = th.randn(4, 3)
    assert given_inputs(mlp(), x).rows[0].shape == (4, 3) and given_inputs(mlp(), "x") is None
    assert len(given_inputs(echo(), (x, x[:, :1])).rows) == 2
    (args, _) = given_inputs(echo(), {"x": x}).run_of(echo())(1)
    assert args[0]["x"].shape == (1, 3)


def test_the_model_is_as_it_was():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    generator = th.get_rng_state()
    recorded_inputs(model, lambda m, b: mse(m, b) + th.rand(1), batches())
    assert model.training and model[1].num_batches_tracked == 0 and th.equal(generator, th.get_rng_state())
    assert hooks(model) == []


def test_runs():
    run = make_run(lambda a, b, c: (a, b["k"], c), [th.arange(6).reshape(3, 2), {"k": th.arange(3)}, "constant"])
    first, second, third = run()
    assert len(first) == len(second) == 3 and third == "constant"
    assert run(2)[0].tolist() == [[0, 1], [2, 3]]
    assert run(5)[1].tolist() == [0, 1, 2, 0, 1]  # repeated where there are fewer
    assert run(index=th.tensor([2, 2]))[1].tolist() == [2, 2]
    assert run(ones=True)[0].tolist() == [[1, 1]]
