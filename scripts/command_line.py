"""What reads command lines and files of scripts; where it is missing, an error names the extra that brings it."""

import sys
from pathlib import Path

from rl_crop.optional import require

try:
    for module in ("tyro", "yaml", "tqdm"):
        require(module, "scripts")
except ImportError as error:
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script and Path(script).resolve().parent == Path(__file__).resolve().parent:  # it is run, not imported
        sys.exit(f"Error: {error}")
    raise

import tyro as tyro
import yaml as yaml
from tqdm import tqdm as tqdm
