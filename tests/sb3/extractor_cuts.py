"""A cut of features extractors at chosen units, and what a test reads off them."""

import numpy as np
import torch as th

from rl_crop.core.graph.finding import find_units
from rl_crop.core.graph.groups import named_tensors
from rl_crop.core.pruning.optimizer_state import cut_optimizers
from rl_crop.core.pruning.surgery import Transaction, cut, update_sizes
from rl_crop.sb3.adapters import describe
from rl_crop.sb3.attributes import rewrite_sizes
from rl_crop.sb3.subject import algorithm_optimizers
from tests.zoo.agents import AGENTS

NAMES = (
    "ppo_images", "ppo_images_separate", "ppo_mixed", "ppo_own", "dqn_images", "dqn_own", "qrdqn_mixed", "sac_images",
    "sac_images_shared", "sac_own", "td3_images", "td3_own_shared",
)  # fmt: skip
"""Every way in which a policy holds its extractors."""


def make(name):
    """The agent of this name, with short rollouts and updates."""
    few = {"n_steps": 8, "n_epochs": 1} if name.startswith("ppo") else {"learning_starts": 12, "buffer_size": 50}
    if name == "sac_images_shared":
        few["use_sde"] = False  # exploration matrices cannot be copied
    return AGENTS[name](batch_size=8, **few)


def observe(model, n=5):
    """Some observations, as tensors."""
    space = model.observation_space
    space.seed(3)
    drawn = [space.sample() for _ in range(n)]
    stacked = {key: np.stack([one[key] for one in drawn]) for key in space} if isinstance(drawn[0], dict) else np.stack(drawn)
    return model.policy.obs_to_tensor(stacked)[0]


def networks(policy):
    """By network: a function of observations, the followed module and its target (``None`` where there is none)."""
    if hasattr(policy, "mlp_extractor"):

        def both(observations):
            features = policy.extract_features(observations)
            pi, vf = features if isinstance(features, tuple) else (features, features)
            mlp = policy.mlp_extractor
            return policy.action_net(mlp.forward_actor(pi)), policy.value_net(mlp.forward_critic(vf))

        return {"policy": (both, policy, None)}
    if not hasattr(policy, "actor"):
        name = "q_net" if hasattr(policy, "q_net") else "quantile_net"
        return {"critic": (getattr(policy, name), getattr(policy, name), getattr(policy, f"{name}_target"))}
    actor, critic = policy.actor, policy.critic

    def act(observations):
        return actor(observations) if hasattr(policy, "actor_target") else actor.get_action_dist_params(observations)[:2]

    def value(observations):
        n = len(next(iter(observations.values())) if isinstance(observations, dict) else observations)
        return critic(observations, th.linspace(-1, 1, n * 5).reshape(n, 5))

    return {"actor": (act, actor, getattr(policy, "actor_target", None)), "critic": (value, critic, policy.critic_target)}


def outputs(policy, observations):
    """What every trained network computes, in evaluation mode."""
    policy.set_training_mode(False)
    with th.no_grad():
        found = [function(observations) for function, _, _ in networks(policy).values()]
    return [x for out in found for x in (out if isinstance(out, (tuple, list)) else (out,))]


def extractors(policy):
    """In order of construction, each once."""
    if hasattr(policy, "mlp_extractor"):
        found = [policy.pi_features_extractor, policy.vf_features_extractor]
    elif hasattr(policy, "actor_target"):
        found = [policy.actor, policy.actor_target, policy.critic, policy.critic_target]
    elif hasattr(policy, "actor"):
        found = [policy.actor, policy.critic, policy.critic_target]
    else:
        found = [module for _, *modules in networks(policy).values() for module in modules]
    found = [getattr(module, "features_extractor", module) for module in found]
    return list({id(module): module for module in found}.values())


def trace(policy, observations):
    """The units of the extractors, and every trained tensor by name."""
    parts = networks(policy).values()
    targets = {id(tensor) for _, _, target in parts if target is not None for tensor in named_tensors(target).values()}
    tensors = {name: tensor for name, tensor in named_tensors(policy).items() if id(tensor) not in targets}
    graph = find_units(policy, tensors, [lambda run=run: run(observations) for run, _, _ in parts], 5)
    own = {id(tensor) for module in extractors(policy) for tensor in named_tensors(module).values()}
    return graph, {name: group for name, group in graph.groups.items() if id(tensors[group.tensors("out")[0]]) in own}, tensors


def choose(groups, whole=(), share=0.4, seed=0):
    """Kept units of every group but those whose name holds one of ``whole``; other numbers for actor and critic."""
    rng = np.random.default_rng(seed)
    kept = {}
    for name, group in groups.items():
        if not any(part in name for part in whole):
            n_kept = max(1, round(group.n_units * (1 - share)) - ("critic" in name or "vf_" in name))
            kept[name] = np.sort(rng.choice(group.n_units, n_kept, replace=False))
    return kept


def cut_extractors(model, whole=(), transaction=None, **choice):
    """Cut the extractors of an agent and describe them."""
    policy = model.policy
    graph, groups, tensors = trace(policy, observe(model))
    kept = choose(groups, whole, **choice)
    names = {id(tensor): name for name, tensor in tensors.items()}
    followers = [
        {names[id(tensor)]: named_tensors(target)[key] for key, tensor in named_tensors(followed).items()}
        for _, followed, target in networks(policy).values()
        if target is not None
    ]

    def everything(transaction):
        cuts, seen = {}, set()
        for copied in [tensors, *followers]:
            own = {name: tensor for name, tensor in copied.items() if id(tensor) not in seen}  # targets may share some
            seen |= {id(tensor) for tensor in own.values()}
            cuts |= cut(transaction, graph, own, kept)
        cut_optimizers(transaction, algorithm_optimizers(model), cuts)
        update_sizes(transaction, [policy], cuts)
        rewrite_sizes(transaction, policy, describe(policy), model)

    if transaction is not None:
        everything(transaction)
    else:
        with Transaction() as own:
            everything(own)
    return kept
