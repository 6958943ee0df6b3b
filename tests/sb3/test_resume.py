"""A resumed run does not prune twice, and goes on where its schedule was interrupted."""

import pytest

import rl_crop
from rl_crop.core.rng import isolated_rng
from rl_crop.sb3.subject import algorithm_optimizers
from tests.zoo.agents import AGENTS, SCORING
from tests.zoo.callbacks import Stop, Watch
from tests.zoo.snapshots import consistent, same, tensors

GRADUAL = {"schedule": "gradual", "when": 64, "until": 256, "n_events": 4, "verbose": 0, **SCORING}


@pytest.fixture
def load(tmp_path):
    """A function that saves an agent and loads it again."""

    def saved_and_loaded(model):
        model.save(tmp_path / "agent.zip")
        return type(model).load(tmp_path / "agent.zip", env=model.get_env())

    return saved_and_loaded


@pytest.mark.parametrize("keywords", [{"when": 64}, {"when": "lazy", "latest": 128}, {"when": "epi", "latest": 128}], ids=str)
def test_a_resumed_run_is_not_pruned_twice(make_plain, keywords, load):
    def callback():
        return rl_crop.PruningCallback(0.6, verbose=0, **SCORING, **keywords)

    model = make_plain().learn(192, callback=callback())
    loaded = load(model)
    shapes = [p.shape for p in loaded.policy.parameters()]
    before = tensors(loaded)
    loaded.learn(64, reset_num_timesteps=False, callback=callback())
    loaded.learn(64, callback=callback())  # also where counting starts anew
    assert [p.shape for p in loaded.policy.parameters()] == shapes
    assert loaded.pruning_history == model.pruning_history and len(loaded.pruning_history) == 1
    assert any((tensor != before[name]).any() for name, tensor in tensors(loaded).items())


def test_the_next_update_after_a_cut_is_the_same(make_agent, load):
    """Optimizer moments, targets, schedules: whatever an update reads has been saved."""
    model = make_agent().learn(64)
    if not hasattr(model, "train"):
        pytest.skip("updates are not apart from experience")
    rl_crop.prune_policy(model, 0.6, **SCORING)
    model.learn(64, reset_num_timesteps=False)
    loaded = load(model)
    loaded.set_logger(model.logger)
    name = "replay_buffer" if hasattr(model, "replay_buffer") else "rollout_buffer"
    setattr(loaded, name, getattr(model, name))  # only read
    before = tensors(model)
    for agent in (model, loaded):
        with isolated_rng(7):
            agent.train(**({"gradient_steps": 3, "batch_size": 32} if name == "replay_buffer" else {}))
    assert same(tensors(model), tensors(loaded)) and not same(tensors(model), before)
    assert same(*([optimizer.state_dict() for optimizer in algorithm_optimizers(agent)] for agent in (model, loaded)))


@pytest.mark.parametrize("when", [64, "lazy"])
def test_a_gradual_schedule_goes_on_with_its_third_event(make_plain, when, tmp_path):
    def callback():
        return rl_crop.PruningCallback(0.9, **GRADUAL | {"when": when, "latest": 64})

    def checkpoint(model):  # from which a run goes on that died later
        if model.num_timesteps == 150:
            model.save(tmp_path / "agent.zip")

    model = make_plain()
    model.learn(384, callback=[callback(), Watch(step=checkpoint)])
    whole = model.pruning_history
    loaded = type(model).load(tmp_path / "agent.zip", env=model.get_env())
    assert loaded.pruning_history == whole[:2] and len(whole) == 4
    if hasattr(loaded, "replay_buffer"):
        loaded.replay_buffer = model.replay_buffer
    loaded.learn(384 - loaded.num_timesteps, reset_num_timesteps=False, callback=callback())
    for number, (event, other) in enumerate(zip(loaded.pruning_history, whole, strict=True)):
        assert event["event"] == number and event["decided_by"] == other["decided_by"]
        assert abs(event["timesteps"] - other["timesteps"]) <= 64  # rollouts start anew where the run was resumed
    for network, share in loaded.pruning_history[-1]["reached"].items():
        assert 0.9 <= share < 0.97, network
    consistent(loaded)


@pytest.mark.parametrize("when", ["lazy", 64])
def test_without_its_replay_buffer_an_agent_is_scored_once_there_is_data(when, load):
    loaded = load(AGENTS["sac"]().learn(160))
    callback = rl_crop.PruningCallback(0.6, when=when, verbose=0, **SCORING)
    loaded.learn(160, reset_num_timesteps=False, callback=callback)
    assert loaded.pruning_history[0]["timesteps"] == 160 + SCORING["batch_size"]


def test_after_a_keyboard_interrupt_the_same_callback_goes_on(make_plain):
    model, callback = make_plain(), rl_crop.PruningCallback(0.9, **GRADUAL)
    with pytest.raises(KeyboardInterrupt):
        model.learn(384, callback=[callback, Stop(150)])
    assert [event["event"] for event in model.pruning_history] == [0, 1]
    model.learn(384 - 150, reset_num_timesteps=False, callback=callback)
    assert [event["event"] for event in model.pruning_history] == [0, 1, 2, 3]
    consistent(model)


def test_one_callback_for_two_agents(make_plain):
    callback = rl_crop.PruningCallback(0.6, when=64, verbose=0, **SCORING)
    first = make_plain().learn(192, callback=callback)
    second = make_plain().learn(192, callback=callback)
    assert len(first.pruning_history) == len(second.pruning_history) == 1
    assert first.policy.net_arch == second.policy.net_arch  # scored on its own data alone: the runs are the same


def test_two_callbacks_at_one_time(make_plain):
    callbacks = [rl_crop.PruningCallback({name: 0.6}, when=0.3, verbose=0, **SCORING) for name in ("actor", "critic")]
    model = make_plain().learn(256, callback=callbacks)
    first, second = model.pruning_history
    assert first["timesteps"] == second["timesteps"] and (first["networks"], second["networks"]) == (["actor"], ["critic"])
    assert first["reached"]["actor"] >= 0.6 and second["reached"]["critic"] >= 0.6
    consistent(model)


def test_one_callback_a_network(load):
    def callbacks():
        actor = rl_crop.PruningCallback({"actor": 0.8}, when=64, verbose=0, **SCORING)
        return [actor, rl_crop.PruningCallback(0.6, networks=["critic"], when=192, verbose=0, **SCORING)]

    for name in ("ppo_discrete", "sac"):
        model = AGENTS[name]().learn(128, callback=callbacks()[0])
        assert model.policy.net_arch["vf" if name.startswith("ppo") else "qf"] == [16, 16]
        loaded = load(model)
        loaded.learn(256, reset_num_timesteps=False, callback=callbacks())
        assert [event["networks"] for event in loaded.pruning_history] == [["actor"], ["critic"]]
        reached = [event["reached"] for event in loaded.pruning_history]
        assert reached[0]["critic"] == reached[1]["actor"] == 0 and reached[0]["actor"] >= 0.8 and reached[1]["critic"] >= 0.6
        consistent(loaded)
