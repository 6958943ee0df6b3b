"""All recipes by name: every row is a choice in each of the eight parts. ``RECIPES[name] = Recipe(...)`` adds one."""

from typing import Any

from rl_crop.core.errors import PruningError
from rl_crop.core.recipes.recipe import Recipe

CROP = "Rachwan et al., Winning the Lottery Ahead of Time, ICML 2022"
OWN = "rl_crop's own"
RETHINKING = "Rethinking Sparse Optimization, 2023"
NOISY = "a mini-batch gradient of RL is mostly noise: average many batches"
LAZY = "a step of 1 - sparsity is one that every actor takes at once, so that `earliest` decides: give when='lazy' instead"
AT_0 = "at the start there is no data: on-policy the first rollout decides, off-policy the replay at learning_starts"
MASKED = "nothing runs faster; masks change at rollouts, at least 250 (on-policy) or 1000 (off-policy) optimizer steps apart"
EPI = "the thresholds were set on images"
PHASES = "nothing runs faster; phases begin at rollouts"
ROUNDS = "every round is a whole training run: run_recipe with a task, no callback"
TRAINED = "there is no trained net to start from: the run's first part, until `when`, trains one"
WHAT_NOT = "What to prune and what not to prune at initialization, 2022"
IN_PLACE = "nothing"


def _units(criterion: str, **parts: Any) -> Recipe:
    return Recipe(criterion, structured=True, **parts)


def _weights(criterion: str, **parts: Any) -> Recipe:
    return Recipe(criterion, structured=False, **{"strategy": "zero", **parts})


def _dynamic(regrow: str, **parts: Any) -> Recipe:
    """Sparse from the start; a share of the least weights moves."""
    dynamic = {"until": 0.75, **parts}
    return _weights("magnitude", scope="erk", schedule="constant", strategy="revive", regrow=regrow, **dynamic)


def _growing(**options: Any) -> Recipe:
    return _units(
        "filter_l1", scope="layer", schedule="constant", when=0.5, until=0.9, strategy="growing_l2",
        options={"every": 5, **options}, source="Wang et al., Growing Regularization, ICLR 2021", in_rl=TRAINED,
    )  # fmt: skip


RECIPES: dict[str, Recipe] = {
    # EarlyCroP and what is like it
    "earlycrop_s": _units(
        "crop_gate", when="distance", source=CROP, in_rl=f"{LAZY}; in first trials with PPO criterion='crop' did better"
    ),
    "earlycrop_s_released": _units("crop_gate", when="distance_released", source=f"{CROP}, released code", in_rl=LAZY),
    "earlycrop_u": _weights("crop", when="distance", inner="halving", source=CROP, in_rl=f"{LAZY}; {MASKED}"),
    "crop_s": _units("crop", source=CROP, in_rl=AT_0),
    "crop_it_s": _units("crop", inner="halving", source=CROP, in_rl=AT_0),
    "crop_u": _weights("crop", source=CROP, in_rl=AT_0),
    "crop_it_u": _weights("crop", inner="halving", source=CROP, in_rl=AT_0),
    "span_crop": _units("span_crop", when="distance", compensation="least_squares", source=OWN, in_rl=LAZY),
    "span_gradual": _units(
        "span", schedule="gradual", when=0.05, until=0.3, compensation="least_squares", source=OWN, in_rl=IN_PLACE
    ),
    # at initialisation
    "snip": _weights("snip", source="Lee et al., SNIP, ICLR 2019", in_rl=f"{AT_0}; {NOISY}"),
    "snip_it": _weights("snip", inner="halving", source="Verdenius et al., SNIP-it, 2020", in_rl=f"{AT_0}; {NOISY}"),
    "snap": _units("snap", source="Verdenius et al., SNAP, 2020", in_rl=f"{AT_0}; {NOISY}"),
    "snap_it": _units("snap", inner="halving", source="Verdenius et al., SNAP-it, 2020", in_rl=f"{AT_0}; {NOISY}"),
    "grasp": _weights("grasp", source="Wang et al., GraSP, ICLR 2020 (its own sign)", in_rl=f"{AT_0}; {NOISY}"),
    "synflow": _weights(
        "synflow", inner="exponential", options={"n_steps": 100}, source="Tanaka et al., SynFlow, NeurIPS 2020",
        in_rl="nothing: it needs no data",
    ),
    "force": _weights(
        "force", inner="exponential", strategy="revive", options={"n_steps": 20}, source="de Jorge et al., FORCE, ICLR 2021",
        in_rl=f"{AT_0}; {NOISY}",
    ),
    "random_uniform": _weights("random", scope="layer", source="Liu et al., Random Pruning, ICLR 2022", in_rl=IN_PLACE),
    "random_er": _weights("random", scope="er", source="Liu et al., Random Pruning, ICLR 2022", in_rl=IN_PLACE),
    "random_erk": _weights("random", scope="erk", source="Liu et al., Random Pruning, ICLR 2022", in_rl=IN_PLACE),
    "random_ratios": _weights(
        "crop", options={"shuffle": True}, source="Su et al., Sanity-Checking Pruning, NeurIPS 2020", in_rl=AT_0
    ),
    "random_units": _units("random", source="the control of every criterion", in_rl=IN_PLACE),
    "random_candidates": _weights(
        "random", scope="erk", driver="population", source=WHAT_NOT,
        in_rl="judged by return, which is noisier than accuracy; candidates cost a trial run each",
    ),
    "relative_change": _weights(
        "relative_change", scope="erk", when=0.1, source=WHAT_NOT, in_rl="off-policy nothing has moved before learning_starts"
    ),
    # while training
    "gmp": _weights("magnitude", schedule="cubic", when=0.2, until=0.8, source="Zhu and Gupta, GMP, 2017", in_rl=MASKED),
    "granet": _weights(
        "magnitude", schedule="cubic", regrow="gradient",
        options={"start": 0.5, "reached": 0.5, "start_scope": "erk", "share": 0.5, "share_end": 0.005},
        source="Liu et al., GraNet, NeurIPS 2021", in_rl=MASKED,
    ),
    "set": _dynamic("random", until=1.0, options={"share_end": 0.3}, source="Mocanu et al., SET, 2018", in_rl=MASKED),
    "rigl": _dynamic("gradient", source="Evci et al., RigL, ICML 2020", in_rl=MASKED),
    "rigl_pp": _dynamic(
        "gradient", source=RETHINKING, in_rl=f"{MASKED}; longer runs, label smoothing and averaging are the trainer's"
    ),
    "acdc": _weights(
        "magnitude", schedule="alternating", when=0.1, until=0.8, strategy="revive",
        source="Peste et al., AC/DC, NeurIPS 2021", in_rl=PHASES,
    ),
    "acdc_pp": _weights(
        "magnitude", scope="layer", schedule="alternating", when=0.1, until=0.8, strategy="revive", source=RETHINKING,
        in_rl=f"{PHASES}; longer runs, label smoothing and averaging are the trainer's",
    ),
    "iss_p": _weights(
        "magnitude", scope="layer", schedule="constant", until=0.8, strategy="shrink",
        source="Bai et al., Iterative Soft Shrinkage, ICCV 2023",
        in_rl="under Adam the shrinking is coupled to the learning rate, as in any task",
    ),
    "pat_magnitude": _units(
        "unit_norm", when="epi", source="Shen et al., When to Prune?, CVPR 2022", in_rl=EPI
    ),
    "pat_taylor": _units(
        "taylor", when="epi", options={"threshold": 0.944}, source="Shen et al., When to Prune?, CVPR 2022",
        in_rl=f"{EPI}; {NOISY}",
    ),
    "greg_1": _growing(),
    "greg_2": _growing(equal=0.2),
    "bridgeout": _units(
        "filter_l2", scope="layer", when=0.5, perturbation="bridgeout", source="Khan and Stavness, Batch Bridgeout, 2020",
        in_rl="the noise is off while data is collected, and old log-probabilities are without it",
    ),
    "efficient_convnets": _units(
        "filter_l1", scope="layer", when=0.5, source="Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017",
        in_rl=TRAINED,
    ),
    # outer loops
    "ltr": _weights(
        "magnitude", driver="rounds", options={"rewind": 0.05}, source="Frankle et al., Linear Mode Connectivity, ICML 2020",
        in_rl=ROUNDS,
    ),
    "imp": _weights("magnitude", driver="rounds", source="Frankle and Carbin, Lottery Ticket, ICLR 2019", in_rl=ROUNDS),
    "early_exits": _weights(
        "magnitude", scope="layer", when=0.4, driver="phases", source="Pruning early-exit networks, 2022",
        in_rl=f"an agent has no exits: its networks are the groups; {TRAINED}",
    ),
    "gbn": _units(
        "gates", when=0.4, driver="tick_tock", perturbation="gate_l1", source="You et al., Gate Decorators, NeurIPS 2019",
        in_rl=TRAINED,
    ),
    "stamp": _units(
        "encoder", when=0.2, driver="meta", source="Song et al., Set-based Task-Adaptive Meta Pruning, 2020",
        in_rl="tasks would be variants of one environment; here they are batches",
    ),
    "hydra": _weights(
        "learned", scope="layer", when=0.4, driver="learned_scores", source="Sehwag et al., HYDRA, NeurIPS 2020",
        in_rl=TRAINED,
    ),
}  # fmt: skip
"""Recipes by name."""


def resolve_recipe(recipe: Recipe | str) -> Recipe:
    """
    :param recipe: a recipe, or a name.
    :return: the recipe.
    :raises PruningError: there is none of this name.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise PruningError(f"Unknown recipe {recipe!r}: use one of {sorted(RECIPES)}, or a Recipe.")
    return RECIPES[recipe]


def recipe_tables() -> str:
    """:return: all recipes as two Markdown tables: what each is made of; where it comes from, and what is off in RL."""
    columns = ["recipe", "criterion", "what, among", "schedule (inner)", "when, until", "strategy", "regrow", "other"]
    parts, notes = [columns, ["---"] * len(columns)], [["recipe", "source", "what is off in RL"], ["---"] * 3]
    for name, recipe in RECIPES.items():
        inner = "" if recipe.inner == "none" else f" ({recipe.inner})"
        until = "" if recipe.schedule == "once" else f", {recipe.until}"
        known = {"driver": "single", "perturbation": "none", "compensation": "none"}
        other = [f"{part} {getattr(recipe, part)}" for part, usual in known.items() if getattr(recipe, part) != usual]
        other += [f"{option} {value}" for option, value in recipe.options.items()]
        kind = "units" if recipe.structured else "weights"
        regrow = "" if recipe.regrow == "none" else recipe.regrow
        parts.append(
            [f"`{name}`", str(recipe.criterion), f"{kind}, {recipe.scope}", recipe.schedule + inner, f"{recipe.when}{until}",
             str(recipe.strategy), regrow, ", ".join(other)]
        )  # fmt: skip
        notes.append([f"`{name}`", recipe.source, recipe.in_rl])
    tables = ["\n".join("| " + " | ".join(row) + " |" for row in table) for table in (parts, notes)]
    return "\n\n".join(tables)
