"""The public surface: names, and names of methods in the place of methods."""

import pytest
import torch

import veridical as vd
from networks import Residual, images, seeded

SURFACE = {
    "Patterns", "as_quantus", "audit", "beta_smooth", "cascading_randomization", "cosine_convergence",
    "coverage", "explain", "explain_several", "fit_patterns", "from_captum", "from_zennit", "infidelity",
    "manipulate", "method", "methods", "pixel_flipping", "random_logit", "saliency", "sensitivity",
    "smoothgrad",
}  # fmt: skip


def test_every_public_name_is_there_and_documented() -> None:
    assert set(vd.__all__) == SURFACE <= set(dir(vd))
    assert all(getattr(vd, name).__doc__ for name in vd.__all__)
    with pytest.raises(AttributeError, match="no attribute 'explian'"):
        _ = vd.explian


def test_a_method_is_given_by_name_or_as_a_callable() -> None:
    model, x = seeded(Residual), images(2, 16)
    explain = vd.method("lrp-z")
    assert torch.equal(vd.explain(model, x, method="lrp-z"), explain(model, x))
    by_name = vd.cosine_convergence(model, x, "lrp-z")
    assert (by_name.median == vd.cosine_convergence(model, x, explain).median).all()
    assert vd.random_logit(model, x, "gradient").similarity.shape == (2,)
    assert vd.cascading_randomization(model, x, "gradient", steps=2).similarity.shape == (2, 2)
    assert vd.pixel_flipping(model, x, "gradient", steps=2).morf.probability.shape == (2, 3)
    assert vd.infidelity(model, x, "gradient", samples=2).values.shape == (2,)
    assert vd.sensitivity(model, x, "gradient", samples=2).values.shape == (2,)
    assert {row.treatment for row in vd.coverage(model, x, "lrp-z")} == {"gradient", "modified"}
    with pytest.raises(ValueError, match="did you mean lrp-z"):
        vd.random_logit(model, x, "lrpz")
    with pytest.raises(TypeError, match="a method's name or a callable, got int"):
        vd.random_logit(model, x, 3)


def test_several_methods_are_named_by_their_names_or_by_the_caller() -> None:
    model, x = seeded(Residual), images(2, 16)
    found = vd.explain_several(model, x, ["gradient", vd.method("lrp-z")], [1, None])
    assert list(found) == ["gradient", "lrp-z"] and found["lrp-z"].shape == (2, *x.shape)
    assert list(vd.explain_several(model, x, {"mine": "gradient"})) == ["mine"]
    with pytest.raises(ValueError, match="got 'lrp-z' twice; pass a dictionary"):
        vd.explain_several(model, x, ["lrp-z", vd.method("lrp-z")])


def test_manipulate_takes_a_name_and_settings() -> None:
    model, x = seeded(Residual), images(2, 16)
    target = vd.saliency(vd.explain(model, x.flip(0)))
    seen = []
    result = vd.manipulate(
        model, x, target, steps=4, lr=1e-2, every=2, callback=lambda step, loss: seen.append(step)
    )
    assert seen == [1, 2, 3, 4] and result.inputs.shape == x.shape
    with pytest.raises(TypeError, match="speed"):
        vd.manipulate(model, x, target, speed=3)
