"""What can be chosen of a benchmark."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch as th

PartName = Literal["cost", "training", "runs", "acting", "memory", "growth", "update"]
AgentName = Literal["sac", "ppo"]
NetworkName = Literal["nature_cnn", "resnet18", "vgg16"]


@dataclass(frozen=True)
class Options:
    part: tuple[PartName, ...] = ("cost",)
    """What is measured: an event, training after it, whole runs (read from a study), acting, memory, growth, updates."""
    agents: tuple[AgentName, ...] = ("sac", "ppo")
    """Agents with two hidden layers."""
    networks: tuple[NetworkName, ...] = ()
    """Further networks whose pruning events are measured: PPO on images, and two for classifying images."""
    widths: tuple[int, ...] | None = None
    """Hidden widths; by default those that belong to the part."""
    sparsities: tuple[float, ...] | None = None
    """Of every network; by default those that belong to the part."""
    cases: tuple[str, ...] = (
        "crop+least_squares", "span_crop+least_squares", "span+least_squares", "magnitude+least_squares", "crop+none",
        "crop+distill",
    )  # fmt: skip
    """Events: criterion+compensation."""
    parameters: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
    """Sizes of the networks of the part growth."""
    rounds: int = 7
    """How often every arm is measured."""
    steps: int = 40
    """Gradient steps in a block; for PPO a multiple of the batches of its rollout (8)."""
    max_seconds: float = 600.0
    """After which a row makes do with the rounds it has, once there are three."""
    batch_size: int = 256
    """Transitions in a gradient step and in a scoring batch."""
    data: int = 2048
    """Transitions that an agent has before anything is measured: the rollout of PPO, random ones of SAC."""
    sac_env: str = "HalfCheetah-v5"
    """Environment of SAC."""
    ppo_env: str = "LunarLander-v3"
    """Environment of PPO."""
    devices: tuple[str, ...] | None = None
    """By default the CPU, and CUDA where there is one."""
    threads: int = 1
    """Threads of torch."""
    compile_backend: str = "inductor"
    """Of torch.compile in the part update."""
    study: Path = Path("docs/results/returns")
    """Results of a study, for the part runs."""
    out: Path | None = None
    """A JSON file, written after every row; rows that it holds are not measured again."""
    fresh: bool = False
    """Measure all rows anew."""

    def env_of(self, algo: str) -> str:
        """:return: the environment of an algorithm"""
        return self.sac_env if algo == "sac" else self.ppo_env

    @property
    def own_load(self) -> float:
        """How many processors this process keeps busy."""
        return float(self.threads)

    def torch_devices(self) -> list[th.device]:
        """:return: where everything is measured"""
        from lab.performance.machine import devices

        return [th.device(name) for name in (devices() if self.devices is None else self.devices)]
