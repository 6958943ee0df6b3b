from collections import Counter
from pathlib import Path

import pytest
import yaml

from rl_crop.evaluation.config import ConfigError
from rl_crop.evaluation.study import load_study, select

CONFIGS = Path(__file__).parents[2] / "configs"
TASK = {"env": "CartPole-v1", "algo": "ppo", "n_timesteps": 256, "pruning": {"sparsity": 0.5}}
STUDY = {
    "tasks": {"cartpole": {"config": "task.yaml", "overrides": {"n_envs": 2}}},
    "arms": {
        "dense": "dense",
        "small": {"widths_of": "crop"},
        "crop": {"criterion": "crop"},
    },
    "sparsities": [0.9, 0.95],
    "seeds": [0, 1],
}


@pytest.fixture
def load(tmp_path):
    def load(study=STUDY, task=TASK):
        (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(study, sort_keys=False))
        return load_study(path)

    return load


def test_cells(load):
    cells = load()
    assert [(cell.arm, cell.sparsity) for cell in cells if cell.seed == 0] == [
        ("dense", 0),
        ("crop", 0.9),
        ("crop", 0.95),
        ("small", 0.9),
        ("small", 0.95),
    ]
    dense, crop, _, small, _ = cells[:5]
    assert dense.config.pruning is None and dense.config.n_envs == 2
    assert crop.config.pruning == {"sparsity": 0.9, "criterion": "crop"}  # the file's own pruning settings play no part
    assert small.config.pruning is None and small.widths_of == crop
    assert len({cell.hash for cell in cells}) == len(cells) == 10
    assert crop.name == f"cartpole__crop__0.9__seed0__{crop.hash}"


def test_a_size_can_be_found_in_a_study(load):
    task = {"config": "task.yaml", "seeds": [0], "sparsities": ["auto", {"actor": "auto", "critic": 0.5}]}
    cells = load(STUDY | {"tasks": {"a": task}})
    pruned = [cell for cell in cells if cell.config.pruning is not None]
    assert {cell.name.split("__")[2] for cell in pruned} == {"auto", "actorauto_critic0.5"}
    assert {str(cell.config.pruning["sparsity"]) for cell in pruned} == {"auto", "{'actor': 'auto', 'critic': 0.5}"}


def test_a_task_can_have_seeds_and_sparsities_of_its_own(load):
    task = {"config": "task.yaml", "seeds": [7], "sparsities": [{"actor": 0.95, "critic": 0.8}]}
    cells = load(STUDY | {"tasks": {"a": task}})
    assert {cell.seed for cell in cells} == {7}
    assert [cell.name.split("__")[2] for cell in cells] == ["0", "actor0.95_critic0.8", "actor0.95_critic0.8"]


def test_a_task_can_have_settings_that_its_pruned_arms_share(load):
    task = {"config": "task.yaml", "pruning": {"criterion": "span", "earliest": 0.2}}
    cells = load(STUDY | {"tasks": {"a": task}})
    assert {str(cell.config.pruning) for cell in cells if cell.sparsity == 0.95 and cell.arm == "crop"} == {
        "{'sparsity': 0.95, 'criterion': 'span', 'earliest': 0.2}"
    }
    assert all(cell.config.pruning is None for cell in cells if cell.arm != "crop")


def test_a_task_can_take_part_with_some_arms(load):
    cells = load(STUDY | {"tasks": {"a": {"config": "task.yaml", "arms": ["small", "crop"]}}})
    assert [cell.arm for cell in cells if cell.seed == 0 and cell.sparsity == 0.9] == ["crop", "small"]
    with pytest.raises(ConfigError, match="names `spann`, choose from dense, small, crop"):
        load(STUDY | {"tasks": {"a": {"config": "task.yaml", "arms": ["spann"]}}})


def test_only_some_arms_can_take_part_at_a_sparsity(load):
    task = {"config": "task.yaml", "arms_at": {0.95: ["crop"]}}
    cells = load(STUDY | {"tasks": {"a": task}, "seeds": [0]})
    assert [(cell.arm, cell.sparsity) for cell in cells] == [("dense", 0), ("crop", 0.9), ("crop", 0.95), ("small", 0.9)]
    assert {cell.name for cell in cells} < {cell.name for cell in load(STUDY | {"tasks": {"a": {"config": "task.yaml"}}})}


@pytest.mark.parametrize(
    "arms_at, named",
    [
        ([0.95], "tasks.a.arms_at` must map sparsities to lists of arms, got"),
        ({0.95: "crop"}, "must map sparsities to lists of arms"),
        ({0.95: None}, "must map sparsities to lists of arms"),
        ({0.5: ["crop"]}, "tasks.a.arms_at` names the sparsity 0.5, choose from 0.9, 0.95"),
        ({"0.95": ["crop"]}, "names the sparsity '0.95', choose from 0.9, 0.95"),
        ({0.95: ["crip"]}, "tasks.a.arms_at.0.95` names `crip`, choose from"),
        ({0.95: ["small"]}, "tasks.a.arms_at.0.95` names `small`, which needs the widths of `crop`"),
    ],
)
def test_wrong_arms_at_a_sparsity_are_named(load, arms_at, named):
    with pytest.raises(ConfigError, match=named):
        load(STUDY | {"tasks": {"a": {"config": "task.yaml", "arms_at": arms_at}}})


def test_results_stay_valid_when_a_study_grows(load):
    before = {cell.name for cell in load()}
    arms = {"random": {"criterion": "random"}} | STUDY["arms"]
    task = dict(reversed(TASK.items())) | {"n_envs": 1, "evaluation": {"n_evals": 20}}
    grown = load(STUDY | {"arms": arms, "seeds": [2, 1, 0], "sparsities": [0.5, 0.95, 0.9]}, task)
    assert before < {cell.name for cell in grown}


@pytest.mark.parametrize(
    "study, task",
    [
        (STUDY, TASK | {"n_timesteps": 512}),
        (STUDY, TASK | {"learning_rate": 0.1}),
        (STUDY, TASK | {"evaluation": {"final_episodes": 7}}),
    ],
)
def test_the_hash_knows_what_the_result_depends_on(load, study, task):
    before = {cell.hash for cell in load()}
    assert before.isdisjoint({cell.hash for cell in load(study, task)})


def test_the_widths_of_another_arm_are_part_of_the_hash(load):
    first = [cell for cell in load() if cell.arm == "small"]
    arms = STUDY["arms"] | {"crop": {"criterion": "crop", "when": 0.1}}
    second = [cell for cell in load(STUDY | {"arms": arms}) if cell.arm == "small"]
    assert {cell.hash for cell in first}.isdisjoint({cell.hash for cell in second})


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"task": {}}, "`task`"),
        ({"tasks": {"a": {}}}, "tasks.a.config"),
        ({"tasks": {"a": {"config": "task.yaml", "seed": 1}}}, "tasks.a: the key `seed`"),
        ({"tasks": {"a": {"config": "task.yaml", "overrides": {"n_env": 1}}}}, "`n_env`"),
        ({"arms": ["dense"]}, "`arms`"),
        ({"arms": {"a": "sparse"}}, "arms.a"),
        ({"arms": {"a": {"widths_of": "b"}}}, "arms.a.widths_of: b"),
        ({"seeds": None}, "`seeds`"),
    ],
)
def test_errors_name_the_key(load, changes, named):
    with pytest.raises(ConfigError, match=named):
        load(STUDY | changes)


def test_select(load):
    cells = load()
    assert select(cells, "") == cells
    assert {(cell.arm, cell.seed) for cell in select(cells, "arm=dense,seed=1")} == {("dense", 1)}
    assert {cell.arm for cell in select(cells, "arm=dense,arm=crop")} == {"dense", "crop"}
    assert {cell.sparsity for cell in select(cells, "sparsity=0.95")} == {0.95}
    with pytest.raises(ConfigError, match="arms=x"):
        select(cells, "arms=x")
    with pytest.raises(ConfigError, match="No cell"):
        select(cells, "seed=9")


def test_the_study_of_returns_has_every_arm_for_every_seed():
    cells = load_study(CONFIGS / "study_returns.yaml")
    assert len({cell.name for cell in cells}) == len(cells)
    runs = Counter((cell.task, cell.sparsity) for cell in cells if cell.sparsity)
    n_arms = {"ppo_tracking": {0.9: 8, 0.95: 5}, "sac_tracking": {0.9: 10, 0.95: 4}, "ppo_cartpole": {0.9: 6, 0.99: 6}}
    n_arms |= {"ppo_lunarlander": {0.9: 8}, "ppo_acrobot": {0.9: 5, 0.99: 4}, "ppo_pendulum": {0.9: 5}}
    n_arms |= {"ppo_reacher": {0.9: 9, 0.95: 4, 0.99: 7}, "sac_halfcheetah": {0.9: 4}}
    assert runs == {(task, sparsity): 5 * n for task, at in n_arms.items() for sparsity, n in at.items()}
    rivals = {"earlycrop", "span_crop_layer", "random", "dense_small"}
    for task, sparsity, seed in {(cell.task, cell.sparsity, cell.seed) for cell in cells if cell.sparsity}:
        assert rivals <= {cell.arm for cell in cells if (cell.task, cell.sparsity, cell.seed) == (task, sparsity, seed)}


@pytest.mark.parametrize("study", sorted(CONFIGS.glob("study_*.yaml")), ids=lambda path: path.stem)
def test_every_study_can_be_read(study):
    assert load_study(study)


@pytest.mark.parametrize("study", sorted(CONFIGS.glob("study_*.yaml")), ids=lambda path: path.stem)
def test_recorded_results_do_not_hang_on_the_default_of_kappa(study):
    # Hashes do not spell out defaults: a result would go on counting for a default that has changed.
    lazy = [cell for cell in load_study(study) if cell.config.pruning and cell.config.pruning.get("when") == "lazy"]
    assert [cell.name for cell in lazy if "kappa" not in cell.config.pruning] == []
