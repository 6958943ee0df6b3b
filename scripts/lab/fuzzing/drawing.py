"""What hypothesis draws: an algorithm with all of its options, and a way of pruning it, as plain values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

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
OBSERVATIONS = {"Mlp": ("vector", "number"), "Cnn": ("image",), "MultiInput": ("mixed", "vectors")}
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
    An agent and a way of pruning it; plain values, which can be copied from a report of hypothesis.

    :param seed: of the agent and its environment.
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
    :param extra: one of :data:`EXTRAS` or :data:`NOISY`, or nothing.
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


class _Dice:
    """
    What a combination is drawn with. What stands first, or is no exception, is what failures are shrunk to; and what has no
    choice is drawn too, so that what follows stays as it is when hypothesis tries something simpler.

    :param draw: of hypothesis.
    """

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw

    def one_of(self, options: Sequence[Any], weights: Sequence[int] | None = None) -> Any:
        """:return: one of them, drawn by weight."""
        repeated = [option for option, n in zip(options, weights or [1] * len(options)) for _ in range(n)]
        return repeated[self.draw(st.integers(0, len(repeated) - 1))]

    def at_times(self, percent: int) -> bool:
        """:return: whether an exception is made."""
        return self.draw(st.integers(0, 99)) >= 100 - percent

    def number(self, low: int, high: int) -> int:
        """:return: an integer, high included."""
        return self.draw(st.integers(low, high))


@st.composite
def combinations(draw: st.DrawFn, algorithm: str | None = None) -> Combination:
    """
    :param algorithm: one of :data:`ALGORITHMS`; any by default.
    :return: a strategy of hypothesis.
    """
    dice = _Dice(draw)
    algorithm = algorithm or dice.one_of(ALGORITHMS)
    policy = dice.one_of(("Mlp",) if algorithm in ("ARS", "CrossQ") else ("Mlp", "Cnn", "MultiInput"), (5, 3, 3))
    observations, actions = dice.one_of(OBSERVATIONS[policy]), dice.one_of(ACTIONS[algorithm])
    own_extractor = dice.at_times(30) and algorithm != "ARS"
    share = dice.one_of((None,) if algorithm in (*Q_LEARNING, "ARS") else (None, True, False))
    shared = algorithm in ON_POLICY if share is None else share
    names = ["critic"] if algorithm in Q_LEARNING else ["actor"] if algorithm == "ARS" else ["actor", "critic"]
    if shared and (own_extractor or observations in ("image", "mixed")):
        names.append("features")
    replay = algorithm in (*CONTINUOUS, *Q_LEARNING)
    sparsity, networks = _sparsity(dice, names)
    settings = _settings(dice, algorithm, by_network=networks is not None or isinstance(sparsity, dict))
    way = dice.one_of(list(WAYS))
    free = algorithm == "ARS" or settings["criterion"] in WITHOUT_GRADIENT
    batches = ("samples", "mapping", "observations") if free else ("samples", "mapping")
    use_sde = dice.at_times(40) and algorithm in STATE_DEPENDENT_NOISE and actions == "box"
    extras = (*EXTRAS[algorithm], *(NOISY if use_sde else ()))
    return Combination(
        seed=dice.number(0, 999),
        algorithm=algorithm,
        policy=policy,
        observations=observations,
        actions=actions,
        n_envs=dice.one_of((1, 2, 3), (2, 1, 1)),
        normalize=dice.at_times(30) and observations != "number",
        own_extractor=own_extractor,
        share=share,
        net_arch=_net_arch(dice, algorithm),
        activation=dice.one_of(ACTIVATIONS),
        optimizer=dice.one_of(OPTIMIZERS if algorithm != "ARS" else ("default",)),
        use_sde=use_sde,
        n_critics=dice.number(1, 4) * (algorithm in CONTINUOUS),
        n_steps=3 if dice.at_times(25) and replay and policy != "MultiInput" else 1,
        lstm=dice.one_of(("both", "shared", "actor") if algorithm == "RecurrentPPO" else ("",)),
        extra=dice.one_of(extras) if dice.at_times(40) else {},
        way=way,
        batches=dice.one_of(batches if way == "policy" else ("",)),
        again=dice.at_times(30) and way != "policy",
        schedule=dice.one_of(WAYS[way] if settings["compensation"] != "distill" else ("one_shot",)),  # it is slow
        when=dice.one_of((20, 0.4, "lazy", "epi") if way == "callback" else ("",)),
        sparsity=sparsity,
        networks=networks,
        settings=settings,
    )


def _net_arch(dice: _Dice, algorithm: str) -> Any:
    def side() -> list[int]:
        low, high = (1, 8) if dice.at_times(6) else (6, 64)
        return [dice.number(low, high) for _ in range(dice.one_of((1, 0, 2, 3, 4), (5, 1, 8, 5, 3)))]

    if dice.at_times(8):
        return None
    if algorithm in (*Q_LEARNING, "ARS") or dice.at_times(20):
        return side()
    return {"pi": side(), "qf" if algorithm in CONTINUOUS else "vf": side()}


def _sparsity(dice: _Dice, names: list[str]) -> tuple[float | dict[str, float], list[str] | None]:
    def share() -> float:
        return dice.number(*dice.one_of(((500, 900), (10, 500), (900, 990), (0, 0)), (10, 6, 2, 1))) / 1000

    form = dice.one_of(("number", "networks", "mapping"), (6, 1, 1))
    if form == "mapping":
        return {name: share() for name in names}, None
    subset = st.lists(st.sampled_from(names), min_size=1, max_size=len(names), unique=True)
    return share(), dice.draw(subset) if form == "networks" else None


def _settings(dice: _Dice, algorithm: str, by_network: bool) -> dict[str, Any]:
    gradient = dice.at_times(10) or algorithm != "ARS"
    scopes = ("network", "layer", "global") if dice.at_times(10) or not by_network else ("network", "layer")
    return {
        "criterion": dice.one_of((*WITHOUT_GRADIENT, *(WITH_GRADIENT if gradient else ()))),
        "scope": dice.one_of(scopes),
        "budget": dice.one_of(("params", "flops", "units"), (2, 1, 1)),
        "compensation": dice.one_of(("none", "bias", "least_squares", "distill"), (6, 5, 12, 1)),
        "min_units": dice.one_of((1, 0.5, 2, 3, 4), (9, 3, 2, 1, 1)),
    }
