"""Options under which every part of the benchmark takes moments."""

import torch as th

from lab.performance.options import Options

CPU = th.device("cpu")
TINY = Options(
    rounds=1,
    steps=4,
    batch_size=16,
    data=64,
    widths=(8,),
    sparsities=(0.5,),
    cases=("crop+least_squares", "magnitude+none"),
    sac_env="Pendulum-v1",
    ppo_env="CartPole-v1",
    devices=("cpu",),
    compile_backend="eager",
)
