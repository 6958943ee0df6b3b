"""Random combinations of agent and pruning, each built, trained, cut and checked: what one seed draws is always the same."""

from rl_crop.evaluation.fuzz.drawing import Combination, draw
from rl_crop.evaluation.fuzz.trial import Outcome, run

__all__ = ["Combination", "Outcome", "draw", "run"]
