"""Methods of this package in Quantus's metrics."""

import numpy as np
import pytest
import torch
from torch import nn

import veridical as vd
from adapters.states import fingerprint
from networks import Sequential, images, seeded
from veridical.adapters import QuantusFunction

CLASSES = np.array([1, 2, 0])


@pytest.fixture
def model() -> nn.Module:
    return seeded(Sequential, dtype=torch.float32)


@pytest.fixture
def pictures() -> np.ndarray:
    return images(3, dtype=torch.float32).numpy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("channels", ["sum", "keep"])
def test_arrays_in_arrays_out_in_the_precision_of_the_model(dtype, channels, pictures) -> None:
    model = seeded(Sequential, dtype=dtype)
    before = None if dtype is torch.bfloat16 else fingerprint(model)
    found = vd.as_quantus("gradient", channels)(model=model, inputs=pictures, targets=CLASSES)
    expected = vd.explain(model, torch.as_tensor(pictures).to(dtype), torch.as_tensor(CLASSES)).float()
    expected = expected.sum(1, keepdim=True) if channels == "sum" else expected
    assert isinstance(found, np.ndarray) and found.shape == (3, 1 if channels == "sum" else 3, 8, 8)
    assert found.dtype == (np.float64 if dtype is torch.float64 else np.float32)
    np.testing.assert_allclose(
        found, expected.numpy(), rtol=0.05 if dtype is torch.bfloat16 else 1e-6, atol=0.05
    )
    assert before is None or fingerprint(model) == before


def test_every_form_of_targets_and_inputs(model, pictures) -> None:
    explain = vd.as_quantus(vd.method("lrp-epsilon"))
    with torch.no_grad():
        array = explain(model, pictures, CLASSES)
    for inputs in (pictures, torch.as_tensor(pictures), pictures.astype(np.float64)):
        for targets in (CLASSES, CLASSES.tolist(), torch.as_tensor(CLASSES), CLASSES.astype(np.int32)):
            np.testing.assert_array_equal(explain(model, inputs, targets, device="cpu"), array)
    np.testing.assert_array_equal(explain(model, pictures, 1), explain(model, pictures, np.array([1, 1, 1])))


def test_wrong_arguments_are_named(model, pictures) -> None:
    with pytest.raises(ValueError, match="did you mean gradient"):
        vd.as_quantus("gradiant")
    with pytest.raises(ValueError, match="channels to be one of sum, keep"):
        vd.as_quantus("gradient", "mean")
    with pytest.raises(TypeError, match="can be called, got 3"):
        QuantusFunction(3)
    with pytest.raises(TypeError, match="only device in explain_func_kwargs, got method, xai_lib"):
        vd.as_quantus("gradient")(model, pictures, CLASSES, xai_lib="captum", method="Saliency")
    with pytest.raises(ValueError, match=r"relevance of shape \(3, 3, 8, 8\) from first"):
        vd.as_quantus(first)(model, pictures, CLASSES)
    with pytest.raises(ValueError, match=r"targets of shape \(3,\), got \(2,\)"):
        vd.as_quantus("gradient")(model, pictures, CLASSES[:2])
    assert vd.as_quantus("lrp-z").__name__ == "lrp-z" and vd.as_quantus("lrp-z") == vd.as_quantus("lrp-z")


def first(model, inputs, target):
    return inputs[:, :1]


@pytest.fixture
def quantus():
    return pytest.importorskip("quantus", reason="needs quantus (make peers)")


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("channels", ["sum", "keep"])
@pytest.mark.parametrize(
    ("metric", "options"),
    [
        ("FaithfulnessCorrelation", {"nr_runs": 4, "subset_size": 8}),
        ("PixelFlipping", {"features_in_step": 16}),
        ("RandomLogit", {"num_classes": 4}),
        ("MPRT", {}),
        ("Sparseness", {}),
        ("MaxSensitivity", {"nr_samples": 2}),
    ],
)
def test_metrics_of_quantus_take_it(metric, options, channels, model, pictures, quantus) -> None:
    """Also the metrics that explain again, on other images or on a randomized network."""
    before = fingerprint(model)
    measure = getattr(quantus, metric)(disable_warnings=True, display_progressbar=False, **options)
    np.random.seed(0)
    given = {"x_batch": pictures, "y_batch": CLASSES, "device": "cpu"}
    scores = measure(model=model, explain_func=vd.as_quantus("lrp-epsilon", channels), **given)
    assert len(scores) == {"MPRT": 5, "FaithfulnessCorrelation": 1}.get(metric, 3)
    # The scores are those of the same explanations as an array, where the metric explains once.
    if metric in ("FaithfulnessCorrelation", "PixelFlipping", "Sparseness"):
        found = vd.as_quantus("lrp-epsilon", channels)(model, pictures, CLASSES)
        again = getattr(quantus, metric)(disable_warnings=True, display_progressbar=False, **options)
        np.random.seed(0)
        np.testing.assert_array_equal(scores, again(model=model, a_batch=found, **given))
    assert fingerprint(model) == before


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_form_is_that_of_quantus_own_explanations(model, pictures, quantus) -> None:
    pytest.importorskip("captum.attr", reason="needs captum (make peers)")
    theirs = quantus.explain(model, pictures, CLASSES, method="InputXGradient", device="cpu")
    ours = vd.as_quantus("gradient-x-input")(model, pictures, CLASSES, device="cpu")
    assert theirs.shape == ours.shape and theirs.dtype == ours.dtype
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
