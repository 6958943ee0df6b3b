"""The cases of `doors.py`: small agents and a supervised task, the doors to them, and a watch that notes what happens."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice, repeat
from typing import Any

import numpy as np
import torch as th
from stable_baselines3 import PPO, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from torch import nn
from torch.utils.data import TensorDataset

import rl_crop
from rl_crop.core.masking.masks import attached_masks
from rl_crop.core.recipes.engine import PruningEngine
from rl_crop.core.recipes.recipe import Recipe, ScoringOptions
from rl_crop.sb3.task import AgentTask
from rl_crop.supervised.objectives import OBJECTIVES
from rl_crop.supervised.trainer import Trainer

SPARSITY, SEED, TIMESTEPS, OPTIMIZER_STEPS = 0.8, 0, 1500, 500
TRIGGERED: dict[str, Recipe] = {
    f"({when})": Recipe("crop", when=when, compensation="least_squares", options={"earliest": 0.1, "latest": 0.3})
    for when in ("lazy", "epi")
}
"""Early pruning without a recipe: the callback gets `when`, the other doors the recipe that says the same."""


def digest(tensors: dict[str, Any]) -> str:
    """:return: of the values, rounded to six decimals, the same in every process."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        values = np.asarray(tensors[name], dtype=np.float64).round(6) + 0.0  # no -0.0
        found.update(f"{name} {values.shape} ".encode() + values.tobytes())
    return found.hexdigest()[:16]


@contextmanager
def recorded_cuts() -> Iterator[list[str]]:
    """:return: a list that gets a digest of what each plan keeps when it is applied."""
    cuts: list[str] = []
    apply = rl_crop.PruningPlan.apply

    def recorded(plan: rl_crop.PruningPlan, *args: Any, **keywords: Any) -> rl_crop.PruningReport:
        report = apply(plan, *args, **keywords)
        cuts.append(digest(dict(plan.keep)))
        return report

    rl_crop.PruningPlan.apply = recorded  # type: ignore[method-assign, assignment]
    try:
        yield cuts
    finally:
        rl_crop.PruningPlan.apply = apply  # type: ignore[method-assign]


class Watch:
    """
    Notes when a model changed: what its layers and masks keep.

    :param model: what is pruned.
    :param clock: says how much has been trained.
    :param total: what the clock shows at the end of a run.
    :param cuts: see :func:`recorded_cuts`.
    """

    def __init__(self, model: nn.Module, clock: Callable[[], int], total: int, cuts: list[str]) -> None:
        self.model, self.clock, self.total, self.cuts = model, clock, total, cuts
        self.events: list[dict[str, Any]] = []
        self.trail: dict[int, str] = {}
        self.before = self.structure()

    def structure(self) -> tuple[dict[str, int], str]:
        """:return: outputs by layer and elements kept by mask, and a digest of the masks."""
        trained = {name: tensor for name, tensor in self.model.named_parameters() if "target" not in name}
        masks = {name: mask.cpu() for name, mask in attached_masks(trained).items()}
        layers = self.model.named_modules()
        widths = {name: len(m.weight) for name, m in layers if isinstance(m, nn.Linear) and "target" not in name}
        return {**widths, **{name: int(mask.sum()) for name, mask in masks.items()}}, digest(masks)

    def parameters(self) -> str:
        """:return: a digest of all weights, targets included."""
        return digest({name: tensor.detach().cpu() for name, tensor in self.model.named_parameters()})

    def look(self) -> None:
        """Note an event, if there was one since the last look; and the weights, at every tenth of a run."""
        now, structure = self.clock(), self.structure()
        if structure != self.before:
            event = {"at": now, "progress": round(now / self.total, 4), "kept": structure[0], "masks": structure[1]}
            self.events.append({**event, "cuts": self.cuts.copy(), "parameters": self.parameters()})
            self.cuts.clear()
            self.before = structure
        if (tenth := 10 * now // self.total) not in self.trail:
            self.trail[tenth] = self.parameters()


class Recorder(BaseCallback):
    """Looks before and after every rollout."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._on_training_start = self._on_rollout_start = watch.look  # type: ignore[method-assign]
        self._on_rollout_end = self._on_training_end = watch.look  # type: ignore[method-assign]

    def _on_step(self) -> bool:
        return True


def ppo() -> BaseAlgorithm:
    """:return: an agent of 30 rollouts and 600 optimizer steps."""
    env, arch = make_vec_env("CartPole-v1", seed=SEED), {"net_arch": [32, 32]}
    sizes: dict[str, Any] = {"n_steps": 50, "batch_size": 25, "n_epochs": 10}
    return PPO("MlpPolicy", env, **sizes, policy_kwargs=arch, seed=SEED, device="cpu")


def td3() -> BaseAlgorithm:
    """:return: an agent of 375 rollouts, and 1,400 optimizer steps of its critics."""
    env, arch = make_vec_env("Pendulum-v1", seed=SEED), {"net_arch": [32, 32]}
    sizes: dict[str, Any] = {"learning_starts": 100, "batch_size": 32, "train_freq": 4, "gradient_steps": 4}
    noise = NormalActionNoise(np.zeros(1), np.full(1, 0.1))
    return TD3("MlpPolicy", env, **sizes, action_noise=noise, policy_kwargs=arch, seed=SEED, device="cpu")


AGENTS = {"ppo": ppo, "td3": td3}


def by_callback(agent: str, name: str, cuts: list[str]) -> tuple[Watch, dict[str, Any]]:
    """An agent that learns with a `PruningCallback`."""
    how: dict[str, Any] = {"when": TRIGGERED[name].when} if name in TRIGGERED else {"recipe": name}
    callback = rl_crop.PruningCallback(sparsity=SPARSITY, seed=SEED, verbose=0, **how)
    model: Any = AGENTS[agent]()
    watch = Watch(model.policy, lambda: model.num_timesteps, TIMESTEPS, cuts)
    model.learn(TIMESTEPS, [callback, Recorder(watch)])
    history = getattr(model, "pruning_history", [])
    decided = [[event["timesteps"], event["decided_by"]] for event in history]
    gone: dict[str, float] = {}
    for event in history:  # an entry is of its own event; masks count what is masked already
        for key, share in event["sparsity"].items():
            gone[key] = 1.0 - (1.0 - gone.get(key, 0.0)) * (1.0 - share) if event["structured"] else share
    return watch, {"decided_by": decided, "sparsity": gone}


def by_task(agent: str, name: str, cuts: list[str]) -> tuple[Watch, dict[str, Any]]:
    """The same agent in `run_recipe`."""
    model: Any = AGENTS[agent]()
    watch = Watch(model.policy, lambda: model.num_timesteps, TIMESTEPS, cuts)
    eval_env = make_vec_env(model.env.get_attr("spec")[0].id, seed=SEED + 1)
    task = AgentTask(model, TIMESTEPS, eval_env, n_eval_episodes=2, callback=[Recorder(watch)])
    report = rl_crop.run_recipe(task, TRIGGERED.get(name, name), SPARSITY, seed=SEED)
    return watch, {"sparsity": report.sparsity}


class WatchedTrainer(Trainer):
    """A trainer whose every step is looked at, after what was to be done at it."""

    watch: Watch

    def train(self, share: float = 1.0, after_step: Callable[[float], None] | None = None) -> None:
        """As in :class:`~rl_crop.supervised.trainer.Trainer`."""

        def looked_at(progress: float) -> None:
            if after_step is not None:
                after_step(progress)
            self.watch.look()

        self.watch.look()
        super().train(share, looked_at)


def trainer(cuts: list[str]) -> WatchedTrainer:
    """:return: three classes of points in eight dimensions, and an MLP that learns them in 500 optimizer steps."""
    th.manual_seed(SEED)
    generator = np.random.default_rng(SEED)
    inputs = generator.normal(size=(800, 8)).astype(np.float32)
    data = TensorDataset(th.from_numpy(inputs), th.from_numpy((inputs @ generator.normal(size=(8, 3))).argmax(1)))
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    optimizer, objective = th.optim.Adam(model.parameters(), 0.003), OBJECTIVES["classification"]
    task = WatchedTrainer(model, objective, optimizer, data, data, n_epochs=20, batch_size=32, seed=SEED)
    assert task.n_steps == OPTIMIZER_STEPS
    task.watch = Watch(model, lambda: task.n_done, OPTIMIZER_STEPS, cuts)
    return task


def by_trainer(name: str, cuts: list[str]) -> tuple[Watch, dict[str, Any]]:
    """A supervised task in `run_recipe`."""
    task = trainer(cuts)
    report = rl_crop.run_recipe(task, TRIGGERED.get(name, name), SPARSITY, seed=SEED)
    return task.watch, {"sparsity": report.sparsity}


def by_loop(name: str, cuts: list[str]) -> tuple[Watch, dict[str, Any]]:
    """The same model and data in a loop of one's own, which calls the engine between optimizer steps."""
    task, recipe = trainer(cuts), TRIGGERED.get(name) or rl_crop.recipes[name]
    engine = PruningEngine(recipe, SPARSITY, task.subject, SEED)
    batches = partial(task.batches, recipe.of(ScoringOptions).n_batches)
    engine.update(0.0, batches)
    task.watch.look()
    for batch in islice(chain.from_iterable(repeat(task.loader)), OPTIMIZER_STEPS):
        task.model.train()
        task.optimizer.zero_grad()
        task.loss(task.model, batch).backward()
        task.optimizer.step()
        task.n_done += 1
        engine.update(task.n_done / OPTIMIZER_STEPS, batches)
        task.watch.look()
    report = engine.finish(batches)
    return task.watch, {"decided_by": engine.timetable.decided_by, "sparsity": report.sparsity}


DOORS: dict[str, Callable[[str, list[str]], tuple[Watch, dict[str, Any]]]] = {
    "callback:ppo": partial(by_callback, "ppo"),
    "task:ppo": partial(by_task, "ppo"),
    "callback:td3": partial(by_callback, "td3"),
    "task:td3": partial(by_task, "td3"),
    "trainer": by_trainer,
    "loop": by_loop,
}


def line_of(door: str, name: str) -> dict[str, Any]:
    """:return: what a recipe does through a door, or the error with which it is refused."""
    line: dict[str, Any] = {"recipe": name, "door": door}
    with recorded_cuts() as cuts, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            watch, facts = DOORS[door](name, cuts)
            watch.look()
            line |= {"events": watch.events, **facts, "trail": watch.trail, "parameters": watch.parameters()}
        except Exception as error:  # of whatever kind: it is what the door answers
            line["error"] = f"{type(error).__name__}: {error}"
        line["warnings"] = [text for w in said if (text := str(w.message)).startswith(("No pruning", "Cut at"))]
    return json.loads(json.dumps(line))
