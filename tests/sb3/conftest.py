import pytest
import torch as th

from tests.sb3.agents import AGENTS


@pytest.fixture(autouse=True)
def one_thread():
    th.set_num_threads(1)


@pytest.fixture(params=AGENTS)
def make_agent(request):
    """A function that builds one kind of agent, for every kind."""
    return AGENTS[request.param]


@pytest.fixture(params=["ppo_discrete", "sac"])
def make_plain(request):
    """A function that builds a PPO or SAC agent with nothing special."""
    return AGENTS[request.param]
