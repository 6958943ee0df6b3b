"""A callback that watches a run and changes nothing in it."""

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from rl_crop.evaluation.networks import read_widths


class CutRecorder(BaseCallback):
    """
    Notes when networks were cut and how wide they were before and after. It looks at the networks themselves, so that what
    it says does not rest on the word of the pruner. It must stand behind the pruner in the list of callbacks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cuts: list[dict[str, Any]] = []
        self._widths: dict[str, list[int]] | list[int] = []
        self._n_events = 0

    def _on_training_start(self) -> None:
        if self._widths:  # a driver trains in several parts, and cuts between them
            return self._look()
        self._widths, self._n_events = read_widths(self.model), self._count_events()

    def _on_step(self) -> bool:
        self._look()
        return True

    def _on_rollout_start(self) -> None:
        self._look()

    def _on_training_end(self) -> None:
        self._look()

    def _look(self) -> None:
        widths, n_events = read_widths(self.model), self._count_events()
        if widths != self._widths or n_events != self._n_events:
            self.cuts.append({"timesteps": self.num_timesteps, "widths_before": self._widths, "widths_after": widths})
            self._widths, self._n_events = widths, n_events

    def _count_events(self) -> int:
        return len(getattr(self.model, "pruning_history", []))
