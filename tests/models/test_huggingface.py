"""Image classifiers of transformers, from directories and offline."""

import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from veridical.checks import check_logits
from veridical.models import load_model
from veridical.models.huggingface import read_processor

SMALL = {
    "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip
PROCESSORS = {
    "ViTImageProcessorPil": {"size": {"height": 32, "width": 40}},
    "ConvNextImageProcessorPil": {"size": {"shortest_edge": 64}},
    "BitImageProcessorPil": {"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 48}},
    "LevitImageProcessorPil": {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}},
    "EfficientNetImageProcessorPil": {"size": {"height": 32, "width": 32}, "rescale_factor": 1 / 127.5,
                                      "rescale_offset": True},
    "MobileNetV2ImageProcessorPil": {"do_normalize": False},
    "DeiTImageProcessorPil": {"do_rescale": True, "rescale_factor": 1.0, "image_mean": [128.0] * 3,
                              "image_std": [64.0] * 3},
}  # fmt: skip


@pytest.fixture
def transformers(torchvision_models):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("transformers", reason="needs transformers (pip install transformers)")
        for name in ("ViTConfig", "ViTForImageClassification", "AutoModelForImageClassification"):
            getattr(module, name)  # loads what it stands for
        return module


def saved(transformers, folder, *, processor=True, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.ViTConfig(**SMALL, **options)
        model = transformers.ViTForImageClassification(config)
    model.save_pretrained(folder)
    if processor:
        transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return model.eval()


def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((150, 100), Image.Resampling.BICUBIC)


@pytest.mark.peer
@pytest.mark.parametrize(("name", "options"), PROCESSORS.items(), ids=list(PROCESSORS))
def test_images_are_prepared_as_the_processor_does(transformers, name, options):
    processor = getattr(transformers, name)(**options)
    ours = read_processor(processor, "test")
    expected = torch.as_tensor(np.asarray(processor(picture(), return_tensors="np")["pixel_values"])[0])
    made = ours.apply(picture())
    assert made.shape == expected.shape
    assert ((made - expected) * torch.tensor(ours.std)[:, None, None]).abs().mean() < 0.01


@pytest.mark.peer
def test_a_processor_that_does_something_else_is_refused(transformers):
    flips = transformers.MobileViTImageProcessorPil(crop_size={"height": 224, "width": 224})
    with pytest.raises(ValueError, match=r"got MobileViTImageProcessorPil of test, .* \(--preprocessing\)"):
        read_processor(flips, "test")


@pytest.mark.peer
def test_a_directory(transformers, tmp_path):
    names = {"id2label": {0: "cat", 1: "dog", 2: "tree"}, "label2id": {"cat": 0, "dog": 1, "tree": 2}}
    model = saved(transformers, tmp_path / "vit", **names)
    loaded = load_model(f"hf:{tmp_path / 'vit'}")
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(check_logits(loaded.module(images), 2), model(images).logits)
    assert (loaded.name, loaded.label(2), loaded.output) == ("vit", "tree", "classes")
    assert loaded.preprocessing.resize == (16, 16) and loaded.preprocessing.mean == (0.5,) * 3
    assert "ViTImageProcessor" in loaded.preprocessing.source and transformers.__version__ in loaded.source


@pytest.mark.peer
def test_without_a_processor_and_with_other_outputs(transformers, tmp_path):
    saved(transformers, tmp_path, processor=False, num_labels=4, problem_type="multi_label_classification")
    loaded = load_model(f"hf:{tmp_path}")
    assert loaded.output == "labels" and loaded.classes is None
    assert loaded.preprocessing.input_size == (16, 16)
    assert "has no preprocessor_config.json" in loaded.preprocessing.source


@pytest.mark.peer
def test_one_label_is_a_classifier_of_two_classes(transformers, tmp_path):
    model = saved(transformers, tmp_path, num_labels=1)
    loaded = load_model(f"hf:{tmp_path}")
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(
        check_logits(loaded.module(images), 2).softmax(1)[:, 1:], model(images).logits.sigmoid()
    )
    assert loaded.output == "binary"


@pytest.mark.peer
def test_weights_from_a_file(transformers, tmp_path):
    model = saved(transformers, tmp_path, num_labels=3)
    state = {name: value + 1 for name, value in model.state_dict().items()}
    torch.save(state, tmp_path / "weights.pt")
    loaded = load_model(f"hf:{tmp_path}", tmp_path / "weights.pt")
    torch.testing.assert_close(loaded.module.state_dict()["classifier.bias"], state["classifier.bias"])


@pytest.mark.peer
def test_what_is_no_classifier_is_refused(transformers, tmp_path):
    saved(transformers, tmp_path / "regression", num_labels=1, problem_type="regression")
    with pytest.raises(ValueError, match="which is for regression"):
        load_model(f"hf:{tmp_path / 'regression'}")
    transformers.BertConfig(hidden_size=12, num_attention_heads=2).save_pretrained(tmp_path / "text")
    with pytest.raises(ValueError, match="expected an image classifier, got .* of type BertConfig"):
        load_model(f"hf:{tmp_path / 'text'}")
    with pytest.raises(OSError, match=r"a repository or a directory of transformers, got '.*nothing'"):
        load_model(f"hf:{tmp_path / 'nothing'}")


@pytest.mark.peer
def test_a_backbone_without_its_head_is_refused(transformers, tmp_path):
    with torch.random.fork_rng():
        transformers.ViTModel(transformers.ViTConfig(**SMALL), add_pooling_layer=False).save_pretrained(
            tmp_path
        )
    with pytest.raises(ValueError, match="weights for every layer .* got none for classifier.bias"):
        load_model(f"hf:{tmp_path}")


def test_missing_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="expected transformers for an hf: model"):
        load_model("hf:a/b")
