"""What a callback keeps in the agent before its cut: what is in it, when it goes, and when it is of no use."""

import copy
import subprocess
import sys
import warnings

import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env

import rl_crop
from rl_crop.core.errors import PruningError
from rl_crop.sb3.agent import prunable_parameters
from tests.zoo.agents import SCORING, ppo, sac
from tests.zoo.callbacks import Stop
from tests.zoo.snapshots import same


def callback(sparsity=0.6, **keywords):
    return rl_crop.PruningCallback(sparsity, **{"latest": 0.9, "verbose": 0} | SCORING | keywords)


def epi():
    """Proposals by magnitude, which never change in an agent that does not learn."""
    return callback(when="epi", criterion="magnitude")


def killed(model, total, at, *callbacks, **keywords):
    with pytest.raises(KeyboardInterrupt):
        model.learn(total, callback=[*callbacks, Stop(at)], **keywords)
    return model


@pytest.fixture(autouse=True)
def frequent_checks(monkeypatch):
    monkeypatch.setattr("rl_crop.sb3.between_rollouts.CHECK_EVERY", 32)


def plain(value):
    """Whether a value is made of what every process can load."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str, th.Tensor)


@pytest.mark.parametrize("when", ["lazy", "epi"])
@pytest.mark.parametrize("make", [ppo, sac])
def test_it_is_plain_and_there_until_the_last_event(make, when, tmp_path):
    model = make()
    first = {name: th.cat([p.detach().flatten() for p in own]) for name, own in prunable_parameters(model).items()}
    gradual = callback(when=when, latest=0.4, schedule="gradual", n_events=2, until=0.8)
    model.learn(512, callback=[gradual, CheckpointCallback(48, str(tmp_path))])
    assert not hasattr(model, "pruning_state") and len(model.pruning_history) == 2
    n_events = set()
    for path in tmp_path.glob("*.zip"):
        loaded = make().load(path)
        n_events.add(len(loaded.pruning_history))
        assert hasattr(loaded, "pruning_state") == (len(loaded.pruning_history) < 2)
        if hasattr(loaded, "pruning_state"):
            assert plain(loaded.pruning_state) and list(loaded.pruning_state) == ["actor,critic"]
            timetable = loaded.pruning_state["actor,critic"]["state"]["engine"]["timetable"]
            assert ("trigger" in timetable) == (timetable["begun"] is None)
            if when == "lazy" and "trigger" in timetable:
                assert same(timetable["trigger"]["start"], first)
    assert n_events == {0, 1, 2}


STOCK = """
import sys, warnings
sys.modules["rl_crop"] = None
warnings.simplefilter("error")
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

model = PPO.load(sys.argv[1], env=make_vec_env("CartPole-v1"))
assert list(model.pruning_state) == ["actor,critic"]
model.learn(64, reset_num_timesteps=False).save(sys.argv[1])
"""


def test_it_loads_where_rl_crop_is_not_installed(tmp_path):
    path = str(tmp_path / "agent.zip")
    killed(ppo(), 512, 150, callback(when="lazy")).save(path)
    result = subprocess.run([sys.executable, "-c", STOCK, path], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    model = PPO.load(path, env=make_vec_env("CartPole-v1"))
    with pytest.warns(UserWarning, match="trained on without it"):
        model.learn(64, reset_num_timesteps=False, callback=callback(when="lazy"))
    assert len(model.pruning_history) == 1 and not hasattr(model, "pruning_state")


def test_more_data_than_a_checkpoint_should_carry_stays_behind(monkeypatch):
    model = killed(ppo(), 512, 150, callback(when="epi"))
    assert model.pruning_state["actor,critic"]["state"]["rollouts"]["observations"].shape == (128, 4)
    monkeypatch.setattr("rl_crop.sb3.state.LARGEST", 1000)
    model = killed(ppo(), 512, 150, callback(when="epi"))
    assert model.pruning_state["actor,critic"]["state"]["rollouts"] is None
    model.learn(512 - 150, reset_num_timesteps=False, callback=callback(when="epi"))
    assert len(model.pruning_history) == 1


@pytest.mark.parametrize(("make", "at", "late"), [(ppo, 300, 300 - 256), (sac, 300, 0)])
def test_a_checkpoint_within_a_rollout(make, at, late, tmp_path):
    """Of an agent that does not learn, the indicator fires at its 11th check, and that is how many there are in all."""
    whole = make(learning_rate=0.0).learn(1024, callback=[epi(), CheckpointCallback(at, str(tmp_path))])
    model = type(whole).load(tmp_path / f"rl_model_{at}_steps.zip", env=whole.get_env())
    if make is sac:
        model.replay_buffer = whole.replay_buffer
    model.learn(1024 - at, reset_num_timesteps=False, callback=epi())
    [event], [other] = whole.pruning_history, model.pruning_history
    assert event["decided_by"] == other["decided_by"] == "epi"
    assert other["timesteps"] - event["timesteps"] == late  # rollouts start anew where the run was resumed


def test_what_failed_for_good_is_not_tried_again():
    def hopeless(context):
        raise PruningError("no score")

    keywords = {"criterion": hopeless, "when": 64, "latest": 128, "on_error": "warn"}
    with pytest.warns(UserWarning, match="no score"):
        model = killed(ppo(), 512, 200, callback(**keywords))
    state = model.pruning_state["actor,critic"]["state"]
    assert state["engine"]["given_up"] and state["rollouts"] is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(512 - 200, reset_num_timesteps=False, callback=callback(**keywords))
    assert model.pruning_history == [] and not hasattr(model, "pruning_state")


CHANGED = {
    "arguments": (lambda model: None, {"sparsity": 0.5}, "other arguments .sparsity"),
    "trigger": (lambda model: None, {"when": "epi"}, "other arguments .when"),
    "networks": (lambda model: None, {"networks": "actor"}, "of actor,critic, not of actor"),
    "training": (lambda model: model.learn(64, reset_num_timesteps=False), {}, "trained on without it"),
    "shapes": (lambda model: rl_crop.prune_policy(model, 0.3, **SCORING), {}, "other names or shapes"),
}


@pytest.mark.parametrize("what", CHANGED)
def test_a_state_that_does_not_fit_is_ignored_with_a_warning(what):
    change, keywords, message = CHANGED[what]
    model = killed(ppo(), 512, 150, callback(when="lazy"))
    change(model)
    with pytest.warns(UserWarning, match=message):
        model.learn(256, reset_num_timesteps=False, callback=callback(**{"when": "lazy"} | keywords))
    assert model.pruning_history[-1]["source"] == "PruningCallback" and not hasattr(model, "pruning_state")


def test_counting_from_zero_starts_anew():
    runs = []
    for start in (lambda model: model, lambda model: killed(model, 512, 150, epi())):
        model = start(ppo(learning_rate=0.0))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            runs.append(model.learn(1024, callback=epi()).pruning_history[0]["timesteps"])
    assert runs == [704, 704]


def test_callbacks_for_several_networks_keep_a_state_each():
    def both():
        return [callback({"actor": 0.6}, when="lazy"), callback({"critic": 0.6}, when=192)]

    model = killed(ppo(), 512, 150, *both())
    assert sorted(model.pruning_state) == ["actor", "critic"]
    before = copy.deepcopy(model.pruning_state["actor"]["state"]["engine"]["timetable"]["trigger"]["start"])
    killed(model, 512, 300, *both(), reset_num_timesteps=False)
    assert list(model.pruning_state) == ["actor"]  # the other one has cut
    assert same(model.pruning_state["actor"]["state"]["engine"]["timetable"]["trigger"]["start"], before)
