import json
import math

import pytest
import torch
from torch import nn

import veridical as vd
from veridical.attacks import ManipulationSettings
from veridical.attacks.loss import needs_smoothing
from veridical.auditing import attack_settings, defended, forge
from veridical.auditing.watching import Watched
from veridical.values import explainer_name

BOUNDS = ((-2.0,) * 3, (2.0,) * 3)
SETTINGS = ManipulationSettings(
    steps=12, lr=0.02, factors=(1e6, 1e3), rescale=False, bounds=BOUNDS, every=4
)  # fmt: skip


def network():
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * 25, 4),
    ).double()  # fmt: skip
    for parameter in net.parameters():
        scale = 1 / math.sqrt(max(1, parameter[0].numel()))
        parameter.data = scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return net.eval()


def images(count=2):
    generator = torch.Generator().manual_seed(5)
    return torch.rand(count, 3, 10, 10, generator=generator, dtype=torch.float64) * 2 - 1


def goals(count=2):
    maps = torch.zeros(count, 10, 10, dtype=torch.float64)
    for index in range(count):
        maps[index, index : index + 5, 2:7] = 1.0
    return maps


def forged(settings=SETTINGS, explainer=None, maps=None, **options):
    return forge(
        network(), images(), goals() if maps is None else maps, explainer or vd.method("gradient"), settings,
        **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    "explainer",
    [
        vd.method("gradient"),
        vd.method("lrp-zplus"),
        vd.method("integrated-gradients", steps=3),
        vd.beta_smooth(vd.method("gradient"), 2.0),
        vd.smoothgrad(vd.method("gradient"), 2),
    ],
    ids=explainer_name,
)
def test_watching_an_attack_does_not_change_it(explainer):
    moments = []
    watched, alone = forged(explainer=explainer, progress=moments.append), forged(explainer=explainer)
    assert torch.equal(watched.attack.inputs, alone.attack.inputs)
    assert watched.figures() == alone.figures() and watched.figures(1) == alone.figures(1)
    assert [moment.step for moment in moments] == list(range(1, 13)) and moments[0].steps == 12
    assert all(math.isfinite(moment.pcc) for moment in moments)
    # After an evaluation the last map seen is that of the unmodified network.
    assert not moments[3].smoothed
    found = alone.attack.history[1].pcc.mean().item()
    assert moments[3].pcc == pytest.approx(found)


def test_a_watched_explainer_is_what_it_watches():
    for explainer in (vd.method("gradient"), vd.beta_smooth(vd.method("gradient")), vd.method("lrp-z")):
        watched = Watched(explainer, goals(), lambda sight: None)
        assert isinstance(watched, type(explainer)) and repr(watched) == repr(explainer)
        assert needs_smoothing(watched) == needs_smoothing(explainer)
        assert watched.name == explainer.name
        assert hasattr(watched, "with_logits") == hasattr(explainer, "with_logits")


def test_what_is_no_relevance_is_left_to_the_attack():
    seen = []
    watched = Watched(lambda model, inputs, target=None: inputs[:1], goals(), seen.append)
    assert watched(network(), images()).shape[0] == 1 and not seen
    with pytest.raises(TypeError, match="expected relevance as a torch tensor"):
        forged(explainer=lambda model, inputs, target=None: "no", progress=seen.append)


def test_figures_are_json_and_those_of_the_image():
    found = forged()
    for index in range(2):
        figures = found.figures(index, label="class {}".format)
        assert json.loads(json.dumps(figures, allow_nan=False)) == figures
        attack = found.attack
        assert figures["after"]["to_target"]["pcc"] == attack.similarity.to_target.pcc[index].item()
        assert figures["after"]["image"]["psnr"] == attack.image_change.psnr[index].item()
        label = f"class {int(attack.output_change.class_before[index])}"
        assert figures["after"]["output"]["label_before"] == label
        assert list(figures["stored"]) == ["png-16", "png-8", "jpeg-95", "jpeg-75"]
    compared = found.conventions()["compared"]
    assert compared["maps"]["values"] == "sum-1" and compared["images"]["data_range"] == 1.0


def test_an_attack_that_changes_nothing_has_no_psnr():
    settings = ManipulationSettings(
        steps=1, lr=1e-300, factors=(1.0, 1.0), rescale=False, bounds=BOUNDS, every=1
    )  # fmt: skip
    assert forged(settings).figures()["after"]["image"]["psnr"] is None


def test_without_bounds_nothing_is_stored():
    found = forged(ManipulationSettings(steps=2, lr=0.01, factors=(1e6, 1e3), rescale=False))
    assert found.stored == () and found.figures()["stored"] == {}
    with pytest.raises(ValueError, match="expected settings with bounds"):
        found.pictures()


def test_a_uniform_target_keeps_the_last_iterate():
    found = forged(maps=torch.ones(2, 10, 10, dtype=torch.float64))
    assert found.settings.keep == "last" and found.attack.step.tolist() == [12, 12]
    assert found.figures()["after"]["to_target"]["pcc"] is None
    similar = found.attack.similarity
    assert bool((similar.to_target.mse < similar.before.mse).all())
    assert forged().settings.keep == "best"


def test_target_maps_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="expected target_map of shape"):
        forged(maps=goals()[0])
    with pytest.raises(TypeError, match="expected target_map as a tensor"):
        forged(maps=[1.0])


def test_settings_of_an_attack():
    default = attack_settings(bounds=BOUNDS, steps=7, lr=0.5, seed=3)
    assert (default.steps, default.lr, default.lr_unit, default.seed) == (7, 0.5, "range", 3)
    assert default.bounds == BOUNDS and default.every == 10
    assert default.max_linf is None and default.max_l2 is None
    limited = attack_settings(max_linf=0.1, max_l2=2.0)
    assert (limited.max_linf, limited.max_l2) == (0.1, 2.0)
    narrow = attack_settings("table1-lrp", ((0.0,) * 3, (1.0,) * 3))
    assert narrow.lr == pytest.approx(2e-4 / 4.4285, rel=0.01) and narrow.steps == 1500
    assert attack_settings("table1-lrp").bounds is not None
    with pytest.raises(ValueError, match="did you mean table1-lrp"):
        attack_settings("table1-lrpp")


def test_a_method_is_defended():
    gradient = vd.method("gradient")
    assert defended(gradient) == gradient
    assert defended(gradient, beta=2.0) == vd.beta_smooth(gradient, 2.0)
    both = defended(gradient, beta=2.0, samples=3, seed=5)
    assert both == vd.smoothgrad(vd.beta_smooth(gradient, 2.0), 3, seed=5)
    assert defended(vd.method("smoothgrad"), seed=5) == vd.method("smoothgrad", seed=5)
    # A seed that is no number is a starting relevance.
    assert defended(vd.method("guided-backprop"), seed=5) == vd.method("guided-backprop")

    class Still:
        name, differentiable = "still", False

        def __call__(self, model, inputs, target=None):
            return inputs

    with pytest.raises(ValueError, match="expected a differentiable method, got still"):
        defended(Still())
    with pytest.raises(TypeError, match="got the class Still"):
        defended(Still)
