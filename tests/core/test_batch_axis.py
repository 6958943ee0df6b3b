"""Where the observations of a batch lie: found, named, or nowhere."""

from types import SimpleNamespace

import pytest
import torch as th
import torch.nn.functional as F  # noqa: N812
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.inputs import given_inputs, recorded_inputs
from rl_crop.core.prune import plan_pruning, prune_model
from tests.zoo.networks import Calls, batches, mlp
from tests.zoo.outcomes import widths_of_exact_cut


def two(forward, inputs=3):
    return Calls(forward, a=nn.Linear(inputs, 8), b=nn.Linear(8, 2))


def hidden(m, x):
    return th.tanh(m.a(x))


def attended(m, x, mask=0.0):
    """Steps of a sequence attend to each other; batch first."""
    h = hidden(m, x)
    return m.b(h + (x @ x.mT + mask).softmax(-1) @ h)


def by_steps(m, times, x):
    h = hidden(m, x)
    for t in times:
        h = h + t * th.tanh(h)
    return m.b(h)


def on_graph(m, x, edges):
    h = hidden(m, x)
    return m.b(th.zeros_like(h).index_add(0, edges[1], h[edges[0]]))


def on_graph_object(m, graph):
    return on_graph(m, graph.x, graph.edges)


def on_each(m, images):
    return th.stack([m.b(hidden(m, image).mean(0)) for image in images])


class Recurrent(nn.Module):
    def __init__(self, batch_first=False):
        super().__init__()
        self.a, self.r, self.b = nn.Linear(3, 8), nn.GRU(8, 5, batch_first=batch_first), nn.Linear(5, 2)

    def forward(self, x, state=None):
        return self.b(self.r(th.tanh(self.a(x)), state)[0])


N, T = 6, 5
EDGES = th.randint(7, (2, 19), generator=th.Generator().manual_seed(0))
MASK = th.triu(th.full((T, T), -1e9), 1)
X = th.randn(N, T, 3, generator=th.Generator().manual_seed(1), dtype=th.float64)
FOUND = {  # model, arguments, axis of each tensor argument (None: not taken apart), observations
    "rows": (lambda: two(lambda m, x: m.b(hidden(m, x))), (X[:, 0],), [0], N),
    "a mask beside": (lambda: two(attended), (X, MASK), [0, None], N),
    "as many sequences as steps": (lambda: two(attended), (X[:T], MASK), [0, None], T),
    "a mask for each": (lambda: two(attended), (X, MASK.expand(N, T, T)), [0, 0], N),
    "steps first": (lambda: Recurrent(), (X.transpose(0, 1),), [1], N),
    "steps first, as many": (lambda: Recurrent(), (X[:T].transpose(0, 1),), [1], T),
    "a state of the first layer": (lambda: Recurrent(), (X.transpose(0, 1), th.zeros(1, N, 5)), [1, 1], N),
    "batch first with a state": (lambda: Recurrent(True), (X, th.zeros(1, N, 5)), [0, 1], N),
    "steps of a solver first": (lambda: two(by_steps), (th.linspace(0, 1, 4), X[:, 0]), [None, 0], N),
    "as many steps of a solver": (lambda: two(by_steps), (th.linspace(0, 1, N), X[:, 0]), [None, 0], N),
    "positions": (lambda: two(lambda m, x, p: m.b(hidden(m, x) + p[:, :1])), (X, th.randn(T, 4)), [0, None], N),
    "batch last": (lambda: two(lambda m, x: m.b(hidden(m, x.T)).T), (X[:, 0].T,), [1], N),
    "a list of parts": (lambda: two(lambda m, parts: m.b(hidden(m, parts[0] + parts[1]))), ([X[:, 0], X[:, 1]],), [0, 0], N),
    "a loss": (lambda: two(lambda m, x, y: F.mse_loss(m.b(hidden(m, x)), y)), (X[:, 0], X[:, 1, :2]), [0, 0], N),
    "batch statistics": (
        lambda: Calls(
            lambda m, x: m.b(m.n(hidden(m, x))), a=nn.Linear(3, 8), n=nn.BatchNorm1d(8, track_running_stats=False),
            b=nn.Linear(8, 2),
        ),
        (X[:, 0],), [0], N,
    ),
    "a list of images": (lambda: two(on_each), (list(X),), [0], N),
    "one sequence": (lambda: Recurrent(), (X[0],), [], 1),
    "one vector": (lambda: mlp((3, 8, 2)), (X[0, 0],), [], 1),
    "one image": (lambda: two(lambda m, x: m.b(hidden(m, x).mean(0))), (X[0],), [], 1),
    "graph": (lambda: two(on_graph), (th.randn(7, 3), EDGES), [], 1),
    "graph in an object": (lambda: two(on_graph_object), (SimpleNamespace(x=th.randn(7, 3).double(), edges=EDGES),), [], 1),
    "adjacency": (
        lambda: two(lambda m, x, a: m.b(th.tanh(a @ m.a(x)))), (th.randn(7, 3), (th.rand(7, 7) > 0.5).double()), [None, 0], 7,
    ),
    "nodes pooled": (lambda: two(lambda m, x, e: on_graph(m, x, e).mean(0)), (th.randn(7, 3), EDGES), [], 1),
    "pairs": (lambda: two(lambda m, x: (lambda z: z @ z.T)(m.b(hidden(m, x)))), (X[:, 0],), [], 1),
}  # fmt: skip


@pytest.mark.parametrize("case", FOUND)
def test_the_axis_is_found(case):
    build, args, axes, n = FOUND[case]
    args = tuple(arg.double() if isinstance(arg, th.Tensor) and arg.is_floating_point() else arg for arg in args)
    inputs = given_inputs(build(), args)
    assert inputs.apart == bool(axes)
    assert [inputs.axes.get(place) for place in range(len(axes))] == axes
    if axes:
        assert all(len(rows) == n if isinstance(rows, list) else n in rows.shape for rows in inputs.rows)


@pytest.mark.parametrize("case", FOUND)
def test_inputs_of_every_kind_are_pruned_exactly(case):
    build, args, axes, n = FOUND[case]
    args = tuple(arg.double() if isinstance(arg, th.Tensor) and arg.is_floating_point() else arg for arg in args)
    run = lambda m, b: m(*b)  # noqa: E731
    widths, plan = widths_of_exact_cut(build(), None, [args], run=run, example_inputs=args) if len(args) == 1 else (
        widths_of_exact_cut(build(), lambda m, b: as_loss(m(*b)), [args], run=run)
    )  # fmt: skip
    assert widths, plan


def as_loss(out):
    return out.square().mean() if out.dim() else out


def test_floating_point_operations_are_of_one_observation():
    for case in ("rows", "steps of a solver first", "as many steps of a solver", "batch last"):
        build, args, _, _ = FOUND[case]
        args = [arg.double() for arg in args]
        plan = plan_pruning(build(), lambda m, b: m(*b).square().mean(), [args], 0.5)
        assert plan.flops_before == 2 * (3 * 8 + 8 * 2), case
    build, args, _, _ = FOUND["steps first"]
    assert plan_pruning(build(), None, [args[0]], 0.3, criterion="magnitude").flops_before == 2 * T * (
        24 + 15 * 8 + 15 * 5 + 10
    )


def test_all_batches_are_joined_along_the_axis():
    model = two(by_steps)
    found = recorded_inputs(model, lambda m, b: m(th.linspace(0, 1, 4), b).sum(), [X[:, 0], X[:3, 1]])
    assert th.equal(found.rows[0], th.cat([X[:, 0], X[:3, 1]])) and len(found.run_of(model)()) == 9
    found = recorded_inputs(Recurrent(), None, [X.transpose(0, 1)] * 2)
    assert found.rows[0].shape == (T, 2 * N, 3)
    found = given_inputs(two(on_each), (list(X),))
    assert len(found.run_of(two(on_each))(index=slice(4))) == 4 and len(found.run_of(two(on_each))(9)) == 9


def test_inputs_are_run_whole_and_as_they_were():
    def careless(m, graph):
        graph.x = hidden(m, graph.x)
        return m.b(graph.x.mean(0))

    graph = SimpleNamespace(x=th.randn(7, 3))
    inputs = given_inputs(two(careless), (graph,))
    run = inputs.run_of(two(careless))
    assert run().shape == run(2).shape == run(index=slice(3)).shape and graph.x.shape == (7, 3)
    written = given_inputs(two(lambda m, x: m.b(hidden(m, x.mul_(2)))), X[:, 0])
    first = written.run_of(two(lambda m, x: x.mul_(2)))
    assert th.equal(first(), first())


NAMED = {
    "an axis": (Recurrent, (X[:T].transpose(0, 1),), 1, [1]),
    "a negative one": (lambda: two(attended), (X,), -3, [0]),
    "one for each": (lambda: two(attended), (X[:T], MASK), (0, None), [0, None]),
    "by keyword": (lambda: two(lambda m, x, mask: attended(m, x, mask)), {"x": X[:T], "mask": MASK}, {"x": 0}, [0, None]),
    "whole": (lambda: two(attended), (X,), "whole", []),
}


@pytest.mark.parametrize("case", NAMED)
def test_the_axis_is_named(case):
    build, args, batch_axis, axes = NAMED[case]
    model = build()

    def loss(m, b):
        return (m(**b) if isinstance(b, dict) else m(*b)).square().mean()

    found = recorded_inputs(model, loss, [args], batch_axis)
    assert [found.axes.get(place) for place in range(len(axes))] == axes and found.apart == bool(axes)
    assert prune_model(model, loss, [args], 0.4, batch_axis=batch_axis).widths["a"][1] < 8


def test_a_function_takes_a_part():
    def graphs(batch, index):
        nodes, owner = batch
        if index is None:
            return int(owner.max()) + 1
        chosen = [nodes[owner == i] for i in index.tolist()]
        return th.cat(chosen), th.repeat_interleave(th.arange(len(chosen)), th.tensor([len(part) for part in chosen]))

    def pooled(m, nodes, owner):
        h = hidden(m, nodes)
        return m.b(th.zeros(int(owner.max()) + 1, h.shape[1]).index_add(0, owner, h))

    data = [(th.randn(7, 3), th.tensor([0, 0, 1, 1, 1, 2, 3]))]
    loss = lambda m, b: m(*b).square().mean()  # noqa: E731
    inputs = recorded_inputs(two(pooled), loss, data, graphs)
    assert inputs.apart and len(inputs.run_of(two(pooled))(2)) == 2 and len(inputs.run_of(two(pooled))(index=slice(1, 4))) == 3
    assert prune_model(two(pooled), loss, data, 0.4, batch_axis=graphs).widths["a"] == (8, 4)


@pytest.mark.parametrize("batch_axis", [3, (None, None), "rows", 1.5, True, (0, "x")])
def test_what_is_no_axis_is_refused(batch_axis):
    with pytest.raises(PruningError, match="batch_axis="):
        plan_pruning(two(attended), None, [X], 0.4, criterion="magnitude", batch_axis=batch_axis)


def test_a_part_that_the_model_does_not_run_on_is_refused():
    build, args, _, _ = FOUND["graph"]
    with pytest.raises(PruningError, match="part of its inputs .*'whole'"):
        plan_pruning(build(), lambda m, b: m(*b).sum(), [(args[0].double(), args[1])], 0.4, batch_axis=0)


def test_repair_and_sizes_of_what_is_run_whole():
    build, args, _, _ = FOUND["graph"]
    data = [(args[0].double(), args[1])]
    loss = lambda m, b: m(*b).square().mean()  # noqa: E731
    for compensation in ("bias", "least_squares", "distill"):
        assert prune_model(build(), loss, data, 0.4, compensation=compensation).widths["a"] == (8, 4)
    assert plan_pruning(build(), loss, data).widths_after["a"] <= 8
    assert prune_model(two(attended), lambda m, b: mse_of_first(m, b), batches((T, 3)), 0.4, compensation="distill")


def mse_of_first(m, b):
    return F.mse_loss(m(b[0])[:, 0], b[1])
