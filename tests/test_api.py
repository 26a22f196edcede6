"""The public surface: names, and names of methods in the place of methods."""

import pytest
import torch

import veridical as vd
from networks import Residual, images, seeded

SURFACE = {
    "Patterns", "as_quantus", "audit", "beta_smooth", "cascading_randomization", "choose_beta",
    "class_difference", "compare_robustness", "cosine_convergence", "coverage", "curvature",
    "curvature_norm", "curvature_profile", "explain", "explain_several", "fit_patterns", "forge",
    "from_captum", "from_zennit", "geodesic", "infidelity", "load_model", "manipulate", "measure_alignment",
    "method",
    "methods", "pixel_flipping", "random_logit", "roar", "saliency", "sensitivity", "smoothgrad",
    "tangent_fraction", "tangent_space", "theorem1", "undo", "walk",
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
    assert vd.class_difference(model, x, "gradient", 0, 1).difference.shape == x.shape
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
    with pytest.raises(ValueError, match="memory_gib of at least"):
        vd.manipulate(model, x, target, steps=4, memory_gib=1e-9)
    within = vd.manipulate(model, x, target, steps=4, lr=1e-2, max_linf=0.005, keep="last")
    assert within.image_change.linf.tolist() == pytest.approx([0.005] * 2)


def test_attacks_are_undone_compared_and_forged_by_names_of_methods() -> None:
    model, x = seeded(Residual), images(2, 16)
    maps = vd.saliency(vd.explain(model, x.flip(0)))
    attack = vd.manipulate(model, x, maps, steps=2, lr=1e-2)
    undone = vd.undo(model, x, attack, method="gradient", betas=(10.0, 1.0), noises=())
    assert undone.beta.to_target.shape == (3, 2) and undone.noise.levels == (0.0,)
    methods = {"plain": "gradient", "smooth": vd.beta_smooth(vd.method("gradient"), 2.0)}
    told = []
    compared = vd.compare_robustness(model, x, maps, methods, steps=2, lr=1e-2, batch=1, callback=told.append)
    assert compared.settings == attack.settings and told[-1] == 1.0
    assert torch.allclose(compared.methods["plain"].outcome.saliency, attack.saliency, atol=1e-9)
    compared = vd.compare_robustness(model, x, maps, methods, within="plain", steps=2, lr=1e-2)
    plain, smooth = (compared.methods[name].outcome.image_change.l2 for name in methods)
    assert bool((smooth <= plain * (1 + 1e-9)).all())
    forged = vd.forge(model, x, maps, steps=2, lr=1e-2)
    assert forged.stored == () and forged.settings.every == 10
    choice = vd.choose_beta(model, x, multiples=(8.0, 64.0), draws=1, kept=0.0, agreement=-1.0)
    assert choice.method == "gradient" and len(choice.curve) == 2
    with pytest.raises(ValueError, match="did you mean gradient"):
        vd.undo(model, x, attack, method="gradients")
    with pytest.raises(TypeError, match="speed"):
        vd.choose_beta(model, x, speed=3)
