import pytest
import torch as th


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Sums are the same in every run, and tests side by side do not compete."""
    th.set_num_threads(1)
