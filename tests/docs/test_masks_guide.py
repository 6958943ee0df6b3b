"""The guide to masks runs as it is written."""

import re
from pathlib import Path

from rl_crop.core.masking.masks import attached_masks

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "masks.md").read_text(), flags=re.DOTALL)


def test_the_guide_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    first, saving, own = (block.replace("20_000", "4_096") for block in BLOCKS)
    exec(first, names)
    assert names["report"].sparsity["total"] >= 0.95 and not names["report"].structured
    held, dropped = saving.split("drop_masks(model)")
    exec(held, names)
    policy = names["model"].policy
    masks = attached_masks(dict(policy.named_parameters()))
    assert masks and all(not policy.get_parameter(name)[~mask].any() for name, mask in masks.items())
    exec(f"drop_masks(model){dropped}", names)
    assert attached_masks(dict(policy.named_parameters())) == {}
    exec(own, names)
    assert not names["net"].weight[~names["masks"].keep["weight"]].any()
