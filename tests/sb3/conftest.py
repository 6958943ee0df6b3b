import pytest

from tests.zoo.agents import AGENTS, TYPICAL


@pytest.fixture(params=TYPICAL)
def make_agent(request):
    """A function that builds one kind of agent, for every algorithm that has a gradient."""
    return AGENTS[request.param]


@pytest.fixture(params=["ppo_discrete", "sac"])
def make_plain(request):
    """A function that builds a PPO or SAC agent with nothing special."""
    return AGENTS[request.param]
