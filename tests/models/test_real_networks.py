"""The demonstration network and third-party checkpoints on real data."""

import pytest
import torch

from networks_real import PUBLISHED, trained
from veridical.attributions import method, methods
from veridical.data import load_folder
from veridical.models import load_model, read_state_dict

pytestmark = pytest.mark.real_data


def test_demo_knows_photographs(data_folder):
    """888 of 1000 such photographs were classified correctly with this preprocessing; here are 156."""
    model = load_model("demo")
    images = load_folder(data_folder / "imagenet-sample")
    correct = 0
    with torch.no_grad():
        for name, image in zip(images.names, images.images, strict=True):
            logits = model.module(model.preprocessing.apply(image)[None])
            correct += int(logits.argmax()) == int(name[:4])
    # Three standard deviations below the measured share.
    assert correct / len(images) > 0.888 - 3 * (0.888 * 0.112 / len(images)) ** 0.5


def test_labels_belong_to_the_classes(data_folder):
    model = load_model("demo")
    names = [path.stem for path in (data_folder / "imagenet-sample").glob("*.jpg")]
    words = {name: name.split("_", 2)[2].replace("_", " ").lower() for name in names}
    wrong = {n: model.label(int(n[:4])) for n, w in words.items() if w not in model.label(int(n[:4])).lower()}
    assert not wrong


@pytest.mark.parametrize("name", ["resnet20_cifar10", "mnist_lenet5_clean", "mnist_lenet5_linf_adv"])
def test_checkpoints_of_others_can_be_read(data_folder, name):
    state = read_state_dict(data_folder / "models" / f"{name}.pt")
    assert all(torch.isfinite(value).all() for value in state.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_method_explains_the_published_networks(data_folder, name):
    model = trained(data_folder, name).double()
    shape = (2, 1, 28, 28) if "mnist" in name else (2, 3, 32, 32)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for chosen in methods():
        if not chosen.startswith("pattern"):  # those need patterns of the network
            options = {"steps": 4} if chosen == "integrated-gradients" else {}
            relevance = method(chosen, **options)(model, images)
            assert bool(relevance.isfinite().all()) and bool(relevance.flatten(1).any(1).all()), chosen
