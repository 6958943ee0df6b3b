import pytest
import torch as th


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    th.set_num_threads(1)
