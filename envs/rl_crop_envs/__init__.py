"""Environments whose truth is known: importing this package registers them with gymnasium."""

import gymnasium as gym

from rl_crop_envs.linear_quadratic import LinearQuadratic
from rl_crop_envs.lqr import LQREnv
from rl_crop_envs.noise import NoiseDimensions
from rl_crop_envs.tracking import TrackingEnv

gym.register("rl_crop/LQR-v0", entry_point="rl_crop_envs.lqr:LQREnv")
gym.register("rl_crop/Tracking-v0", entry_point="rl_crop_envs.tracking:TrackingEnv", max_episode_steps=100)

__all__ = ["LQREnv", "LinearQuadratic", "NoiseDimensions", "TrackingEnv"]
