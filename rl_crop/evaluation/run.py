"""One run: train an agent, dense or pruned, evaluate it, and leave everything in one directory."""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.vec_env import sync_envs_normalization

from rl_crop.evaluation import agents
from rl_crop.evaluation.building import build_env, build_model
from rl_crop.evaluation.config import RunConfig
from rl_crop.evaluation.networks import count_flops, count_left, count_parameters, read_widths
from rl_crop.evaluation.recording import CutRecorder
from rl_crop.evaluation.statistics import interquartile_mean
from rl_crop.evaluation.training import Stopwatch, Training
from rl_crop.files import remove_abandoned, temporary_folder, write_arrays, write_atomically, write_json, write_text
from rl_crop.optional import require

# Evaluation environments start far from the seeds of training, and at the same place in every arm of a comparison.
CURVE_SEED, FINAL_SEED = 1_000_000, 2_000_000


def run(
    config: RunConfig,
    directory: str | Path,
    seed: int,
    *,
    progress_bar: bool = False,
    verbose: int = 0,
    plot: bool = True,
    print_cuts: bool = True,
) -> dict[str, Any]:
    """
    Train and evaluate one agent.

    The directory then holds ``config.yaml`` (every key spelled out), ``model.zip``, ``vecnormalize.pkl`` where observations
    are normalised, ``evaluations.npz``, ``learning_curve.png`` and, written last, ``report.json``.

    :param config: what to run; trains densely where its ``pruning`` is ``None``
    :param directory: where to write
    :param seed: seeds the agent, its environments and the evaluation
    :param progress_bar: show a progress bar while training
    :param verbose: the verbosity of the algorithm's own log
    :param plot: whether to draw the learning curve
    :param print_cuts: whether the pruning callback prints its table
    :return: the report, as in ``report.json``
    """
    directory = Path(directory)
    # First what can fail early
    write_text(directory / agents.CONFIG, to_yaml(config))
    training, whole, evaluating = Training(config, print_cuts), Stopwatch(), Stopwatch()

    env = build_env(config, seed)
    model = build_model(config, env, seed)
    model.verbose = verbose
    recorder = CutRecorder()
    n_eval_envs = min(config.evaluation.n_envs, config.evaluation.n_episodes)  # more would play for nothing
    remove_abandoned(directory)
    with temporary_folder(directory) as temporary:
        evaluation = EvalCallback(
            build_env(config, seed + CURVE_SEED, n_eval_envs, training=False),
            n_eval_episodes=config.evaluation.n_episodes,
            eval_freq=max(1, config.n_timesteps // config.evaluation.n_evals // config.n_envs),
            log_path=temporary,
            verbose=0,
        )
        evaluating.watch(evaluation, "on_step")
        with whole.running():
            training.run(model, seed, [recorder, evaluation], evaluation.eval_env, progress_bar)
        with np.load(Path(temporary) / agents.EVALUATIONS) as stored:
            evaluations = dict(stored)
    write_arrays(directory / agents.EVALUATIONS, **evaluations)
    write_atomically(directory / agents.MODEL, lambda path: model.save(path))
    normalization = model.get_vec_normalize_env()
    if normalization is not None:
        write_atomically(directory / agents.NORMALIZATION, lambda path: normalization.save(str(path)))

    curve = [float(np.mean(episodes)) for episodes in evaluations["results"]]
    report = {
        "env": config.env,
        "algo": config.algo,
        "seed": seed,
        "n_timesteps": model.num_timesteps,
        "n_timesteps_trained": training.n_timesteps,  # more where a recipe trains several times
        "final": final_evaluation(model, config, seed),
        "last_evaluations_mean": float(np.mean(curve[-max(1, round(0.1 * len(curve))) :])),
        "evaluations": {"timesteps": evaluations["timesteps"].tolist(), "mean_returns": curve},
        "n_params": count_parameters(model),
        "n_params_left": count_left(model),
        "flops": count_flops(model),
        "widths": read_widths(model),
        "cuts": recorder.cuts,
        "pruning_history": _without_masks(getattr(model, "pruning_history", [])),
        "report": None if training.report is None else training.report.to_dict(),
        "seconds": {
            "learn": whole.seconds - evaluating.seconds,
            "learn_with_evaluation": whole.seconds,
            # Processor time, unlike wall-clock, hardly depends on what else the machine does.
            "learn_cpu": whole.cpu_seconds - evaluating.cpu_seconds,
            # Of these, what pruning took beside the training that it goes with.
            "prune": training.pruning.seconds,
            "prune_cpu": training.pruning.cpu_seconds,
            "threads": th.get_num_threads(),
        },
        "versions": versions(),
    }
    env.close()
    evaluation.eval_env.close()
    if plot:
        from rl_crop.evaluation.plots import plot_learning_curve

        plot_learning_curve(directory / agents.PICTURE, report, evaluations)
    write_json(directory / agents.REPORT, report)
    return report


def final_evaluation(model: BaseAlgorithm, config: RunConfig, seed: int) -> dict[str, Any]:
    """
    Measure the return of a trained agent that is still attached to its training environments.

    :param model: the agent
    :param config: its run
    :param seed: its seed
    :return: mean, standard deviation and interquartile mean of the returns, and returns and lengths of all episodes
    """
    env = build_env(config, seed + FINAL_SEED, min(20, config.evaluation.final_episodes), training=False)
    if model.get_vec_normalize_env() is not None:
        sync_envs_normalization(model.get_env(), env)  # type: ignore[arg-type]
    returns, lengths = agents.episode_returns(model, env, config.evaluation.final_episodes)
    env.close()
    return {
        "mean": float(np.mean(returns)),
        "std": float(np.std(returns)),
        "iqm": interquartile_mean(returns),
        "returns": returns,
        "lengths": lengths,
    }


def to_yaml(config: RunConfig) -> str:
    """:return: a configuration as text that :func:`~rl_crop.evaluation.config.load_config` reads back"""
    return str(require("yaml", "scripts").safe_dump(config.to_dict(), sort_keys=False))


def versions() -> dict[str, str]:
    """:return: the versions that a result depends on, by package, and that of Python"""
    found = {"python": platform.python_version()}
    for package in ("rl-crop", "stable-baselines3", "torch", "gymnasium", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _without_masks(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    # Those of the last event are as large as the network. The model's own zip keeps them.
    return [{key: value for key, value in event.items() if key != "masks"} for event in history]
