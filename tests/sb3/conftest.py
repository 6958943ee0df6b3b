import pytest

from tests.zoo.agents import AGENTS

TYPICAL = (
    "ppo_discrete", "ppo_sde", "ppo_uneven", "ppo_normalized", "ppo_images_separate", "a2c", "trpo", "maskable", "recurrent",
    "dqn", "qrdqn", "sac", "sac_sde", "sac_three_critics", "sac_images_shared", "td3", "ddpg", "tqc", "crossq",
)  # fmt: skip


@pytest.fixture(params=TYPICAL)
def make_agent(request):
    """A function that builds one kind of agent, for every algorithm that has a gradient."""
    return AGENTS[request.param]


@pytest.fixture(params=["ppo_discrete", "sac"])
def make_plain(request):
    """A function that builds a PPO or SAC agent with nothing special."""
    return AGENTS[request.param]
