"""What users hand to the core: what is wrong is named, and nothing is changed."""

import numpy as np
import pytest
import torch as th

from rl_crop.core.errors import PruningError
from rl_crop.core.prune import plan_pruning, prune_model
from tests.zoo.networks import batches, mlp, mse
from tests.zoo.snapshots import same, state


def failing():
    yield batches()[0]
    raise OSError("the disk is gone")


def with_nan():
    x, y = batches()[0]
    return [(x.index_fill(0, th.tensor([2]), th.nan), y)]


WRONG = {  # batches are made where they are used, in double precision
    "a tensor": ({"batches": th.zeros(8, 3)}, "batches is a tensor of shape .8, 3.*must be a list"),
    "an array": ({"batches": np.zeros((8, 3))}, "batches is an array"),
    "a mapping": ({"batches": {"x": 1}}, "batches is of type dict"),
    "a string": ({"batches": "data"}, "batches is 'data'"),
    "a number": ({"batches": 5}, "batches is 5"),
    "a loader that fails": ({"batches": failing}, "batches could not be walked through .OSError"),
    "NaN": ({"batches": with_nan}, "The loss on the scoring data is nan|batches are not finite"),
    "NaN without a loss": ({"batches": with_nan, "loss": None, "criterion": "magnitude"}, "batches are not finite"),
    "no rows": (
        {"batches": lambda: [(th.zeros(0, 3), th.zeros(0, 2))]},
        "batches hold no rows|loss on the scoring data is nan",
    ),
    "too wide": ({"batches": lambda: batches((4,))}, "The loss failed on a batch .RuntimeError"),
    "too wide without a loss": (
        {"batches": lambda: batches((4,)), "loss": None, "criterion": "magnitude"},
        "does not run on the inputs",
    ),
    "a loss that is none": ({"loss": 5}, "loss is 5"),
    "a loss that fails": ({"loss": lambda model, batch: batch["x"]}, "The loss failed on a batch"),
    "a criterion that fails": ({"criterion": lambda context: 1 / 0}, "ZeroDivisionError"),
    "mirrors": ({"mirrors": [None]}, r"mirrors\[0\] is None"),
    "one mirror": ({"mirrors": 5}, "mirrors is 5"),
    "optimizers": ({"optimizers": [None]}, r"optimizers\[0\] is None"),
    "one optimizer": ({"optimizers": "adam"}, "optimizers is 'adam'"),
    "ignore": ({"ignore": 5}, "ignore is 5"),
    "ignored modules": ({"ignore": [None]}, r"ignore\[0\] is None"),
    "no module": ({"model": None}, "Expected a torch.nn.Module"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("function", [plan_pruning, prune_model])
def test_what_is_wrong_is_named(case, function):
    wrong, message = WRONG[case]
    model = mlp()
    given = {"model": model, "loss": mse, "batches": batches(), "sparsity": 0.3} | wrong
    given["batches"] = given["batches"]() if callable(given["batches"]) else given["batches"]
    before = state(model)
    with pytest.raises(PruningError, match=message):
        function(given.pop("model"), given.pop("loss"), given.pop("batches"), given.pop("sparsity"), **given)
    assert same(before, state(model))


def test_one_optimizer_or_mirror_need_not_be_in_a_list():
    model, mirror = mlp(), mlp()
    optimizer = th.optim.Adam(model.parameters())
    prune_model(model, mse, batches(), 0.3, optimizers=optimizer, mirrors=mirror)
    assert mirror[0].out_features == model[0].out_features < 5
