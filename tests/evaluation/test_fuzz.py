"""Random combinations end as they must, and what looks at them sees what is wrong."""

import json
from collections import defaultdict
from dataclasses import asdict, replace

import pytest
import torch as th

from lab import fuzz
from lab.fuzzing import Outcome, draw, run, ways
from lab.fuzzing.accounting import Account, check_slices, values_of
from lab.fuzzing.building import build
from lab.fuzzing.checks import CheckError, check_consistent, check_same, check_same_objects, moving, state
from lab.fuzzing.drawing import ACTIVATIONS, ALGORITHMS, OPTIMIZERS, WAYS, WITH_GRADIENT, WITHOUT_GRADIENT
from rl_crop import PruningError, plan_policy_pruning, prune_policy

PRUNED = (3, 10, 13, 17, 38, 42, 53, 54, 72, 87, 100, 121, 142, 145)
REFUSED = {
    69: "criterion needs a gradient",
    86: "sparsity out of reach with min_units",
    129: "the network named has no units",
}
PLAIN = next(
    chosen
    for chosen in map(draw, range(1000))
    if chosen.algorithm == "PPO" and chosen.policy == "Mlp" and chosen.observations == "vector"
)
PLAIN = replace(
    PLAIN, actions="discrete", n_envs=2, normalize=False, own_extractor=False, share=None,
    net_arch={"pi": [20, 9], "vf": [13]}, use_sde=False, activation="Tanh", optimizer="Adam",
    way="prune_policy", again=False, schedule="one_shot", sparsity=0.6, networks=None,
    settings={"criterion": "magnitude", "scope": "network", "budget": "params", "compensation": "none", "min_units": 1},
)  # fmt: skip


@pytest.fixture
def model():
    made = build(PLAIN)
    made.learn(96)
    return made


@pytest.mark.parametrize("seed", PRUNED)
def test_agents_end_pruned_and_alive(seed):
    outcome = run(seed)
    assert (outcome.verdict, outcome.reason) == ("pruned", ""), outcome.trace


@pytest.mark.parametrize("seed", REFUSED)
def test_agents_end_refused_and_as_they_were(seed):
    outcome = run(seed)
    assert (outcome.verdict, outcome.reason) == ("refused", REFUSED[seed]), outcome.trace


def test_every_algorithm_and_way_is_among_them():
    drawn = [draw(seed) for seed in PRUNED]
    assert {chosen.algorithm for chosen in drawn} == set(ALGORITHMS)
    assert {chosen.way for chosen in drawn} == set(WAYS)


def test_a_seed_draws_the_same_combination_every_time():
    assert draw(3) == draw(3) != draw(3, attempt=1) != draw(4)
    assert json.loads(json.dumps(asdict(draw(5)))) == asdict(draw(5))


def test_everything_is_drawn():
    seen = defaultdict(set)
    for chosen in map(draw, range(400)):
        for name, value in asdict(chosen).items():
            seen[name].add(str(value))
        for name, value in chosen.settings.items():
            seen[name].add(value)
        if isinstance(chosen.net_arch, dict):
            seen["depth"] |= {len(side) for side in chosen.net_arch.values()}
    for name, values in {
        "algorithm": ALGORITHMS, "activation": ACTIVATIONS, "optimizer": OPTIMIZERS, "way": WAYS,
        "criterion": (*WITH_GRADIENT, *WITHOUT_GRADIENT), "scope": ("network", "layer", "global"),
        "policy": ("Mlp", "Cnn", "MultiInput"), "budget": ("params", "flops", "units"), "depth": range(5),
        "min_units": (0.5, 1, 2, 3, 4),
        "compensation": ("none", "bias", "least_squares", "distill"), "schedule": ("one_shot", "iterative", "gradual"),
        "actions": ("discrete", "multidiscrete", "multibinary", "box"), "share": ("None", "True", "False"),
        "n_critics": "01234", "n_envs": "123",
    }.items():  # fmt: skip
        assert seen[name] == set(values), name


def failing(action):
    """In place of ``prune_policy``."""

    def prune(model, sparsity, **keywords):
        return action(model)

    return prune


def spoil(model):
    with th.no_grad():
        next(model.policy.parameters())[0] += 1e-6


def raise_error(error):
    raise error


OUT_OF_REACH = PruningError("sparsity 0.6 cannot be reached with min_units=1")


@pytest.mark.parametrize(
    "action, reason",
    [
        (lambda model: raise_error(IndexError("out of range")), "IndexError: out of range"),
        (lambda model: raise_error(PruningError("no idea")), "unknown reason: no idea"),
        (lambda model: raise_error(OUT_OF_REACH), "refused without need"),
        (lambda model: (spoil(model), raise_error(OUT_OF_REACH)), "a refusal changed"),
        (lambda model: prune_policy(model, 0.0, criterion="magnitude", compensation="none"), "sparsity 0.0000 is below 0.6"),
        (lambda model: prune_policy(model, 0.8, criterion="magnitude", compensation="none"), "by more than a unit"),
        (lambda model: (th.rand(1), prune_policy(model, 0.6, seed=1))[1], "pruning changed ['torch']"),
    ],
)
def test_failures_are_seen(action, reason, monkeypatch):
    monkeypatch.setattr("lab.fuzzing.trial.draw", lambda seed, attempt: PLAIN)
    monkeypatch.setattr(ways, "prune_policy", failing(action))
    outcome = run(0)
    assert outcome.verdict == "failed" and reason in outcome.reason and outcome.trace


def test_what_is_out_of_reach_must_be_refused(monkeypatch):
    monkeypatch.setattr("lab.fuzzing.trial.draw", lambda seed, attempt: replace(PLAIN, sparsity=0.999))
    outcome = run(0)
    assert (outcome.verdict, outcome.reason) == ("refused", "sparsity out of reach with min_units")
    monkeypatch.setattr(ways, "prune_policy", failing(lambda model: prune_policy(model, 0.6)))
    assert "out of reach" in run(0).reason


def test_reports_must_be_true(model):
    account = Account(model, PLAIN)
    report = prune_policy(model, 0.6, **PLAIN.settings)
    account.check_cut(model.policy, report.widths, report.n_params_after)
    with pytest.raises(CheckError, match="parameters"):
        account.check_cut(model.policy, report.widths, report.n_params_after + 1)
    first, (before, after) = next(iter(report.widths.items()))
    with pytest.raises(CheckError, match="shape"):
        account.check_cut(model.policy, {**report.widths, first: (before, after + 1)}, report.n_params_after)


def test_a_layer_below_its_share_is_seen(model):
    with th.no_grad():
        for layer in (model.policy.mlp_extractor.policy_net[2], model.policy.action_net):
            layer.weight.mul_(1e-3)  # the units between them would go first
    settings = PLAIN.settings | {"min_units": 0.5}
    account = Account(model, replace(PLAIN, settings=settings))
    kept = plan_policy_pruning(model, 0.6, **settings).kept_units
    second = "mlp_extractor.policy_net.2"
    assert len(kept[second]) == account.floor[second] > 1
    report = prune_policy(model, 0.6, **PLAIN.settings)
    with pytest.raises(CheckError, match="fewer than min_units=0.5"):
        account.check_cut(model.policy, report.widths, report.n_params_after)


def test_a_slice_of_another_unit_is_seen(model):
    plan = plan_policy_pruning(model, 0.6, **PLAIN.settings)
    before = values_of(plan)
    plan.apply()
    check_slices(plan, before)
    moments = model.policy.optimizer.state[model.policy.value_net.weight]
    moments["exp_avg"] = moments["exp_avg"].flip(1)
    with pytest.raises(CheckError, match="value_net.weight is not what it was"):
        check_slices(plan, before)


def test_an_optimizer_that_lost_a_parameter_is_seen(model):
    before, layer = state(model), model.policy.action_net
    check_same_objects(before, state(model))
    layer.bias = th.nn.Parameter(layer.bias.detach().clone())
    with pytest.raises(CheckError, match="action_net.bias"):
        check_same_objects(before, state(model))


def test_a_parameter_that_stands_still_is_seen(model):
    with moving(model):
        model.learn(48, reset_num_timesteps=False)
    last = model.policy.value_net.weight
    step, kept = model.policy.optimizer.step, last.detach().clone()

    def step_of_the_others():
        step()
        last.data.copy_(kept)

    model.policy.optimizer.step = step_of_the_others
    with pytest.raises(CheckError, match=r"\['value_net.weight'\] had a gradient and did not move"), moving(model):
        model.learn(48, reset_num_timesteps=False)


def test_stale_sizes_and_moments_are_seen(model):
    check_consistent(model)
    model.policy.value_net.in_features += 1
    with pytest.raises(CheckError, match="value_net states the sizes"):
        check_consistent(model)
    model.policy.value_net.in_features -= 1
    moments = model.policy.optimizer.state[model.policy.value_net.weight]
    moments["exp_avg"] = moments["exp_avg"][:, 1:]
    with pytest.raises(CheckError, match="exp_avg"):
        check_consistent(model)


def test_any_change_is_seen(model):
    before = state(model)
    check_same(before, state(model), "nothing")
    for change, name in (
        (lambda: model.policy_kwargs.update(net_arch=[1]), "policy_kwargs"),
        (lambda: model.policy.train(not model.policy.training), ".training"),
        (lambda: model.policy.optimizer.state.popitem(), "optimizer 0"),
        (lambda: spoil(model), "_parameters"),
    ):
        change()
        with pytest.raises(CheckError, match=name):
            check_same(before, state(model), "it")
        before = state(model)


def test_a_study_runs_what_is_missing(tmp_path, monkeypatch, capsys):
    calls = []
    found = (("pruned", ""), ("refused", "nothing to prune"), ("failed", "KeyError: 'x'"))

    def fake(seed):
        calls.append(seed)
        return Outcome(asdict(draw(seed)), *found[seed], {}, ["PPO: ValueError: no"], 0.1)

    monkeypatch.setattr(fuzz, "run", fake)
    args = fuzz.Args(n=3, out=tmp_path / "found.jsonl")
    fuzz.main(args)
    assert calls == [0, 1, 2] and len(args.out.read_text().splitlines()) == 3
    printed = capsys.readouterr().out
    assert "| refused | nothing to prune | 1 |" in printed and "3 x PPO: ValueError: no" in printed
    fuzz.main(args)
    assert calls == [0, 1, 2, 2]  # a failure is looked at again
    changed = args.out.read_text().replace(f'"algorithm": "{draw(0).algorithm}"', '"algorithm": "Other"', 1)
    args.out.write_text(changed)
    fuzz.main(args)
    assert calls == [0, 1, 2, 2, 0, 2]  # and a seed that draws something else by now
