"""What reads command lines and files of scripts; where it is missing, an error names the extra that brings it."""

from rl_crop.optional import require

for module in ("tyro", "yaml", "tqdm"):
    require(module, "scripts")

import tyro as tyro
import yaml as yaml
from tqdm import tqdm as tqdm
