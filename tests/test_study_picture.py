"""The script behind the picture of docs/study.md, without the browser."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import matplotlib as mpl
import pytest
import torch
from PIL import Image
from torch import nn

from veridical.manifold import orthonormal_rows
from veridical.study import read_study

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script():
    spec = spec_from_file_location("study_picture", ROOT / "scripts" / "study_picture.py")
    module = module_from_spec(spec)
    before, backend = list(sys.path), mpl.get_backend()
    spec.loader.exec_module(module)
    sys.path[:] = before
    mpl.use(backend)
    return module


def test_pictures_stand_beside_each_other(script):
    pictures = [Image.new("RGB", (10, 30), "white"), Image.new("RGB", (20, 12), "red")]
    found = script.beside(pictures, gap=4)
    assert found.size == (4 + 10 + 4 + 20 + 4, 38)
    shown = [found.getpixel(place) for place in ((4, 4), (18, 15), (37, 4), (18, 16))]
    assert shown == [(255, 255, 255), (255, 0, 0), (255, 0, 0), (153, 153, 153)]


def test_the_study_has_three_tasks_of_the_same_length(script, tmp_path):
    source = torch.Generator().manual_seed(0)
    images = torch.rand(40, 1, 6, 6, generator=source)
    rows = torch.randn(40, 3, 36, generator=source, dtype=torch.float64)
    basis = orthonormal_rows(rows, 1e-12)[0].unflatten(2, (1, 6, 6))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).eval()
    labels = model(images).argmax(1)
    study = read_study(script.study(tmp_path, images, labels, basis, model))
    assert [task.name for task in study.tasks] == ["parts", "fractions", "object"]
    assert all(len(task.pairs) >= script.QUESTIONS == task.questions for task in study.tasks)
