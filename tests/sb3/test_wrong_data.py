"""Data of the wrong kind: a PruningError that names what is wrong of which argument, and nothing has changed."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticCnnPolicy, MultiInputActorCriticPolicy

import rl_crop
from rl_crop.sb3.data import agent_batches
from tests.zoo.agents import SCORING, ppo
from tests.zoo.snapshots import unmoved

NAN, INF = float("nan"), float("inf")


def own_batch(model):
    return vars(agent_batches(model, 1, 16, 0)[0])


def broken(field, change):
    """A batch of the agent's own, of which one field is wrong."""
    return lambda model: [own_batch(model) | {field: change(own_batch(model)[field])}]


def holed(value):
    def change(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[3] = value
        return tensor

    return change


def failing(model):
    yield own_batch(model)
    raise OSError("the disk is gone")


def wide(n):
    return lambda model: [th.zeros(8, own_batch(model)["observations"].shape[1] + n)]


WRONG = {
    "a tensor": (lambda model: th.zeros(8, 3), "batches is a tensor of shape .*must be a list"),
    "an array": (lambda model: np.zeros((8, 3)), "batches is an array of shape .*must be a list"),
    "one batch": (own_batch, "batches is of type dict.*must be a list"),
    "one samples": (lambda model: agent_batches(model, 1, 16, 0)[0], "batches is of type Samples.*must be a list"),
    "a number": (lambda model: 5, "batches is 5.*must be a list"),
    "a string": (lambda model: "rollout.npz", "batches is 'rollout.npz'.*must be a list"),
    "a loader that fails": (failing, "batches could not be walked through .OSError: the disk is gone"),
    "NaN observations": (broken("observations", holed(NAN)), r"batches\[0\].observations hold NaN"),
    "infinite observations": (broken("observations", holed(INF)), r"batches\[0\].observations hold NaN or infinity"),
    "NaN advantages": (broken("advantages", holed(NAN)), r"batches\[0\].advantages hold NaN"),
    "NaN returns": (broken("returns", holed(NAN)), r"batches\[0\].returns hold NaN"),
    "NaN actions": (broken("actions", holed(NAN)), r"batches\[0\].actions hold NaN"),
    "too wide": (wide(1), r"batches\[0\].observations is a tensor of shape .*one row an observation"),
    "too narrow": (wide(-1), r"batches\[0\].observations is a tensor of shape .*one row an observation"),
    "one observation": (lambda model: [th.zeros(own_batch(model)["observations"].shape[1])], "one row an observation"),
    "a scalar": (lambda model: [th.zeros(())], "one row an observation"),
    "no rows": (lambda model: [own_batch(model)["observations"][:0]], r"batches\[0\].observations hold no rows"),
    "the second is wrong": (lambda model: [own_batch(model), th.zeros(8, 1)], r"batches\[1\].observations"),
    "no observations": (lambda model: [{"x": th.zeros(8, 3)}], r"batches\[0\].observations is a mapping .*'x'"),
    "fewer actions": (broken("actions", lambda a: a[:-1]), r"batches\[0\].actions is a tensor .*16 observations"),
    "more returns": (broken("returns", lambda r: th.cat([r, r])), r"batches\[0\].returns .*16 observations"),
    "text": (lambda model: [{"observations": ["left", "right"]}], r"batches\[0\] cannot be used"),
    "None": (lambda model: [None], "A batch must be samples"),
    "a list": (lambda model: [[1.0, 2.0, 3.0]], "A batch must be samples"),
}


@pytest.fixture(scope="module")
def model():
    return ppo().learn(64)


@pytest.mark.parametrize("case", WRONG)
def test_wrong_batches_are_named(model, case):
    make, message = WRONG[case]
    for function in (rl_crop.plan_policy_pruning, rl_crop.prune_policy):
        given = make(model)
        with unmoved(model), pytest.raises(rl_crop.PruningError, match=message):
            function(model, 0.3, batches=given)


WRONG_ARGUMENTS = [
    ({"mirrors": [None]}, r"mirrors\[0\] is None"),
    ({"mirrors": 5}, r"mirrors\[0\] is 5"),
    ({"optimizers": 5}, r"optimizers\[0\] is 5"),
    ({"optimizers": ["adam"]}, "optimizers names 'adam'"),
    ({"networks": 5}, "networks is 5"),
    ({"networks": [None]}, r"networks\[0\] is None"),
    ({"loss": 5}, "loss is 5"),
    ({"loss": {"actor": None, "critic": 3}}, "loss of critic is 3"),
    ({"gamma": "high"}, "gamma='high'"),
    ({"gamma": NAN}, "gamma=nan"),
    ({"gamma": 1.5}, "gamma=1.5"),
    ({"ent_coef": "auto"}, "ent_coef='auto'"),
    ({"ignore": 5}, "ignore is 5"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG_ARGUMENTS, ids=str)
def test_wrong_arguments_are_named(model, wrong, message):
    with unmoved(model), pytest.raises(rl_crop.PruningError, match=message):
        rl_crop.prune_policy(model, 0.3, **SCORING, **wrong)


@pytest.mark.parametrize("thing", [None, "model.zip", 5])
def test_what_is_no_agent_is_said(thing):
    with pytest.raises(rl_crop.PruningError, match="Expected an agent or a policy"):
        rl_crop.prune_policy(thing, 0.3)


DICT = spaces.Dict({"a": spaces.Box(-1, 1, (3,)), "b": spaces.Discrete(4)})


def test_mappings_are_looked_at_key_by_key():
    policy = MultiInputActorCriticPolicy(DICT, spaces.Discrete(2), lambda _: 1e-3, net_arch=[8])
    good, magnitude = {"a": th.zeros(6, 3), "b": th.zeros(6)}, {"criterion": "magnitude", "compensation": "none"}
    for change, message in (
        ({"a": th.zeros(6, 2)}, r"observations\['a'\] is a tensor"),
        ({"a": th.full((6, 3), NAN)}, r"observations\['a'\] hold NaN"),
        ({"b": th.zeros(5)}, r"have \[5, 6\] rows"),
    ):
        with pytest.raises(rl_crop.PruningError, match=message):
            rl_crop.prune_policy(policy, 0.3, batches=[{"observations": good | change}], **magnitude)
    with pytest.raises(rl_crop.PruningError, match=r"lack \['b'\]"):
        rl_crop.prune_policy(policy, 0.3, batches=[{"observations": {"a": good["a"]}}], **magnitude)
    assert rl_crop.prune_policy(policy, 0.3, batches=[{"observations": good}], **magnitude).n_params_after


def test_images_must_have_channels_first():
    policy = ActorCriticCnnPolicy(spaces.Box(0, 255, (3, 36, 36), np.uint8), spaces.Discrete(2), lambda _: 1e-3)
    with pytest.raises(rl_crop.PruningError, match=r"of shape \(3, 36, 36\).*channels first"):
        rl_crop.prune_policy(policy, 0.3, criterion="magnitude", batches=[th.zeros(4, 36, 36, 3, dtype=th.uint8)])


class Spoil(BaseCallback):
    """Puts NaN into what the agent has just collected."""

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.model.rollout_buffer.observations[3] = NAN


def test_a_callback_names_the_agents_own_bad_data(recwarn):
    model = ppo()
    callback = rl_crop.PruningCallback(0.5, when=0.0, on_error="warn", **SCORING, verbose=0)
    try:
        model.learn(64, callback=[Spoil(), callback])
    except ValueError as error:  # of the algorithm itself, which trains on them
        assert not isinstance(error, rl_crop.PruningError)
    with pytest.raises(rl_crop.PruningError, match="observations hold NaN"):
        rl_crop.prune_policy(model, 0.5, **SCORING)


def test_replay_data_are_looked_at_too():
    model = SAC("MlpPolicy", "Pendulum-v1", learning_starts=10, seed=0, device="cpu", policy_kwargs={"net_arch": [8]}).learn(
        40
    )
    model.replay_buffer.rewards[:] = NAN
    with pytest.raises(rl_crop.PruningError, match=r"batches\[0\].rewards hold NaN"):
        rl_crop.prune_policy(model, 0.5, n_batches=2, batch_size=8)
