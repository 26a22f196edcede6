"""Networks of timm, prepared as timm prepares them."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from veridical.models import load_model
from veridical.models.timm import read_data_config

CONFIG = {
    "input_size": (3, 96, 96),
    "interpolation": "bicubic",
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.3, 0.4),
    "crop_pct": 0.875,
    "crop_mode": "center",
}


@pytest.fixture
def timm(torchvision_models):
    return pytest.importorskip("timm", reason="needs timm (pip install timm)")


@pytest.mark.peer
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"crop_pct": 0.9, "interpolation": "bilinear"},
        {"crop_mode": "squash"},
        {"crop_mode": "squash", "input_size": (3, 64, 96), "crop_pct": 1.0},
    ],
)
def test_the_same_tensor_as_timms_transform(timm, changes):
    config = CONFIG | changes
    pixels = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((173, 121), Image.Resampling.BICUBIC)
    expected = timm.data.create_transform(**config, is_training=False)(image)
    torch.testing.assert_close(read_data_config(config, "timm").apply(image), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("changes", [{"crop_mode": "border"}, {"input_size": (3, 64, 96)}])
def test_other_ways_are_refused(changes):
    with pytest.raises(ValueError, match=r"cut to a square, got crop mode .* \(--preprocessing\)"):
        read_data_config(CONFIG | changes, "timm x")


@pytest.mark.peer
def test_a_network_with_weights_from_a_file(timm, tmp_path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.pt")
    loaded = load_model("timm:test_resnet.r160_in1k", tmp_path / "weights.pt")
    assert loaded.name == "test_resnet.r160_in1k" and timm.__version__ in loaded.source
    assert loaded.preprocessing.input_size == (160, 160) and loaded.preprocessing.source.startswith("timm ")
    assert loaded.label(340) == "zebra"
    assert loaded.module(torch.zeros(1, 3, 160, 160)).shape == (1, 1000)


@pytest.mark.peer
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet1800", "expected a network of timm, got 'resnet1800'; did you mean resnet"),
        ("resnet18.nobody", "expected weights of resnet18, got 'nobody'; there are .*a1_in1k"),
    ],
)
def test_wrong_names(timm, name, message):
    with pytest.raises(ValueError, match=message):
        load_model(f"timm:{name}")


@pytest.mark.peer
def test_a_failed_download(timm, monkeypatch):
    def fail(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(
        OSError, match=r"download the weights of resnet18, .*no route to host; download the file"
    ):
        load_model("timm:resnet18")


def test_missing_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="expected timm for a timm: model"):
        load_model("timm:resnet18")
