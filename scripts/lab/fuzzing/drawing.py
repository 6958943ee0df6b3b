"""What a seed draws: an algorithm with all of its options, and a way of pruning it, as plain values."""

import random
from dataclasses import dataclass
from typing import Any

ON_POLICY = ("PPO", "A2C", "TRPO", "MaskablePPO", "RecurrentPPO")
CONTINUOUS = ("SAC", "TD3", "DDPG", "TQC", "CrossQ")
Q_LEARNING = ("DQN", "QRDQN")
ALGORITHMS = (*ON_POLICY, *CONTINUOUS, *Q_LEARNING, "ARS")
STATE_DEPENDENT_NOISE = ("PPO", "A2C", "TRPO", "RecurrentPPO", "SAC", "TQC", "CrossQ")

ACTIONS = {
    **dict.fromkeys(ON_POLICY, ("discrete", "multidiscrete", "multibinary", "box")),
    "MaskablePPO": ("discrete", "multidiscrete", "multibinary"),
    **dict.fromkeys(CONTINUOUS, ("box",)),
    **dict.fromkeys(Q_LEARNING, ("discrete",)),
    "ARS": ("discrete", "box"),
}
OBSERVATIONS = {"Mlp": ("vector", "vector", "number"), "Cnn": ("image",), "MultiInput": ("mixed", "vectors")}
ACTIVATIONS = ("ReLU", "Tanh", "ELU", "SiLU", "GELU", "LeakyReLU", "Softplus", "Sigmoid")
OPTIMIZERS = ("default", "Adam", "AdamW", "RMSprop", "SGD")
NOISY: tuple[dict[str, Any], ...] = ({"policy": {"use_expln": True}}, {"policy": {"log_std_init": -1.0}})
CLIPPED: tuple[dict[str, Any], ...] = ({"target_kl": 0.5}, {"clip_range_vf": 0.2}, {"normalize_advantage": False})
REPLAYED: tuple[dict[str, Any], ...] = (
    {"gradient_steps": -1},
    {"train_freq": [1, "episode"]},
    {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}},
)
EXTRAS: dict[str, tuple[dict[str, Any], ...]] = {
    **dict.fromkeys(ON_POLICY, ({"policy": {"ortho_init": False}}, {"max_grad_norm": 1e-2}, {"gae_lambda": 1.0})),
    **dict.fromkeys((*CONTINUOUS, *Q_LEARNING), REPLAYED),
    "PPO": CLIPPED,
    "MaskablePPO": CLIPPED,
    "TRPO": ({"normalize_advantage": False}, {"sub_sampling_factor": 2}),
    "RecurrentPPO": (*CLIPPED, {"policy": {"n_lstm_layers": 2}}),
    "SAC": (*REPLAYED, {"ent_coef": 0.1}, {"target_update_interval": 3}),
    "TQC": (*REPLAYED, {"ent_coef": "auto_0.5"}, {"target_update_interval": 3}),
    "TD3": (*REPLAYED, {"policy_delay": 1}, {"target_policy_noise": 0.0}),
    "CrossQ": (*REPLAYED, {"policy": {"batch_norm": False}}, {"policy_delay": 1}, {"policy": {"renorm_warmup_steps": 2}}),
    "ARS": ({"policy": {"with_bias": False}}, {"zero_policy": False}, {"n_top": 1}, {"policy": {"squash_output": False}}),
}
"""Further options of each algorithm, of which one is drawn at times; those of its policy under ``"policy"``."""
WITH_GRADIENT = ("crop", "crop_gate", "snip", "grasp", "span_crop")
WITHOUT_GRADIENT = ("synflow", "magnitude", "random", "span")
WAYS = {
    "prune_policy": ("one_shot", "iterative"),
    "plan": ("one_shot",),
    "late_plan": ("one_shot",),
    "callback": ("one_shot", "iterative", "gradual"),
    "policy": ("one_shot", "iterative"),
}


@dataclass(frozen=True)
class Combination:
    """
    An agent and a way of pruning it; plain values that JSON knows.

    :param seed: of the draw, the agent and its environment.
    :param attempt: which draw of this seed it is: what Stable-Baselines3 refuses to build is drawn again.
    :param algorithm: its class.
    :param policy: ``"Mlp"``, ``"Cnn"`` or ``"MultiInput"``.
    :param observations: ``"vector"``, ``"number"``, ``"image"``, ``"vectors"`` or ``"mixed"`` (image, vector and number).
    :param actions: ``"discrete"``, ``"multidiscrete"``, ``"multibinary"`` or ``"box"``.
    :param n_envs: environments side by side.
    :param normalize: whether ``VecNormalize`` is around them.
    :param own_extractor: whether the features extractor is the one of this package's fuzz.
    :param share: ``share_features_extractor``, ``None`` for the default.
    :param net_arch: hidden widths: a list, or by side; ``None`` for the default.
    :param activation: a class of ``torch.nn``.
    :param optimizer: a class of ``torch.optim``, or ``"default"``.
    :param use_sde: state-dependent exploration noise.
    :param n_critics: of an off-policy actor-critic.
    :param n_steps: of the returns in the replay buffer.
    :param lstm: which networks of a recurrent agent remember: ``"both"``, ``"shared"`` or ``"actor"``.
    :param extra: one of :data:`EXTRAS`, or nothing.
    :param way: ``"prune_policy"``, ``"plan"`` (then ``apply``), ``"late_plan"`` (trains on between the two), ``"callback"`` or
        ``"policy"`` (the bare policy).
    :param batches: that a bare policy is given: ``"samples"`` of a buffer, ``"mapping"`` or ``"observations"`` alone.
    :param again: whether the agent is pruned once more after it was loaded.
    :param schedule: of the cut.
    :param when: of a callback.
    :param sparsity: one number, or by network.
    :param networks: as ``plan_policy_pruning`` takes it.
    :param settings: criterion, scope, budget, compensation and ``min_units``.
    """

    seed: int
    attempt: int
    algorithm: str
    policy: str
    observations: str
    actions: str
    n_envs: int
    normalize: bool
    own_extractor: bool
    share: bool | None
    net_arch: Any
    activation: str
    optimizer: str
    use_sde: bool
    n_critics: int
    n_steps: int
    lstm: str
    extra: dict[str, Any]
    way: str
    batches: str
    again: bool
    schedule: str
    when: str | float | int
    sparsity: float | dict[str, float]
    networks: list[str] | None
    settings: dict[str, Any]


def draw(seed: int, attempt: int = 0) -> Combination:
    """
    :param seed: of the combination.
    :param attempt: another draw of the same seed.
    :return: always the same one.
    """
    rng = random.Random(f"{seed}/{attempt}")
    algorithm = rng.choice(ALGORITHMS)
    policy = "Mlp" if algorithm in ("ARS", "CrossQ") else rng.choices(("Mlp", "Cnn", "MultiInput"), (5, 3, 3))[0]
    observations, actions = rng.choice(OBSERVATIONS[policy]), rng.choice(ACTIONS[algorithm])
    own_extractor = algorithm != "ARS" and rng.random() < 0.3
    share = None if algorithm in (*Q_LEARNING, "ARS") else rng.choice((None, True, False))
    shared = algorithm in ON_POLICY if share is None else share
    names = ["critic"] if algorithm in Q_LEARNING else ["actor"] if algorithm == "ARS" else ["actor", "critic"]
    if shared and (own_extractor or observations in ("image", "mixed")):
        names.append("features")
    replay = algorithm in (*CONTINUOUS, *Q_LEARNING)
    sparsity, networks = _sparsity(rng, names)
    settings = _settings(rng, algorithm, by_network=networks is not None or isinstance(sparsity, dict))
    way = rng.choice(list(WAYS))
    free = algorithm == "ARS" or settings["criterion"] in WITHOUT_GRADIENT
    use_sde = algorithm in STATE_DEPENDENT_NOISE and actions == "box" and rng.random() < 0.4
    extras = (*EXTRAS[algorithm], *(NOISY if use_sde else ()))
    return Combination(
        seed=seed,
        attempt=attempt,
        algorithm=algorithm,
        policy=policy,
        observations=observations,
        actions=actions,
        n_envs=rng.choice((1, 1, 2, 3)),
        normalize=observations != "number" and rng.random() < 0.3,
        own_extractor=own_extractor,
        share=share,
        net_arch=_net_arch(rng, algorithm),
        activation=rng.choice(ACTIVATIONS),
        optimizer="default" if algorithm == "ARS" else rng.choice(OPTIMIZERS),
        use_sde=use_sde,
        n_critics=rng.choice((1, 2, 3, 4)) if algorithm in CONTINUOUS else 0,
        n_steps=3 if replay and policy != "MultiInput" and rng.random() < 0.25 else 1,
        lstm=rng.choice(("both", "shared", "actor")) if algorithm == "RecurrentPPO" else "",
        extra=rng.choice(extras) if rng.random() < 0.4 else {},
        way=way,
        batches=rng.choice(("samples", "mapping", *(["observations"] if free else []))) if way == "policy" else "",
        again=way != "policy" and rng.random() < 0.3,
        schedule="one_shot" if settings["compensation"] == "distill" else rng.choice(WAYS[way]),  # it is slow
        when=rng.choice(("lazy", "epi", 0.4, 20)) if way == "callback" else "",
        sparsity=sparsity,
        networks=networks,
        settings=settings,
    )


def _net_arch(rng: random.Random, algorithm: str) -> Any:
    def side() -> list[int]:
        widest = 8 if rng.random() < 0.06 else 64
        smallest = 1 if widest == 8 else 6
        return [rng.randint(smallest, widest) for _ in range(rng.choices(range(5), (1, 5, 8, 5, 3))[0])]

    if rng.random() < 0.08:
        return None
    if algorithm in (*Q_LEARNING, "ARS") or rng.random() < 0.2:
        return side()
    return {"pi": side(), "qf" if algorithm in CONTINUOUS else "vf": side()}


def _sparsity(rng: random.Random, names: list[str]) -> tuple[float | dict[str, float], list[str] | None]:
    def share() -> float:
        low, high = rng.choices(((0.0, 0.0), (0.01, 0.5), (0.5, 0.9), (0.9, 0.99)), (1, 6, 10, 2))[0]
        return round(rng.uniform(low, high), 3)

    form = rng.choices(("number", "networks", "mapping"), (6, 1, 1))[0]
    if form == "mapping":
        return {name: share() for name in names}, None
    return share(), rng.sample(names, rng.randint(1, len(names))) if form == "networks" else None


def _settings(rng: random.Random, algorithm: str, by_network: bool) -> dict[str, Any]:
    gradient = algorithm != "ARS" or rng.random() < 0.1
    scopes = ("network", "layer") if by_network and rng.random() < 0.9 else ("network", "layer", "global")
    return {
        "criterion": rng.choice((*WITH_GRADIENT, *WITHOUT_GRADIENT) if gradient else WITHOUT_GRADIENT),
        "scope": rng.choice(scopes),
        "budget": rng.choice(("params", "params", "flops", "units")),
        "compensation": rng.choices(("none", "bias", "least_squares", "distill"), (6, 5, 12, 1))[0],
        "min_units": rng.choices((1, 0.5, 2, 3, 4), (9, 3, 2, 1, 1))[0],
    }
