import functools

import pytest


@pytest.fixture(autouse=True, scope="session")
def operators_once():
    """The exporter parses the source of every operator it knows, each time: half of what a small network costs."""
    from torch.onnx._internal.exporter import _registration

    registry = _registration.ONNXRegistry
    kept = registry.__dict__["from_torchlib"]
    registry.from_torchlib = staticmethod(functools.cache(registry.from_torchlib))
    yield
    registry.from_torchlib = kept
