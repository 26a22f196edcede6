"""The code of docs/explaining.md runs, block after block, on a tiny network."""

import re
from pathlib import Path

import pytest
import torch

from networks import Residual, images, seeded

PAGE = Path(__file__).parents[1] / "docs" / "explaining.md"


def test_the_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, x = seeded(Residual), images(2, 16)
    with torch.no_grad():
        classes = model(x).shape[1]
    names = {"model": model, "images": x, "torch": torch, "mean_image": x.mean(0), "loader": [(x, 0)]}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    for block in blocks:
        if "propagate" in block:  # the names of its layers are those of a ResNet
            continue
        exec(compile(block.replace("[3, 7, None]", f"[0, {classes - 1}, None]"), PAGE.name, "exec"), names)
    assert len(blocks) == 5
    assert names["found"]["lrp-z"].shape == (3, *x.shape)
    assert names["averaged"](model, x).shape == names["explain"](model, x).shape == x.shape
