"""What is wrong is said before anything changes; what fails for want of good data is tried again."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, EveryNTimesteps
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.sac.policies import Actor, SACPolicy

import rl_crop
from tests.zoo.agents import AGENTS, SCORING, ppo
from tests.zoo.snapshots import same, tensors, unmoved
from tests.zoo.worlds import make_env

BAD = [
    ({"sparsity": 1.0}, r"in \[0, 1\)"),
    ({"sparsity": -0.1}, r"in \[0, 1\)"),
    ({"sparsity": "0.9"}, r"in \[0, 1\)"),
    ({"sparsity": True}, r"in \[0, 1\)"),
    ({"sparsity": float("nan")}, r"in \[0, 1\)"),
    ({"sparsity": {"actor": 1.0}}, r"sparsity of actor is 1.0"),
    ({"sparsity": {"nobody": 0.5}}, "'nobody'.*actor"),
    ({"networks": ["nobody"]}, "'nobody'.*actor"),
    ({"networks": []}, "networks is empty"),
    ({"networks": ["critic"], "sparsity": {"actor": 0.5}}, "critic"),
    ({"min_units": 12, "sparsity": 0.9}, "largest reachable is 0.[1-7]"),
    ({"min_units": 0}, "min_units"),
    ({"criterion": "corp"}, "'corp'.*crop"),
    ({"criterion": ["crop"]}, "Unknown criterion"),
    ({"scope": "world"}, "'world'.*network"),
    ({"budget": "money"}, "'money'.*params"),
    ({"compensation": "hope"}, "'hope'.*least_squares"),
    ({"schedule": "slowly"}, "'slowly'.*one_shot"),
]
BAD_FOR_THE_CALLBACK = [
    *BAD,
    ({"when": "soon"}, "'soon'.*lazy"),
    ({"when": True}, "when=True"),
    ({"when": -0.1}, "when=-0.1"),
    ({"when": 1.0}, "when=1.0"),
    ({"when": float("nan")}, "when=nan"),
    ({"earliest": 0.5, "latest": 0.2}, "earliest .* is after latest"),
    ({"earliest": "start"}, "earliest='start'"),
    ({"kappa": 0}, "kappa=0 .*share"),
    ({"kappa": "slow"}, "kappa='slow'"),
    ({"kappa": 3, "when": 0.5}, "kappa=3 .*share"),
    ({"learning_rate_factor": 0}, "learning_rate_factor=0 .*positive"),
    ({"learning_rate_factor": "width"}, "learning_rate_factor='width'"),
    ({"learning_rate_factor": 2.0, "recipe": "granet"}, "learning_rate_factor .*recipe"),
    ({"schedule": "gradual", "when": 0.5, "until": 0.2}, "until=0.2 is before when"),
    ({"schedule": "gradual", "n_events": 0}, "n_events"),
    ({"n_batches": 0}, "n_batches"),
    ({"batch_size": "all"}, "batch_size"),
    ({"on_error": "ignore"}, "'ignore'.*raise"),
    ({"seed": "today"}, "seed='today'"),
    ({"seed": -1}, "seed=-1"),
]


@pytest.mark.parametrize(("keywords", "message"), BAD, ids=str)
def test_prune_policy_says_what_is_wrong(make_plain, keywords, message):
    model = make_plain()
    with unmoved(model), pytest.raises(rl_crop.PruningError, match=message):
        rl_crop.prune_policy(model, **{"sparsity": 0.5, "n_batches": 1, "batch_size": 8} | keywords)
    assert not hasattr(model, "pruning_history")


@pytest.mark.parametrize(("keywords", "message"), BAD_FOR_THE_CALLBACK, ids=str)
def test_the_callback_says_it_before_the_first_step(make_plain, keywords, message):
    model = make_plain()
    with unmoved(model), pytest.raises(rl_crop.PruningError, match=message):
        model.learn(64, callback=rl_crop.PruningCallback(**{"sparsity": 0.5} | keywords))
    assert model.num_timesteps == 0 and not hasattr(model, "pruning_history")


@pytest.mark.parametrize("wrap", [lambda c: EveryNTimesteps(10, c), lambda c: EvalCallback(make_env("CartPole-v1"), c)])
def test_inside_another_callback_it_says_that_it_would_never_cut(wrap):
    with pytest.raises(rl_crop.PruningError, match="in a list"):
        ppo().learn(64, callback=wrap(rl_crop.PruningCallback(0.5)))


class Unknown(BasePolicy):
    """A policy that no adapter describes."""

    def __init__(self, observation_space, action_space, lr_schedule, **kwargs):
        super().__init__(observation_space, action_space)
        self.net = th.nn.Sequential(th.nn.Linear(4, 8), th.nn.ReLU(), th.nn.Linear(8, 2))
        self.optimizer = th.optim.Adam(self.parameters(), lr=lr_schedule(1))

    def _predict(self, observation, deterministic=False):
        return self.net(observation).argmax(dim=1)


def test_unknown_policies_are_refused():
    model = ppo(policy=Unknown)
    before = tensors(model)
    for attempt in (
        lambda: rl_crop.prune_policy(model, 0.5),
        lambda: rl_crop.plan_policy_pruning(model.policy, 0.5, criterion="magnitude", compensation="none"),
        lambda: model.learn(20, callback=rl_crop.PruningCallback(0.5)),
    ):
        with pytest.raises(rl_crop.PruningError, match="Unknown is not supported.*ActorCriticPolicy.*DQNPolicy.*TQCPolicy"):
            attempt()
    assert same(tensors(model), before) and model.num_timesteps == 0
    with pytest.raises(rl_crop.PruningError, match="not Linear"):
        rl_crop.prune_policy(th.nn.Linear(2, 2), 0.5)


class Centred(ActorCriticPolicy):
    """A user's policy whose features are not those of its class."""

    def extract_features(self, obs, features_extractor=None):
        return super().extract_features(obs, features_extractor) - 1.0


class Gated(ActorCriticPolicy):
    """A user's policy with a layer that only its own function knows."""

    def _build(self, lr_schedule):
        self.gate = th.nn.LayerNorm(16)
        super()._build(lr_schedule)

    def predict_values(self, obs):
        latent = self.gate(self.mlp_extractor.forward_critic(self.extract_features(obs, self.vf_features_extractor)))
        return self.value_net(latent)


class ScaledActor(Actor):
    def get_action_dist_params(self, obs):
        mean, log_std, others = super().get_action_dist_params(obs)
        return 0.5 * mean, log_std, others


class Scaled(SACPolicy):
    """A user's policy with an actor of another function."""

    def make_actor(self, features_extractor=None):
        return ScaledActor(**self._update_features_extractor(self.actor_kwargs, features_extractor)).to(self.device)


@pytest.mark.parametrize(
    ("name", "policy", "what"),
    [("ppo_discrete", Centred, "actions|values"), ("ppo_discrete", Gated, "predicted values"), ("sac", Scaled, "actions")],
)
def test_policies_with_a_function_of_their_own_are_refused(name, policy, what):
    model = AGENTS[name](policy=policy)
    with unmoved(model), pytest.raises(rl_crop.PruningError, match=f"computes its ({what}) in another way"):
        rl_crop.prune_policy(model, 0.5, **SCORING)


@pytest.mark.parametrize("name", ["dqn", "ars"])
def test_networks_without_hidden_layers_are_refused(name):
    model = AGENTS[name](net_arch=[])
    with unmoved(model), pytest.raises(rl_crop.PruningError, match="no layer whose units can be removed"):
        rl_crop.prune_policy(model, 0.5, criterion="magnitude", compensation="none")
    with unmoved(model), pytest.raises(rl_crop.PruningError, match="no layer whose units can be removed"):
        model.learn(8, callback=rl_crop.PruningCallback(0.5, criterion="magnitude"))


def test_random_search_has_no_gradient():
    model = AGENTS["ars"]()
    with unmoved(model), pytest.raises(rl_crop.PruningError, match="trained without a gradient.*'span'"):
        rl_crop.prune_policy(model, 0.5, criterion="crop")


def test_random_search_in_other_processes_is_refused():
    model = AGENTS["ars"]()
    with unmoved(model), pytest.raises(rl_crop.PruningError, match="async_eval"):
        workers = SimpleNamespace(close=lambda: None)  # never asked for anything
        model.learn(8, callback=rl_crop.PruningCallback(0.5, criterion="span"), async_eval=workers)
    assert model.num_timesteps == 0


def test_hidden_layers_of_a_class_of_ones_own_are_pruned(tmp_path):
    class Own(MlpExtractor):
        pass

    model = ppo()
    model.policy.mlp_extractor.__class__ = Own
    report = rl_crop.prune_policy(model, 0.5, **SCORING)
    assert min(report.sparsity.values()) >= 0.5
    model.save(tmp_path / "own.zip")
    loaded = type(model).load(tmp_path / "own.zip")
    assert same(loaded.policy.state_dict(), model.policy.state_dict())


@pytest.mark.parametrize("name", ["ppo_images_separate", "recurrent_mixed"])
def test_what_separate_extractors_return_keeps_its_size(name):
    model = AGENTS[name]()
    plan = rl_crop.plan_policy_pruning(model, 0.5, n_batches=1, batch_size=16)
    last = [layer for layer in plan.graph.untouched if layer.endswith("linear.0")]
    assert len(last) == 2 and all("one features_dim" in plan.graph.untouched[layer] for layer in last)


class Poison(BaseCallback):
    """Makes what the next callback scores NaN until a time, and mends it before training sees it."""

    def __init__(self, until, mend=None):
        super().__init__()
        self.until, self.other, self.kept = until, mend, None

    def turn(self):
        on_policy = hasattr(self.model, "rollout_buffer")
        values = self.model.rollout_buffer.returns if on_policy else self.model.replay_buffer.rewards
        if self.other is not None:
            values[:] = self.other.kept
        else:
            self.kept = values.copy()
            if self.num_timesteps < self.until:
                values[:] = np.nan

    def _on_rollout_start(self):
        if not hasattr(self.model, "rollout_buffer"):
            self.turn()

    def _on_rollout_end(self):
        if hasattr(self.model, "rollout_buffer"):
            self.turn()

    def _on_step(self):
        return True


def learn_with_nan(model, until, **keywords):
    callback = rl_crop.PruningCallback(0.5, when=0.1, latest=300, verbose=0, **SCORING, **keywords)
    poison = Poison(until)
    with pytest.warns(UserWarning, match=r"No pruning at .* steps: batches\[\d\]\.\w+ hold NaN"):
        model.learn(640, callback=[poison, callback, Poison(until, mend=poison)])


def test_a_loss_that_is_not_finite_is_tried_again(make_plain):
    model = make_plain()
    learn_with_nan(model, until=130)
    [event] = model.pruning_history
    assert 130 <= event["timesteps"] <= 640 and event["decided_by"] == "fixed"


def test_until_latest_and_then_it_raises(make_plain):
    model = make_plain()
    with pytest.raises(rl_crop.PruningError, match="hold NaN"):
        learn_with_nan(model, until=10**6)
    assert 300 <= model.num_timesteps < 640 and model.pruning_history == []


def test_or_warns_and_trains_on_as_the_dense_agent(make_plain):
    model, dense = make_plain(), make_plain()
    model.set_random_seed(1)
    learn_with_nan(model, until=10**6, on_error="warn")
    assert model.pruning_history == []
    dense.set_random_seed(1)
    assert same(tensors(model), tensors(dense.learn(640)))


def test_no_data(tmp_path, make_plain):
    model = make_plain()
    model.save(tmp_path / "agent.zip")
    loaded = type(model).load(tmp_path / "agent.zip")
    with unmoved(loaded), pytest.raises(rl_crop.PruningError, match="no environment"):
        rl_crop.prune_policy(loaded, 0.5)
    rl_crop.prune_policy(loaded, 0.5, criterion="magnitude", compensation="none")
    assert len(loaded.pruning_history) == 1


def test_learning_that_never_starts():
    model = AGENTS["sac"](learning_starts=1000)
    with pytest.raises(rl_crop.PruningError, match="learning has not started"):
        model.learn(64, callback=rl_crop.PruningCallback(0.5, when=10, **SCORING))
    with pytest.warns(UserWarning, match="learning has not started"):
        model.learn(64, callback=rl_crop.PruningCallback(0.5, when=10, on_error="warn", **SCORING))
    assert model.pruning_history == []
