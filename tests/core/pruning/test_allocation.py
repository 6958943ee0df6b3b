import numpy as np
import pytest
import torch as th
from torch import nn

from rl_crop.core.errors import PruningError
from rl_crop.core.graph.groups import named_tensors
from rl_crop.core.model import Copy, Network, Subject, make_run
from rl_crop.core.prune import plan_pruning
from rl_crop.core.pruning.allocation import Budget, allocate
from rl_crop.core.pruning.planning import make_plan
from rl_crop.core.pruning.settings import Settings
from tests.zoo.networks import Calls, Residual, batches, cnn, mlp, mse, settled
from tests.zoo.oracles import count_removed, n_params

MODELS = {
    "mlp": (lambda: mlp((3, 17, 9, 12, 2)), (3,)),
    "cnn": (lambda: cnn((1, 9, 7)), (1, 5, 5)),
    "residual": (lambda: settled(Residual(9), (2, 4, 4)), (2, 4, 4)),
}
SPARSITIES = (0.1, 0.5, 0.77, 0.86)


def real_flops(model, shape):
    """Two operations a multiply-add, counted in a forward pass of one observation."""
    counts = []

    def count(module, inputs, output):
        counts.append(2 * output[0].numel() * module.weight[0].numel())

    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    handles = [module.register_forward_hook(count) for module in layers]
    model.eval()(th.zeros(1, *shape))
    for handle in handles:
        handle.remove()
    return sum(counts)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_the_share_that_is_gone_is_counted_element_by_element(name, sparsity):
    build, shape = MODELS[name]
    model = build()
    before, flops = n_params(model), real_flops(model, shape)
    plan = plan_pruning(model, mse, batches(shape, model(th.zeros(2, *shape)).shape[1]), sparsity)
    removed, prunable = count_removed(model, plan)
    assert plan.sparsity["total"] == plan.sparsity["model"] == pytest.approx(removed / prunable, abs=1e-12) and removed > 0
    assert plan.sparsity["total"] >= sparsity
    report = plan.apply()
    assert (report.n_params_before, report.n_params_after) == (before, n_params(model)) == (before, before - removed)
    assert (report.flops_before, report.flops_after) == (flops, real_flops(model, shape))
    assert report.sparsity == plan.sparsity


def next_less(plan):
    """The plan with its last removal undone: the highest-ranked unit that was removed stays."""
    removed = {
        name: max((plan.scores[name][unit] for unit in set(range(group.n_units)) - set(plan.kept_units[name])), default=-1)
        for name, group in plan.graph.groups.items()
    }
    last = max(removed, key=removed.get)
    return {name: len(kept) + (name == last) for name, kept in plan.kept_units.items()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("budget", ["params", "flops", "units"])
@pytest.mark.parametrize("scope", ["network", "layer", "global"])
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_the_target_is_met_and_passed_by_one_unit_at_most(name, budget, scope, sparsity):
    build, shape = MODELS[name]
    model = build()
    inputs = th.zeros(2, *shape)
    plan = plan_pruning(model, None, None, sparsity, criterion="magnitude", compensation="none", scope=scope, budget=budget,
                        example_inputs=inputs)  # fmt: skip
    (reached,) = plan.budget_sparsity.values()
    cost = Budget(plan.graph, dict(model.named_parameters()), budget)
    assert reached >= sparsity - 1e-12
    if scope == "layer":
        less = {group: len(kept) + 1 for group, kept in plan.kept_units.items()}
        shares = [len(kept) / plan.graph.groups[group].n_units for group, kept in plan.kept_units.items()]
        assert max(shares) - min(shares) <= max(1 / group.n_units for group in plan.graph.groups.values())
    else:
        less = next_less(plan)
    assert cost.sparsity(less) < sparsity
    if budget == "units":
        gone = sum(plan.widths_before.values()) - sum(plan.widths_after.values())
        assert scope == "layer" or name == "residual" or gone == np.ceil(sparsity * sum(plan.widths_before.values()))
    if budget == "flops" and name != "residual":
        flops = real_flops(model, shape)
        plan.apply()
        assert reached == pytest.approx(1 - real_flops(model, shape) / flops, abs=1e-12)


def test_the_lowest_scores_go_over_all_layers():
    plan = plan_pruning(mlp((3, 17, 9, 12, 2)), mse, batches(), 0.6, criterion="snip")
    kept = [plan.scores[name][unit] for name, units in plan.kept_units.items() for unit in units]
    cut = [s for name, score in plan.scores.items() for unit, s in enumerate(score) if unit not in plan.kept_units[name]]
    assert max(cut) <= min(kept)


@pytest.mark.parametrize("budget", ["params", "flops", "units"])
@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.97])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.99])
def test_a_share_of_equal_shares_is_a_floor_that_every_sparsity_allows(share, sparsity, budget):
    """The second layer's scores are all below the first's, so that it alone would pay."""
    model, data = mlp((6, 64, 48, 3)), batches((6,), 3)

    def skewed(context):
        return {group.name: np.arange(group.n_units) + 1000.0 * (group.name == "0") for group in context.groups}

    settings = {"criterion": skewed, "budget": budget, "compensation": "none"}
    even = plan_pruning(model, mse, data, sparsity, scope="layer", **settings).widths_after
    plan = plan_pruning(model, mse, data, sparsity, min_units=share, **settings)
    least = {name: max(int(share * width), 1) for name, width in even.items()}
    assert all(plan.widths_after[name] >= least[name] for name in least)
    if sparsity >= 0.9:
        assert plan.widths_after["2"] == least["2"] and plan.widths_after["0"] >= even["0"]
    assert plan.budget_sparsity["model"] >= sparsity
    if plan.widths_after["2"] > least["2"] or plan.widths_after["0"] < 64:  # with one unit more it is missed
        name = "0" if plan.widths_after["0"] < 64 else "2"
        more = {**plan.widths_after, name: plan.widths_after[name] + 1}
        gone = Budget(plan.graph, next(iter(plan.subject.networks)).parameters, budget).sparsity(more)
        assert gone < sparsity


def test_a_floor_stays_and_names_the_largest_reachable():
    model, data = mlp((3, 8, 6, 2)), batches()
    with pytest.raises(
        PruningError, match=r"sparsity 0.95 of model cannot be reached with min_units=2: .* is 0\.\d+"
    ) as error:
        plan_pruning(model, mse, data, 0.95, min_units=2)
    largest = float(str(error.value).split("reachable is ")[1].split(". Ask")[0])
    plan = plan_pruning(model, mse, data, largest, min_units=2)
    assert set(plan.widths_after.values()) == {2}
    removed, prunable = count_removed(model, plan)
    assert largest <= removed / prunable < largest + 1e-4
    with pytest.raises(PruningError):
        plan_pruning(model, mse, data, largest + 2e-4, min_units=2)
    assert plan_pruning(mlp((3, 8, 1, 2)), mse, data, 0.5, min_units=3).widths_after == {"0": 3, "2": 1}


def test_zero_removes_nothing():
    model, data = mlp(), batches()
    plan = plan_pruning(model, mse, data, 0)
    before = [parameter.clone() for parameter in model.parameters()]
    report = plan.apply()
    assert plan.keep == {} and report.sparsity["total"] == 0.0 and report.n_params_after == n_params(model)
    assert all(th.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert "parameters" in str(plan) and "parameters" in str(report)


def two_networks():
    """An actor and a critic of different scale in one model, each with a budget of its own."""
    model = Calls(None, actor=mlp((3, 10, 8, 2)), critic=mlp((3, 12, 6, 1)))
    with th.no_grad():
        model.critic[0].weight.mul_(100)
    networks = tuple(
        Network(part, frozenset(f"{part}.{name}" for name, _ in getattr(model, part).named_parameters()))
        for part in ("actor", "critic")
    )
    runs = [make_run(getattr(model, part), [th.randn(4, 3)]) for part in ("actor", "critic")]
    return model, Subject(model, networks, Copy(named_tensors(model), runs, (model,)))


def planned(sparsity, **settings):
    model, subject = two_networks()
    return model, make_plan(subject, sparsity, Settings(criterion="magnitude", compensation="none", **settings))


def test_each_network_has_a_budget_of_its_own():
    model, plan = planned(0.7)
    assert 0.7 <= plan.sparsity["actor"] < 0.8 and 0.7 <= plan.sparsity["critic"] < 0.8
    removed, prunable = count_removed(model, plan)
    assert plan.sparsity["total"] == pytest.approx(removed / prunable)
    _, plan = planned({"actor": 0.9, "critic": 0.3})
    assert plan.sparsity["actor"] >= 0.9 and 0.3 <= plan.sparsity["critic"] < 0.5
    _, plan = planned({"critic": 0.5, "actor": 0.0})
    assert plan.sparsity["actor"] == 0.0 and set(plan.keep) == {"critic.0", "critic.2"}


def test_one_ranking_over_all_networks_takes_what_is_small():
    _, plan = planned(0.5, scope="global")
    assert plan.sparsity["actor"] > plan.sparsity["total"] > plan.sparsity["critic"]
    assert plan.budget_sparsity == {"total": plan.sparsity["total"]} and plan.sparsity["total"] >= 0.5


@pytest.mark.parametrize(
    "sparsity, scope, message",
    [
        ({"value": 0.5}, "network", r"sparsity names \['value'\], but the networks with units are \['actor', 'critic'\]"),
        ({"actor": 0.5}, "global", "give one sparsity"),
        ({"actor": 1.0}, "network", "sparsity of actor is 1.0"),
        (1.0, "network", r"must be a number in \[0, 1\), such as 0.9"),
        (-0.1, "network", "must be a number"),
        (float("nan"), "network", "must be a number"),
        (True, "network", "must be a number"),
        ("0.9", "network", "must be a number"),
    ],
)
def test_sparsities_that_make_no_sense_are_refused(sparsity, scope, message):
    with pytest.raises(PruningError, match=message):
        planned(sparsity, scope=scope)


def test_numpy_numbers_are_numbers():
    assert plan_pruning(mlp(), mse, batches(), np.float32(0.5), min_units=np.int64(2)).sparsity["total"] >= 0.5


def test_allocate_equals_removing_one_unit_after_the_other():
    """The naive oracle: take the lowest-scored unit, look, repeat."""
    model = mlp((4, 7, 6, 5, 3))
    plan = plan_pruning(model, None, None, 0.0, criterion="random", compensation="none", example_inputs=th.zeros(1, 4))
    groups, budget = list(plan.graph.groups.values()), Budget(plan.graph, dict(model.named_parameters()))
    generator = np.random.default_rng(0)
    for sparsity in (0.05, 0.3, 0.62, 0.85):
        scores = {group.name: generator.random(group.n_units).round(1) for group in groups}
        widths = {group.name: group.n_units for group in groups}
        ranked = sorted(
            ((score, place, unit) for place, g in enumerate(groups) for unit, score in enumerate(scores[g.name])),
        )
        for _, place, _ in ranked:
            if budget.sparsity(widths) >= sparsity:
                break
            if widths[groups[place].name] > 1:
                widths[groups[place].name] -= 1
        kept = allocate(groups, scores, sparsity, budget.sparsity)
        assert {name: len(units) for name, units in kept.items()} == widths
        for name, units in kept.items():
            assert units.dtype == np.int64 and (np.diff(units) > 0).all()
            assert set(units) == set(np.argsort(scores[name], kind="stable")[-len(units) :])


class Blocks(nn.Module):
    """A residual stream with inner layers, as in SimBa; the first block's inner layer hardly counts."""

    def __init__(self, width=8, inner=16, n_blocks=3):
        super().__init__()
        self.stem, self.head = nn.Linear(3, width), nn.Linear(width, 2)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width))
            for _ in range(n_blocks)
        )
        with th.no_grad():
            self.blocks[0][3].weight.mul_(0.1)

    def forward(self, x):
        h = self.stem(x)
        for block in self.blocks:
            h = h + block(h)
        return self.head(h)


def test_isomorphic_layers_are_ranked_together_and_classes_lose_equal_shares():
    model = Blocks()

    def inner_layers_lose(context):
        low = {group.name: 0.0 if group.name == "blocks.0.1" else 1.0 for group in context.groups}
        return {g.name: np.arange(g.n_units) + low[g.name] * 100 + 1000 * (g.name == "stem") for g in context.groups}

    settings = {"criterion": inner_layers_lose, "compensation": "none", "budget": "units"}
    plans = {scope: plan_pruning(model, mse, batches(), 0.5, scope=scope, **settings) for scope in ("network", "isomorphic")}
    assert plans["network"].widths_after["blocks.0.1"] == 1
    assert plans["network"].widths_after["stem"] == 8
    widths = plans["isomorphic"].widths_after
    assert widths["stem"] == 4 and sum(widths.values()) == 28 and widths["blocks.0.1"] == 1
    assert plans["isomorphic"].apply().n_params_after == n_params(model)


def test_errors_count_by_what_a_unit_saves():
    """The naive oracle: of all layers' next units, the one with the least error per parameter saved goes."""
    model, data = mlp((30, 20, 12, 6, 2)), batches((30,), n=60)
    plan = plan_pruning(model, mse, data, 0.7, criterion="obs", compensation="none")
    budget = Budget(plan.graph, dict(model.named_parameters()))
    widths = {name: group.n_units for name, group in plan.graph.groups.items()}
    lowest = {name: np.sort(score) for name, score in plan.scores.items()}
    while budget.sparsity(widths) < 0.7:
        rates = {}
        for name, width in widths.items():
            if width > 1:
                saved = budget.cost(widths) - budget.cost({**widths, name: width - 1})
                assert budget.freed(name, widths) == pytest.approx(saved)
                rates[name] = lowest[name][len(lowest[name]) - width] / saved
        widths[min(rates, key=rates.get)] -= 1
    assert {name: len(units) for name, units in plan.kept_units.items()} == widths
    for name, units in plan.kept_units.items():
        assert set(units) == set(np.argsort(plan.scores[name])[-len(units) :])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("budget", ["params", "flops", "units"])
def test_errors_meet_the_target_too(name, budget):
    build, shape = MODELS[name]
    model = build()
    data = batches(shape, model(th.zeros(2, *shape)).shape[1], n=20)
    for sparsity in (0.3, 0.8):
        plan = plan_pruning(model, mse, data, sparsity, criterion="obs", budget=budget, compensation="none")
        cost = Budget(plan.graph, dict(model.named_parameters()), budget)
        widths = {group: len(kept) for group, kept in plan.kept_units.items()}
        assert cost.sparsity(widths) >= sparsity - 1e-12
        assert any(cost.sparsity({**widths, group: width + 1}) < sparsity for group, width in widths.items())


@pytest.mark.parametrize("criterion", ["magnitude", "obs"])
@pytest.mark.parametrize("scope", ["network", "layer", "isomorphic"])
@pytest.mark.parametrize("multiple", [3, 8, 16])
def test_multiples_meet_a_budget_or_it_is_refused(criterion, scope, multiple):
    model, data = mlp((6, 32, 25, 2)), batches((6,), n=30)
    settings = {"criterion": criterion, "scope": scope, "round_to": multiple}
    narrowest = 9 * multiple + 2 + multiple * (multiple + 1)
    for most in (narrowest, 400, 800):
        if most < narrowest:
            continue
        plan = plan_pruning(model, mse, data, max_params=most, **settings)
        assert plan.n_params_after <= most
        for name, width in plan.widths_after.items():
            assert width % multiple == 0 or width == plan.widths_before[name]
        if scope == "network":  # with the last units that went it would be missed
            cost = Budget(plan.graph, dict(model.named_parameters()))
            left = [min(w + multiple, plan.widths_before[name]) for name, w in plan.widths_after.items()]
            more = [{**plan.widths_after, name: w} for name, w in zip(plan.widths_after, left, strict=True)]
            fixed = plan.n_params_after - cost.cost(plan.widths_after)
            assert any(cost.cost(widths) + fixed > most for widths in more)
    with pytest.raises(PruningError, match=rf"cannot be reached with min_units=1 and round_to={multiple}"):
        plan_pruning(model, mse, data, max_params=narrowest - 1, **settings)
    with pytest.raises(PruningError, match="cannot be reached"):
        plan_pruning(model, mse, data, 0.999, **settings)
