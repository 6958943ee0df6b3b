"""Random combinations of agent and pruning, each built, trained, cut and checked: what one seed draws is always the same."""

from lab.fuzzing.drawing import Combination, draw
from lab.fuzzing.trial import Outcome, run

__all__ = ["Combination", "Outcome", "draw", "run"]
