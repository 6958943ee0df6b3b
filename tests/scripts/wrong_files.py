"""Files as users damage them, and command lines that cannot be meant."""

import shutil
import zipfile

import torch as th
import yaml
from stable_baselines3 import PPO

GOOD = {
    "env": "CartPole-v1", "algo": "ppo", "n_timesteps": 128, "n_steps": 64, "batch_size": 32,
    "policy_kwargs": {"net_arch": [8]}, "evaluation": {"n_evals": 1, "n_episodes": 1, "final_episodes": 1},
}  # fmt: skip


def make_agent(folder):
    """A run directory, as far as the other scripts need it."""
    folder.mkdir(parents=True)
    PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=32, policy_kwargs={"net_arch": [8]}, device="cpu").save(
        folder / "model.zip"
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(GOOD))
    return folder


def rewritten(source, target, change):
    """A zip of which the members are what ``change(name, content)`` returns; ``None`` leaves one out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)


def spoil_weights(source, target):
    model = PPO.load(source, device="cpu")
    with th.no_grad():
        next(model.policy.parameters()).fill_(float("nan"))
    model.save(target)


def flip(source, target):
    content = bytearray(source.read_bytes())
    for place in range(len(content) // 3, len(content) // 2, 97):
        content[place] ^= 0xFF
    target.write_bytes(bytes(content))


def damaged_zips(good, folder):
    """By kind, a path at which there is no agent that could be used."""
    content = good.read_bytes()
    makers = {
        "missing": lambda path: None,
        "empty": lambda path: path.write_bytes(b""),
        "text": lambda path: path.write_text("not a zip"),
        "cut early": lambda path: path.write_bytes(content[: len(content) // 3]),
        "cut late": lambda path: path.write_bytes(content[:-100]),
        "flipped": lambda path: flip(good, path),
        "another zip": lambda path: rewritten(good, path, lambda name, data: data if "version" in name else None),
        "no data": lambda path: rewritten(good, path, lambda name, data: None if name == "data" else data),
        "broken data": lambda path: rewritten(good, path, lambda name, data: data[:50] if name == "data" else data),
        "other data": lambda path: rewritten(good, path, lambda name, data: b"[]" if name == "data" else data),
        "no policy": lambda path: rewritten(good, path, lambda name, data: None if name == "policy.pth" else data),
        "cut policy": lambda path: rewritten(good, path, lambda name, data: data[:900] if name == "policy.pth" else data),
        "text policy": lambda path: rewritten(good, path, lambda name, data: b"weights" if name == "policy.pth" else data),
        "NaN": lambda path: spoil_weights(good, path),
        "a folder": lambda path: path.mkdir(),
    }  # fmt: skip
    folder.mkdir()
    found = {}
    for kind, make in makers.items():
        path = folder / kind.replace(" ", "_") / "model.zip"
        path.parent.mkdir()
        shutil.copyfile(good.with_name("config.yaml"), path.with_name("config.yaml"))
        make(path)
        found[kind] = path
    return found


def with_key(key, value):
    data = yaml.safe_load(yaml.safe_dump(GOOD))
    *parents, last = key.split(".")
    place = data
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    return yaml.safe_dump(data)


NAN, INF = float("nan"), float("inf")
TEXT = yaml.safe_dump(GOOD)
WRONG_VALUES = {
    "env": [None, "Nowhere-v0", 5, ["CartPole-v1"], ""],
    "algo": [None, "ppoo", 5, ["ppo"], True],
    "n_timesteps": [None, 0, -5, 1.5, NAN, INF, -INF, "many", True, [100], {}],
    "n_envs": [0, -1, 2.5, NAN, INF, "two", False],
    "frame_stack": [-1, 0.5, NAN, "four"],
    "noise_dims": [NAN, INF, -1, "some", True, [1]],
    "normalize": [5, "yes", ["obs"]],
    "atari": ["no", 1],
    "env_kwargs": [5, "x", ["a"], {"x": NAN}],
    "env_wrapper": [5, {"a": 1, "b": 2}, [["x"]], "no.such.Wrapper"],
    "policy": ["MplPolicy", 5],
    "policy_kwargs": [5, "net_arch", ["a"]],
    "policy_kwargs.net_arch": [5, "64", [0], [-8], [8.5], ["8"], [True], {"pi": 8}, [NAN], {"pi": [8], "vf": [0]}],
    "policy_kwargs.activation_fn": ["Rleu"],
    "policy_kwargs.no_such": [1],
    "learning_rate": [NAN, INF, 0, -1e-3, "fast", "lin_fast", [1e-3], True],
    "gamma": [NAN, INF, 1.5, -0.1, "high", [0.9]],
    "gae_lambda": [2, -1, "x"],
    "batch_size": [0, -1, 2.5, "all", NAN],
    "n_steps": [0, -64, 1.5, "x"],
    "n_epochs": [0, -1, 0.5],
    "clip_range": [0, -0.2, NAN, "wide"],
    "max_grad_norm": [0, -1, NAN],
    "no_such_key": [1],
    "pruning": [5, "crop", [0.9]],
    "pruning.sparsity": [1.0, -0.1, 2, NAN, INF, "big", True, [0.5], {}, {"actor": 1.5}],
    "pruning.sparsty": [0.9],
    "pruning.criterion": ["corp", 5, ["crop"]],
    "pruning.when": ["soon", -0.1, 1.0, NAN, INF, True, [1], -5],
    "pruning.networks": [5, [], ["actor", 5]],
    "pruning.scope": ["world", 5],
    "pruning.budget": ["money"],
    "pruning.compensation": ["hope"],
    "pruning.schedule": ["slowly"],
    "pruning.n_events": [0, 1.5, "x"],
    "pruning.n_batches": [0, -1, 1.5, True],
    "pruning.batch_size": [0, "all", None],
    "pruning.structured": ["yes", 1],
    "pruning.min_units": [0, -1, "x", NAN],
    "pruning.recipe": ["none such", 5],
    "pruning.on_error": ["ignore", False],
    "pruning.seed": [-1, "x", 1.5],
    "pruning.kappa": [0, 2, "x", NAN],
    "pruning.learning_rate_factor": [0, -1, "x", NAN, INF],
    "pruning.max_params": [0, -5, NAN, INF, "x"],
    "pruning.max_flops": [0, NAN, "x"],
    "pruning.round_to": [0, 1.5, "x"],
    "pruning.tolerance": [0, 1, NAN, "x"],
    "pruning.earliest": ["x", 1.5, -1, NAN],
    "pruning.latest": ["x", 1.5, -1],
    "pruning.until": ["x", NAN],
    "evaluation": [5, ["x"]],
    "evaluation.n_evals": [0, -1, 1.5, NAN, INF, "x"],
    "evaluation.n_episodes": [0, "x"],
    "evaluation.no_such": [1],
}  # fmt: skip
CONFIGS = {f"{key}: {value}": with_key(key, value) for key, values in WRONG_VALUES.items() for value in values}
CONFIGS |= {
    "empty": "", "a list": "- env\n- algo\n", "a scalar": "42\n", "text": "hello\n",
    "unclosed": TEXT + "x: [1, 2\n", "a tab": "env:\tCartPole-v1\n\talgo: ppo\n", "a colon": "env: a: b\n",
    "a key twice": TEXT + "n_timesteps: 256\n", "a nested key twice": TEXT + "pruning: {sparsity: 0.5, sparsity: 0.9}\n",
    "an anchor": "env: *nowhere\n", "a tag": TEXT + "x: !!python/object:os.system {}\n",
    "two documents": TEXT + "---\n" + TEXT,
    "itself": "env: &a [*a]\nalgo: ppo\nn_timesteps: 5\n", "a date": TEXT + "n_envs: 2026-13-45\n",
    "Latin-1": TEXT.encode() + b"# na\xefve\n", "UTF-16": TEXT.encode("utf-16"), "binary": bytes(range(256)),
}  # fmt: skip
"""By kind, what a file of a run holds."""
