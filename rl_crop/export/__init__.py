"""Deployment: the actor of an agent as a file that runs without Stable-Baselines3."""

from rl_crop.export.export import export_actor
from rl_crop.export.report import ExportReport

__all__ = ["ExportReport", "export_actor"]
