import pytest
import torch as th


@pytest.fixture(autouse=True)
def double_precision():
    """Oracles need float64; fixed seeds make every test repeat itself."""
    th.set_default_dtype(th.float64)
    th.manual_seed(0)
    yield
    th.set_default_dtype(th.float32)


@pytest.fixture(autouse=True)
def short_fits(monkeypatch):
    """Tests of the fit itself set their own number of steps."""
    monkeypatch.setattr("rl_crop.core.pruning.distillation.STEPS", 20)
