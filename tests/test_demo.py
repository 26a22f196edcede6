"""The claims of docs/demo.md on a real network and real photographs (golden: that page's run)."""

import pytest
import torch

import veridical as vd
from veridical.data import sample_photographs
from veridical.models import load_model

pytestmark = [pytest.mark.slow, pytest.mark.real_data]


@pytest.fixture(scope="module")
def demo():
    loaded = load_model("demo")
    images = torch.stack([loaded.preprocessing.apply(image) for image in sample_photographs().images])
    return loaded, images


@pytest.mark.parametrize(
    "name", ["lrp-zplus", "lrp-alpha1-beta0", "guided-backprop", "deconvnet", "deep-taylor"]
)
def test_converging_methods_ignore_the_class(demo, name: str) -> None:
    result = vd.random_logit(demo[0].module, demo[1], name, batch=4)
    assert result.similarity.median() > 0.98


@pytest.mark.parametrize("name", ["gradient", "gradient-x-input", "lrp-z"])
def test_other_methods_follow_the_class(demo, name: str) -> None:
    result = vd.random_logit(demo[0].module, demo[1], name, batch=4)
    assert result.similarity.max() < 0.8


def test_directions_converge_under_zplus_and_not_under_the_gradient(demo) -> None:
    model, images = demo[0].module, demo[1][:1]
    converged = vd.cosine_convergence(model, images, "lrp-zplus")
    plain = vd.cosine_convergence(model, images, "gradient")
    assert converged.one_minus_median[-2] < 1e-4
    assert 0.3 < plain.one_minus_median[-2] < 0.8


def test_lrp_z_is_gradient_times_input_up_to_the_clipped_activations(demo) -> None:
    """ReLU6 is not homogeneous: above 6 LRP hands relevance on where the gradient is 0."""
    model, images = demo[0].module, demo[1][:2]
    z, product = (vd.explain(model, images, method=name) for name in ("lrp-z", "gradient-x-input"))
    assert (z - product).norm() / product.norm() > 1e-3


def test_the_gradient_map_is_manipulated_and_the_class_stays(demo) -> None:
    loaded, images = demo
    bounds = tuple(side.flatten().tolist() for side in loaded.preprocessing.bounds())
    target = vd.saliency(vd.explain(loaded.module, images[1:2]))
    result = vd.manipulate(
        loaded.module, images[:1], target, steps=40, lr=5e-3, every=20, bounds=bounds, keep="last"
    )
    assert result.similarity.to_target.pcc > result.similarity.to_original.pcc + 0.2
    assert result.output_change.class_kept.all()
    assert 0 < result.image_change.linf < 0.15
