"""Networks, sparsities, scopes, budgets, schedules and compensations of an agent."""

import pytest
import torch as th
from stable_baselines3 import SAC

import rl_crop
from tests.zoo.agents import AGENTS, SCORING, ppo, sac
from tests.zoo.long import and_long
from tests.zoo.snapshots import consistent, tensors


def value_key(model):
    return "qf" if isinstance(model, SAC) else "vf"


PREFIXES = {
    "actor": ("mlp_extractor.policy_net", "action_net", "actor."),
    "critic": ("mlp_extractor.value_net", "value_net", "critic."),
}


@pytest.mark.parametrize("network", ["actor", "critic"])
@pytest.mark.parametrize("form", ["networks", "text", "mapping", "callback"])
def test_one_network_alone(make_plain, network, form):
    model = make_plain(net_arch=[32, 32])
    if form == "callback":
        model.learn(128, callback=rl_crop.PruningCallback(0.7, networks=[network], when=64, verbose=0, **SCORING))
    else:
        model.learn(64)
        before = tensors(model)
        if form == "mapping":
            report = rl_crop.prune_policy(model, {network: 0.7}, **SCORING)
        else:
            report = rl_crop.prune_policy(model, 0.7, networks=[network] if form == "networks" else network, **SCORING)
        other = {"actor": "critic", "critic": "actor"}[network]
        assert 0.7 <= report.sparsity[network] < 0.75 and report.sparsity[other] == 0
        for name, parameter in model.policy.named_parameters():
            assert not name.startswith(PREFIXES[other]) or th.equal(parameter, before[name]), name
    key = {"actor": "pi", "critic": value_key(model)}
    assert model.policy.net_arch[key[network]] != [32, 32]
    assert model.policy.net_arch[key[{"actor": "critic", "critic": "actor"}[network]]] == [32, 32]
    consistent(model)


@pytest.mark.parametrize("sparsity", [{"actor": 0.95, "critic": 0.8}, {"actor": 0.3, "critic": 0.6}])
def test_sparsity_is_met_within_one_unit(sparsity):
    model = ppo(net_arch=[32, 32])
    report = rl_crop.prune_policy(model, sparsity, **SCORING)
    for network, key, outputs in (("actor", "pi", 2), ("critic", "vf", 1)):
        widths = model.policy.net_arch[key]
        prunable = 32 * (4 + 1) + 32 * (32 + 1) + 32 * outputs
        left = widths[0] * 5 + widths[1] * (widths[0] + 1) + widths[1] * outputs
        assert report.sparsity[network] == pytest.approx(1 - left / prunable)
        largest_unit = max(5 + widths[1] + 1, widths[0] + 2 + outputs)
        assert sparsity[network] <= report.sparsity[network] <= sparsity[network] + largest_unit / prunable
    assert report.n_params_after == sum(p.numel() for p in model.policy.parameters())


def test_scope_layer_removes_the_same_share_everywhere():
    model = sac(net_arch={"pi": [32, 16], "qf": [16, 32]})
    rl_crop.prune_policy(model, 0.6, scope="layer", **SCORING)
    for key, (first, second) in {"pi": (32, 16), "qf": (16, 32)}.items():
        now = model.policy.net_arch[key]
        assert abs(now[0] / first - now[1] / second) <= 1 / 16


def test_scope_global_has_one_budget():
    for make in (ppo, sac):
        model = make(net_arch=[32, 32]).learn(64)
        report = rl_crop.prune_policy(model, 0.6, scope="global", **SCORING)
        assert 0.6 <= report.sparsity["total"] < 0.63
        assert abs(report.sparsity["actor"] - report.sparsity["critic"]) > 0.1
        consistent(model.learn(64, reset_num_timesteps=False))


@pytest.mark.parametrize("scope", ["network", "layer", "global"])
@pytest.mark.parametrize("budget", ["params", "flops", "units"])
@pytest.mark.parametrize("schedule", and_long(["one_shot", "gradual"], ["iterative"]))
def test_budgets_are_met(budget, schedule, scope):
    options = {"budget": budget, "schedule": schedule, "scope": scope, "compensation": "none", "verbose": 0, **SCORING}
    model = ppo(net_arch=[32, 32])
    model.learn(256, callback=rl_crop.PruningCallback(0.7, when=64, until=192, n_events=3, **options))
    history, widths = model.pruning_history, model.policy.net_arch
    reached = {"actor": None, "critic": None}
    if budget == "units":
        reached = {network: 1 - sum(widths[key]) / 64 for network, key in (("actor", "pi"), ("critic", "vf"))}
        if scope == "global":
            reached = {"total": 1 - sum(sum(layer) for layer in widths.values()) / 128}
    for name, share in history[-1]["reached"].items():
        assert 0.7 <= share <= 0.7 + (0.1 if scope == "layer" else 0.05)
        assert reached.get(name) is None or share == pytest.approx(reached[name])
    if budget == "flops" and scope == "global":
        assert history[-1]["flops_after"] <= 0.31 * history[0]["flops_before"]


PAIRS = [("gradual", "none"), ("gradual", "bias"), ("gradual", "distill"), ("iterative", "distill"), ("iterative", "bias")]


@pytest.mark.parametrize(("schedule", "compensation"), PAIRS)
@pytest.mark.parametrize("name", ["ppo_sde", "sac_three_critics"])
def test_schedules_and_compensations_train_on(name, compensation, schedule, monkeypatch):
    monkeypatch.setattr("rl_crop.core.pruning.distillation.STEPS", 10)
    options = {"schedule": schedule, "compensation": compensation, "when": 64, "until": 128, "n_events": 2}
    model = AGENTS[name]().learn(160, callback=rl_crop.PruningCallback(0.7, verbose=0, **options, **SCORING))
    assert all(0.7 <= share < 0.78 for share in model.pruning_history[-1]["reached"].values())
    before = tensors(model)
    model.learn(64, reset_num_timesteps=False)
    assert all(not th.equal(tensor, before[key]) for key, tensor in tensors(model).items() if tensor.numel())
    consistent(model)


def test_no_sparsity_does_nothing(make_plain):
    model = make_plain().learn(64)
    before = tensors(model)
    report = rl_crop.prune_policy(model, 0.0, **SCORING)
    assert report.n_params_before == report.n_params_after
    assert all(th.equal(tensor, before[name]) for name, tensor in tensors(model).items())
    model.learn(
        64, reset_num_timesteps=False, callback=rl_crop.PruningCallback({"actor": 0.0}, when=0.5, verbose=0, **SCORING)
    )


def test_min_units_and_ignore(make_plain):
    model = make_plain().learn(64)
    first = "actor.latent_pi.0" if isinstance(model, SAC) else "mlp_extractor.policy_net.0"
    plan = rl_crop.plan_policy_pruning(model, 0.5, min_units=6, ignore=first, **SCORING)
    assert first not in plan.keep and min(plan.widths_after.values()) >= 6
    report = plan.apply()
    assert report.untouched[first] == "ignored on request" and model.policy.net_arch["pi"][0] == 16
    consistent(model.learn(64, reset_num_timesteps=False))


@pytest.mark.parametrize(("sparsity", "min_units", "n_events"), [(0.9, 1, 1), (0.98, 1, 3), (0.9, 0.5, 1)])
def test_the_callback_warns_once_of_layers_left_with_one_unit(make_plain, sparsity, min_units, n_events, recwarn):
    def first_layers_go(context):
        return {group.name: th.full((group.n_units,), float(".0" not in group.name)).numpy() for group in context.groups}

    schedule = {"when": 0.25, "until": 0.75, "schedule": "gradual", "n_events": n_events} if n_events > 1 else {"when": 0.5}
    settings = {"criterion": first_layers_go, "min_units": min_units, "verbose": 0, **schedule, **SCORING}
    model = make_plain(net_arch=[32, 32]).learn(256, callback=rl_crop.PruningCallback(sparsity, **settings))
    assert len(model.pruning_history) == n_events
    event = model.pruning_history[-1]
    single = {name for name, (_, after) in event["widths"].items() if after == 1}
    told = [str(warning.message) for warning in recwarn if "single unit" in str(warning.message)]
    assert (min_units == 1) == bool(single)
    assert sorted(text.split()[4] for text in told) == sorted(single)
    assert all(text.startswith(f"Cut at {event['timesteps']} steps: ") for text in told)


def test_a_criterion_of_ones_own(make_plain):
    def last_first(context):
        return {group.name: -1.0 * th.arange(group.n_units).numpy() for group in context.groups}

    model = make_plain().learn(128, callback=rl_crop.PruningCallback(0.5, criterion=last_first, when=64, verbose=0, **SCORING))
    assert model.pruning_history[0]["criterion"] == "last_first"
