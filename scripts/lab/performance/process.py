"""Jobs in processes of their own: JSON in by standard input, JSON out by the last line of standard output."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any


def run_job(module: str, job: Mapping[str, Any], **environment: str) -> subprocess.CompletedProcess[str]:
    """
    :param module: run as ``python -m``, on one thread, with the import path of this process
    :param job: JSON-ready
    :param environment: further variables
    :return: the ended process
    """
    paths = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(job), capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip


def result_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """:return: what a job that succeeded has written"""
    return json.loads(done.stdout.splitlines()[-1])
