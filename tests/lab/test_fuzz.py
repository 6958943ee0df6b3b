"""Random combinations end as they must, and what looks at them sees what is wrong."""

from collections import defaultdict
from dataclasses import asdict, replace

import pytest
import torch as th
from hypothesis import HealthCheck, Phase, given, settings

from lab import fuzz as script
from lab import fuzzing
from lab.fuzzing import Combination, NotBuilt, combinations, fuzz, run, ways
from lab.fuzzing.accounting import Account, check_slices, values_of
from lab.fuzzing.building import build
from lab.fuzzing.checks import CheckError, check_consistent, check_same, check_same_objects, moving, state
from lab.fuzzing.drawing import ACTIVATIONS, ALGORITHMS, OPTIMIZERS, WAYS, WITH_GRADIENT, WITHOUT_GRADIENT
from rl_crop import PruningError, plan_policy_pruning, prune_policy
from tests.zoo.long import all_in_long

PLAIN = Combination(
    seed=0, algorithm="PPO", policy="Mlp", observations="vector", actions="discrete", n_envs=2, normalize=False,
    own_extractor=False, share=None, net_arch={"pi": [20, 9], "vf": [13]}, activation="Tanh", optimizer="Adam", use_sde=False,
    n_critics=0, n_steps=1, lstm="", extra={}, way="prune_policy", batches="", again=False, schedule="one_shot", when="",
    sparsity=0.6, networks=None,
    settings={"criterion": "magnitude", "scope": "network", "budget": "params", "compensation": "none", "min_units": 1},
)  # fmt: skip


@pytest.fixture
def model():
    made = build(PLAIN)
    made.learn(96)
    return made


@pytest.mark.parametrize("algorithm", all_in_long(ALGORITHMS, ("PPO", "RecurrentPPO", "SAC", "DQN", "TD3")))
def test_agents_end_pruned_and_alive_or_refused_and_as_they_were(algorithm):
    counts = fuzz(2, algorithm, derandomize=True, database=None)
    assert sum(count for verdict, count in counts.items() if not verdict.startswith("not built")) >= 2


@pytest.mark.parametrize("way", WAYS)
def test_every_way_ends_pruned(way):
    batches, when = "samples" if way == "policy" else "", 0.4 if way == "callback" else ""
    assert run(replace(PLAIN, way=way, batches=batches, when=when, schedule=WAYS[way][-1], again=way != "policy")) == "pruned"


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"sparsity": 0.999}, "sparsity out of reach with min_units"),
        ({"net_arch": []}, "nothing to prune"),
        ({"net_arch": {"pi": [], "vf": [9]}, "networks": ["actor"]}, "the network named has no units"),
        ({"scope": "global", "networks": ["actor"]}, "scope='global' with a sparsity by network"),
        ({"algorithm": "ARS", "net_arch": [9], "optimizer": "default", "criterion": "snip"}, "criterion needs a gradient"),
    ],
)
def test_agents_end_refused_and_as_they_were(changes, reason):
    own = {key: changes.pop(key) for key in list(changes) if key in PLAIN.settings}
    assert run(replace(PLAIN, **changes, settings=PLAIN.settings | own)) == f"refused: {reason}"


def test_everything_is_drawn():
    seen = defaultdict(set)

    @settings(max_examples=500, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=[HealthCheck.too_slow])  # fmt: skip
    @given(combinations())
    def look(chosen):
        for name, value in asdict(chosen).items():
            seen[name].add(str(value))
        for name, value in chosen.settings.items():
            seen[name].add(value)
        if isinstance(chosen.net_arch, dict):
            seen["depth"] |= {len(side) for side in chosen.net_arch.values()}

    look()
    for name, values in {
        "algorithm": ALGORITHMS, "activation": ACTIVATIONS, "optimizer": OPTIMIZERS, "way": WAYS,
        "criterion": (*WITH_GRADIENT, *WITHOUT_GRADIENT), "scope": ("network", "layer", "global"),
        "policy": ("Mlp", "Cnn", "MultiInput"), "budget": ("params", "flops", "units"), "depth": range(5),
        "min_units": (0.5, 1, 2, 3, 4),
        "compensation": ("none", "bias", "least_squares", "distill"), "schedule": ("one_shot", "iterative", "gradual"),
        "actions": ("discrete", "multidiscrete", "multibinary", "box"), "share": ("None", "True", "False"),
        "observations": ("vector", "number", "image", "vectors", "mixed"), "lstm": ("", "both", "shared", "actor"),
        "batches": ("", "samples", "mapping", "observations"), "when": ("", "20", "0.4", "lazy", "epi"),
        "n_critics": "01234", "n_envs": "123", "n_steps": "13",
        **dict.fromkeys(("normalize", "own_extractor", "use_sde", "again"), ("False", "True")),
    }.items():  # fmt: skip
        assert seen[name] == set(values), name


def test_a_failure_is_shrunk_and_what_cannot_be_built_is_passed_over(monkeypatch, capsys):
    def fails(chosen):
        if chosen.algorithm in ("SAC", "TD3", "DDPG", "TQC", "CrossQ", "DQN", "QRDQN"):  # any forty draws meet one
            raise NotBuilt("off-policy: no")
        check_same({}, {"width": 1} if chosen.way == "callback" and chosen.n_envs > 1 else {}, "it")
        return "pruned"

    monkeypatch.setattr(fuzzing, "run", fails)
    found = []
    with pytest.raises(CheckError, match="width") as error:
        fuzz(500, tell=lambda chosen, verdict: found.append((chosen, verdict)), derandomize=True, database=None)
    report = "".join(error.value.__notes__)
    assert all(part in report for part in ("Combination(", "way='callback'", "n_envs=2", "seed=0", "extra={}"))
    assert {verdict for _, verdict in found} >= {"failed", "pruned"}
    monkeypatch.setattr(fuzzing, "run", lambda chosen: fails(replace(chosen, n_envs=1)))
    script.main(script.Args(examples=40))
    printed = capsys.readouterr().out
    assert "| pruned | 40 |" in printed and "| not built: off-policy: no | " in printed


def test_what_stable_baselines3_cannot_build_is_no_finding():
    with pytest.raises(NotBuilt, match="PPO: "):
        run(replace(PLAIN, activation="Linear"))


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
    "action, error, reason",
    [
        (lambda model: raise_error(IndexError("out of range")), IndexError, "out of range"),
        (lambda model: raise_error(PruningError("no idea")), CheckError, "unknown reason: no idea"),
        (lambda model: raise_error(OUT_OF_REACH), CheckError, "refused without need"),
        (lambda model: (spoil(model), raise_error(OUT_OF_REACH)), CheckError, "a refusal changed"),
        (
            lambda model: prune_policy(model, 0.0, **PLAIN.settings),
            CheckError,
            "sparsity 0.0000 is below 0.6",
        ),
        (
            lambda model: prune_policy(model, 0.8, **PLAIN.settings),
            CheckError,
            "by more than a unit",
        ),
        (lambda model: (th.rand(1), prune_policy(model, 0.6, seed=1))[1], CheckError, "pruning changed ['torch']"),
    ],
)
def test_failures_are_seen(action, error, reason, monkeypatch):
    monkeypatch.setattr(ways, "prune_policy", failing(action))
    with pytest.raises(Exception) as found:
        run(PLAIN)
    assert isinstance(found.value, error) and reason in str(found.value)


def test_what_is_out_of_reach_must_be_refused(monkeypatch):
    monkeypatch.setattr(ways, "prune_policy", failing(lambda model: prune_policy(model, 0.6)))
    with pytest.raises(CheckError, match="out of reach"):
        run(replace(PLAIN, sparsity=0.999))


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
