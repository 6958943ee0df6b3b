import numpy as np
import pytest
import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.finding import find_units
from rl_crop.core.graph.groups import module_of, named_tensors
from rl_crop.core.graph.looking import OUTPUT
from tests.zoo.networks import Calls, Residual, cnn, mlp


def units_of(model, *shape, **keywords):
    x = th.randn(2, *shape)
    return find_units(model, named_tensors(model), [lambda: model(x)], 2, **keywords)


def slots(group):
    return {(slot.tensor, slot.axis): slot for slot in group.slots}


def test_every_hidden_layer_of_an_mlp_is_a_group():
    graph = units_of(mlp((3, 5, 4, 2)), 3)
    assert list(graph.groups) == ["0", "2"] and [group.n_units for group in graph.groups.values()] == [5, 4]
    found = {key: slot.role for key, slot in slots(graph.groups["0"]).items()}
    assert found == {("0.weight", 0): "out", ("0.bias", 0): "along", ("2.weight", 1): "in"}
    assert all(np.array_equal(slot.index, np.arange(5)[:, None]) for slot in graph.groups["0"].slots)
    assert graph.untouched == {"4": OUTPUT}
    assert graph.applications == {"0.weight": 1, "2.weight": 1, "4.weight": 1}


def test_a_flattened_channel_owns_height_times_width_columns():
    graph = units_of(cnn((1, 3, 2)), 1, 5, 5)
    consumer = slots(graph.groups["2"])["5.weight", 1]
    assert np.array_equal(consumer.index, np.arange(18).reshape(2, 9))
    assert graph.applications["0.weight"] == 16 and graph.applications["2.weight"] == 9


def test_residual_additions_join_layers_with_their_norms():
    graph = units_of(Residual(6), 2, 4, 4)
    assert {name: group.n_units for name, group in graph.groups.items()} == {"stem": 6, "first": 6}
    joined = {tensor for tensor, _ in slots(graph.groups["stem"])}
    norms = {f"norm{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias", "running_mean", "running_var")}
    assert joined == {"stem.weight", "stem.bias", "second.weight", "first.weight", "head.weight"} | norms
    assert graph.groups["stem"].tensors("out") == ["stem.weight", "second.weight"]


def test_a_residual_on_the_raw_input_stays_whole():
    model = Calls(lambda m, x: m.b(x + m.a(x)), a=nn.Linear(3, 3), b=nn.Linear(3, 2))
    assert units_of(model, 3).groups == {} and "fixed size" in units_of(model, 3).untouched["a"]


def test_concatenation_shifts_the_columns():
    model = Calls(
        lambda m, x: m.c(th.cat([x, F.relu(m.a(x)), F.relu(m.b(x))], dim=1)),
        a=nn.Linear(3, 4), b=nn.Linear(3, 2), c=nn.Linear(9, 2),
    )  # fmt: skip
    groups = units_of(model, 3).groups
    assert slots(groups["a"])["c.weight", 1].index.ravel().tolist() == [3, 4, 5, 6]
    assert slots(groups["b"])["c.weight", 1].index.ravel().tolist() == [7, 8]


def test_grouped_and_depthwise_convolutions():
    model = nn.Sequential(
        nn.Conv2d(1, 6, 1), nn.Conv2d(6, 12, 3, groups=6), nn.ReLU(), nn.Conv2d(12, 8, 1, groups=2), nn.Conv2d(8, 2, 1)
    )
    groups = units_of(model, 1, 5, 5).groups
    # A depthwise layer with two outputs a channel, read in two groups of six: units are equal places in both groups.
    first, second = slots(groups["0"]), slots(groups["3"])
    assert first["0.weight", 0].index.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert first["1.weight", 0].index.tolist() == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    assert first["3.weight", 1].index.tolist() == [[0, 1], [2, 3], [4, 5]]
    for key in (("3.weight", 0), ("4.weight", 1)):
        assert second[key].index.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_depthwise_alone_keeps_one_unit_a_channel():
    model = nn.Sequential(nn.Conv1d(2, 4, 1), nn.Conv1d(4, 4, 3, groups=4), nn.BatchNorm1d(4), nn.Conv1d(4, 3, 1))
    (group,) = units_of(model, 2, 6).groups.values()
    assert group.n_units == 4 and group.tensors("out") == ["0.weight", "1.weight"]


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.LayerNorm, nn.RMSNorm, nn.PReLU, (3,), (1,)], ids=str)
def test_normalisations_go_with_the_units(kind):
    norm = nn.GroupNorm(*kind, 6) if isinstance(kind, tuple) else kind(6)
    (group,) = units_of(nn.Sequential(nn.Linear(3, 6), norm, nn.ReLU(), nn.Linear(6, 2)), 3).groups.values()
    assert {f"1.{name}" for name, tensor in named_tensors(norm).items() if tensor.dim()} <= set(group.tensors("along"))
    assert group.n_units == (2 if kind == (3,) else 6)


def test_a_layer_norm_over_maps_is_cut_along_channels():
    model = nn.Sequential(nn.Conv2d(1, 4, 2), nn.LayerNorm([4, 3, 3]), nn.Flatten(), nn.Linear(36, 2))
    (group,) = units_of(model, 1, 4, 4).groups.values()
    assert slots(group)["1.weight", 0].index.shape == (4, 1) and ("1.weight", 1) not in slots(group)


def test_a_norm_without_weights_over_the_units_keeps_them_whole():
    graph = units_of(nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6, elementwise_affine=False), nn.Linear(6, 2)), 3)
    assert graph.groups == {} and "normalisation without weights" in graph.untouched["0"]


def test_a_module_used_twice_ties_its_inputs_to_its_outputs():
    shared = nn.Linear(5, 5)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(5, 2))
    (group,) = units_of(model, 3).groups.values()
    assert {("0.weight", 0), ("2.weight", 0), ("2.weight", 1), ("6.weight", 1)} <= set(slots(group))


def test_tied_weights_are_one_parameter():
    model = mlp((3, 5, 5, 5, 2))
    model[4].weight = model[2].weight
    graph = units_of(model, 3)
    assert list(graph.groups) == ["0"] and ("4.bias", 0) in slots(graph.groups["0"])


def test_consumers_of_one_layer_are_all_found():
    model = Calls(lambda m, x: (m.b(m.a(x)), m.c(F.relu(m.a(x)))), a=nn.Linear(3, 4), b=nn.Linear(4, 2), c=nn.Linear(4, 1))
    assert units_of(model, 3).groups["a"].tensors("in") == ["b.weight", "c.weight"]


def test_outputs_are_never_units_even_if_something_else_reads_them():
    model = Calls(lambda m, x: (lambda h: {"hidden": h, "out": (m.b(h), None)})(m.a(x)), a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    graph = units_of(model, 3)
    assert graph.groups == {} and graph.untouched == {"a": OUTPUT, "b": OUTPUT}


def test_a_squeeze_and_excite_block_ties_the_gates_to_the_channels():
    def forward(m, x):
        h = F.relu(m.a(x))
        gates = th.sigmoid(m.up(F.relu(m.down(h.mean((2, 3))))))
        return m.b((h * gates[:, :, None, None]).amax((2, 3)))

    model = Calls(forward, a=nn.Conv2d(1, 6, 2), down=nn.Linear(6, 3), up=nn.Linear(3, 6), b=nn.Linear(6, 2))
    groups = units_of(model, 1, 4, 4).groups
    assert groups["a"].tensors("out") == ["a.weight", "up.weight"] and groups["down"].n_units == 3


def test_ignore_leaves_modules_whole_by_name_prefix_and_alias():
    for ignored, left in (("0", ["2"]), ("2", ["0"]), ("", [])):
        graph = units_of(mlp((3, 5, 4, 2)), 3, ignore=[ignored])
        assert list(graph.groups) == left
    assert units_of(mlp((3, 5, 4, 2)), 3, ignore=["0"]).untouched["0"] == "ignored on request"
    nested = nn.Sequential(mlp((3, 5, 4)), nn.Tanh(), nn.Linear(4, 2))
    assert list(units_of(nested, 3, ignore=["0.0"]).groups) == ["0.2"]
    nested.alias = nested[0][2]  # the last layer of the inner network under a second name
    x = th.randn(2, 3)
    run = [lambda: nested[2](nested[1](nested[0](x)))]
    assert list(find_units(nested, named_tensors(nested), run, 2, ignore=["alias"]).groups) == ["0.0"]


def test_ignore_names_a_module_that_does_not_exist():
    with pytest.raises(PruningError, match=r"ignore='9' is not a module of the model; its modules are \['0', .*'4'"):
        units_of(mlp(), 3, ignore=["9"])


def test_ties_join_what_no_call_joins():
    model = Calls(lambda m, x: th.cat([m.b(m.a(x)), m.d(m.c(x))], 1), **{n: nn.Linear(3, 3) for n in "abcd"})
    assert list(units_of(model, 3).groups) == ["a", "c"]
    tied = units_of(model, 3, ties=[(("a.weight", 0), ("c.weight", 0))])
    assert list(tied.groups) == ["a"] and tied.groups["a"].tensors("out") == ["a.weight", "c.weight"]


def test_a_layer_that_does_not_run_is_untouched():
    model = Calls(lambda m, x: m.b(m.a(x)), a=nn.Linear(3, 4), b=nn.Linear(4, 2), spare=nn.Linear(4, 4))
    assert "not used" in units_of(model, 3).untouched["spare"]


def test_a_chunked_layer_keeps_its_chunks_equal():
    model = Calls(lambda m, x: m.b(th.mul(*m.a(x).chunk(2, -1))), a=nn.Linear(3, 8), b=nn.Linear(4, 2))
    groups = units_of(model, 3).groups
    assert slots(groups["a"])["a.weight", 0].index.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_a_model_that_does_not_run_on_the_inputs_says_so():
    with pytest.raises(PruningError, match="does not run on the inputs"):
        units_of(mlp(), 7)


def test_names():
    assert module_of("critic.qf0.0.weight") == "critic.qf0.0" and module_of("log_std") == ""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.again = model[0]
    assert list(named_tensors(model))[:2] == ["0.weight", "0.bias"] and len(named_tensors(model)) == 7


def test_units_laid_out_as_rows_or_positions_of_a_layer_stay_whole():
    def rows(m, x):
        h = m.a(x)
        return m.b(h) + m.rows(h.unsqueeze(-1)).mean(1)

    model = Calls(rows, a=nn.Linear(3, 4), b=nn.Linear(4, 2), rows=nn.Linear(1, 2))
    assert "fixed size" in units_of(model, 3).untouched["a"]

    def positions(m, x):
        h = m.a(x)
        return m.b(h) + m.conv(h.unsqueeze(1)).mean((1, 2)).unsqueeze(1)

    model = Calls(positions, a=nn.Linear(3, 4), b=nn.Linear(4, 2), conv=nn.Conv1d(1, 3, 2))
    assert "fixed size" in units_of(model, 3).untouched["a"]
