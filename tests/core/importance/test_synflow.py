"""SynFlow in any precision and depth: the scores are those of double precision, or the refusal says why there are none."""

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.prune import plan_pruning, prune_model
from tests.zoo.networks import Calls
from tests.zoo.snapshots import same, state

DATA_FREE = {"criterion": "synflow", "compensation": "none"}


def deep(n_layers, width=64):
    th.manual_seed(0)
    layers = [nn.Linear(width, width) for _ in range(n_layers)]
    return nn.Sequential(*[each for layer in layers for each in (layer, nn.ReLU())], nn.Linear(width, 4))


@pytest.mark.parametrize("dtype", [th.float32, th.bfloat16, th.float16])
@pytest.mark.parametrize("structured", [True, False])
def test_deep_networks_of_any_precision_have_the_scores_of_double_precision(dtype, structured):
    model = deep(80).to(dtype)
    before = state(model)
    options = {**DATA_FREE, "structured": structured, "example_inputs": th.ones(2, 64, dtype=dtype)}
    plan = plan_pruning(model, None, None, 0.9, **options)
    assert same(before, state(model)) and all(parameter.dtype == dtype for parameter in model.parameters())
    options["example_inputs"] = th.ones(2, 64, dtype=th.float64)
    oracle = plan_pruning(deep(80).to(dtype).double(), None, None, 0.9, **options)
    assert all(np.allclose(plan.scores[name], oracle.scores[name], rtol=1e-9) for name in oracle.scores)
    assert max(float(np.max(score)) for score in plan.scores.values()) > th.finfo(th.float32).max


def test_what_no_precision_holds_is_refused_with_the_reason():
    model = deep(600)
    before = state(model)
    with pytest.raises(PruningError, match="larger than double precision holds"):
        prune_model(model, None, None, 0.5, structured=False, criterion="synflow", example_inputs=th.ones(1, 64))
    assert same(before, state(model))


def casting(self, x):
    hidden = th.zeros(len(x), 6)
    hidden[:, :3] += self.first(x.float() / 255.0)  # in place, in a tensor of the forward pass's own
    hidden[:, 3:] = self.second(x.to(th.float32))
    return self.head(F.relu(hidden).to(self.head.weight.dtype)) * th.ones((), dtype=th.float32)


def test_a_forward_pass_that_casts_and_writes_in_place_flows_whole():
    model = Calls(casting, first=nn.Linear(4, 3), second=nn.Linear(4, 3), head=nn.Linear(6, 2)).float()
    plan = plan_pruning(model, None, None, 0.3, structured=False, criterion="synflow", example_inputs=th.ones(2, 4))
    flows = {name: score.sum() for name, score in plan.scores.items()}
    assert min(flows.values()) > 0
    weights = {name: parameter.detach().abs().double() for name, parameter in model.named_parameters()}
    hidden = th.cat([(weights[f"{name}.weight"].sum(1) * scale + weights[f"{name}.bias"]) for name, scale in
                     (("first", 1 / 255), ("second", 1.0))])  # fmt: skip
    assert np.isclose(flows["head.weight"], float((weights["head.weight"] * hidden).sum()), rtol=1e-6)
