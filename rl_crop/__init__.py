"""Early, structured network pruning for Stable-Baselines3 agents by gradient-flow preservation."""

from rl_crop.core.errors import PruningError
from rl_crop.core.prune import plan_pruning, prune_model
from rl_crop.core.pruning.plan import PruningPlan
from rl_crop.core.pruning.report import PruningReport
from rl_crop.core.recipes.drivers import run_recipe
from rl_crop.core.recipes.registry import RECIPES as recipes
from rl_crop.export import export_actor
from rl_crop.sb3.agent import plan_policy_pruning, prune_policy
from rl_crop.sb3.callback import PruningCallback

__version__ = "0.1.0"

__all__ = [
    "PruningCallback",
    "PruningError",
    "PruningPlan",
    "PruningReport",
    "export_actor",
    "plan_policy_pruning",
    "plan_pruning",
    "prune_model",
    "prune_policy",
    "recipes",
    "run_recipe",
]
