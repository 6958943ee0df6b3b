import pytest
import torch as th


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Sums are the same in every run, and tests side by side do not compete."""
    th.set_num_threads(1)


@pytest.fixture
def double_precision():
    """Oracles need float64; fixed seeds make every test repeat itself."""
    th.set_default_dtype(th.float64)
    th.manual_seed(0)
    yield
    th.set_default_dtype(th.float32)
