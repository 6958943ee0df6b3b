import pytest


@pytest.fixture(autouse=True)
def short_fits(double_precision, monkeypatch):
    """In double precision; tests of the fit itself set their own number of steps."""
    monkeypatch.setattr("rl_crop.core.pruning.distillation.STEPS", 20)
