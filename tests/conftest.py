import re

import pytest
import torch as th

EXTRAS = {
    "atari": ("ale_py", "cv2"), "contrib": ("sb3_contrib",), "export": ("onnx", "onnxruntime", "onnxscript"),
    "zoo": ("rl_zoo3",), "scripts": ("tyro", "yaml", "tqdm", "matplotlib", "pandas"), "supervised": ("sklearn", "PIL"),
    "benchmark": ("torch_pruning",), "ray": ("ray",),
}  # fmt: skip
"""By extra, the modules that it brings and that tests import."""


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """A file of tests that needs an extra which is not installed is skipped, and says which."""
    report = yield
    missing = re.search(r"No module named '(\w+)", str(report.longrepr)) if report.failed else None
    for extra, modules in EXTRAS.items():
        if missing and missing[1] in modules:
            report.outcome, report.longrepr = "skipped", (str(collector.path), 0, f"Skipped: it needs the extra {extra!r}")
    return report


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
