"""The figures of networks, on a tiny one: every figure is drawn, and known answers come out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from networks import Residual, Sequential, images, seeded
from veridical.reproduce import Given, Subject, Surface
from veridical.reproduce.attacked import FIGURE_3, Attacks
from veridical.reproduce.catalog import CATALOG
from veridical.reproduce.cosines import FIGURE_5, FIGURE_6, Composite, Cosines
from veridical.reproduce.flipping import FIGURE_7, Flipping
from veridical.reproduce.layer_ranks import FIGURE_3 as RANKS
from veridical.reproduce.robust import FIGURE_5 as ROBUST
from veridical.reproduce.robust import Robust
from veridical.reproduce.sanity import FIGURE_4 as SANITY
from veridical.reproduce.sanity import Sanity
from veridical.reproduce.softer import FIGURE_6 as SOFTER
from veridical.reproduce.softer import Softer
from veridical.reproduce.tangent import FIGURE_3 as TANGENT
from veridical.reproduce.two_classes import FIGURE_1
from veridical.reproduce.undoing import FIGURE_4, Undoing

SMALL = {
    "dombrowski2019-figure-3": (FIGURE_3, Attacks(("gradient",), 4)),
    "dombrowski2019-figure-4": (FIGURE_4, Undoing(4, (10.0, 0.8), (0.05, 0.1), samples=2)),
    "dombrowski2019-figure-5": (ROBUST, Robust(3, samples=2)),
    "dombrowski2019-figure-6": (SOFTER, Softer((1000.0, 1.0))),
    "dombrowski2019-figure-7": (FIGURE_7, Flipping(4, 2, samples=2)),
    "sixt2020-figure-1": (FIGURE_1, FIGURE_1.quick),
    "sixt2020-figure-3": (RANKS, RANKS.quick),
    "sixt2020-figure-4": (SANITY, Sanity(("lrp-zplus",), ("gradient",), 2)),
    "sixt2020-figure-5": (FIGURE_5, Cosines(("lrp-alpha1-beta0", "lrp-alpha2-beta1"), ("gradient",))),
    "sixt2020-figure-6": (FIGURE_6, Composite(2)),
}


def given_of(model, x, **more):
    network = Subject(model, x, ((-3.0,), (3.0,)), {"model": "tiny"}, tuple(map(str, range(len(x)))))
    return Given(network=replace(network, **more))


def computed(recipe, settings, given):
    """The outcome, and its claims by statement."""
    cells = {name: make(lambda share: None) for name, make in recipe.cells(given, settings).items()}
    outcome = recipe.result(given, settings, cells)
    assert outcome.figure.get_axes() and outcome.numbers and outcome.claims
    return outcome, {claim.statement: claim for claim in outcome.claims}


@pytest.fixture(scope="module")
def tiny():
    return given_of(seeded(Sequential, dtype=torch.float32), images(5, dtype=torch.float32).clamp(-3, 3))


def test_every_figure_of_a_network_is_tried_here():
    assert set(SMALL) == {name for name, entry in CATALOG.items() if entry.needs == "network"}


@pytest.mark.parametrize("name", SMALL)
def test_every_figure_comes_out(name, tiny):
    recipe, settings = SMALL[name]
    outcome, claims = computed(recipe, settings, tiny)
    assert len(claims) == len(outcome.claims), "two claims have the same words"
    assert all(claim.n for claim in outcome.claims)


def positive_chain():
    """1 x 1 convolutions of positive weights: any start becomes one direction."""
    layers = [nn.Conv2d(3, 6, 1, bias=False)]
    for _ in range(6):
        layers += [nn.ReLU(), nn.Conv2d(6, 6, 1, bias=False)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 4, bias=False)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.1)
    return model.eval()


def test_positive_weights_converge_whatever_the_method():
    given = given_of(positive_chain(), images(5, 4).abs())
    _, claims = computed(FIGURE_5, Cosines(("lrp-alpha1-beta0",), ("gradient",)), given)
    assert claims["lrp-alpha1-beta0 converges"].verdict == "holds"
    assert claims["gradient does not converge"].verdict == "does not hold"


def test_equal_classes_have_equal_maps():
    model = seeded(Sequential)
    last = model.classifier[-1]
    with torch.no_grad():
        last.weight.copy_(last.weight[:1].expand_as(last.weight))
        last.bias.copy_(torch.tensor([0.1, 0.0, -0.1, -0.2]))
    given = given_of(model, images(5))
    _, claims = computed(SANITY, Sanity(("lrp-z",), ("gradient",), 1), given)
    assert claims["gradient: the map of another class differs"].verdict == "does not hold"


def test_one_image_has_no_other_to_aim_at(tiny):
    alone = replace(tiny, network=replace(tiny.subject, inputs=tiny.subject.inputs[:1]))
    makes = FIGURE_4.cells(alone, FIGURE_4.quick)
    with pytest.raises(ValueError, match="expected two images or more, .* got 1; give more"):
        next(iter(makes.values()))(lambda share: None)


def test_flipping_takes_the_classes_of_the_data(tiny):
    labeled = replace(tiny, network=replace(tiny.subject, targets=torch.zeros(5, dtype=torch.long)))
    outcome, _ = computed(FIGURE_7, Flipping(2, 1, samples=2), labeled)
    assert any("class is that of the data" in note for note in outcome.notes)
    with torch.no_grad():
        right = (labeled.subject.model(labeled.subject.inputs).argmax(1) == 0).double().mean()
    assert outcome.numbers["gradient: right, mean curve"][0] == pytest.approx(float(right))


def test_maps_in_the_tangent_space(tiny):
    def decoder(z):
        return torch.sigmoid(z @ torch.linspace(-1, 1, 3 * 192).reshape(3, 192).to(z)).view(-1, 3, 8, 8)

    def latents(x):
        return x.flatten(1)[:, :3]

    given = replace(tiny, manifold=Surface((decoder, latents), "lines"))
    outcome, claims = computed(TANGENT, TANGENT.quick, given)
    assert len(claims) == 4 + 3 and all(claim.n == 5 for claim in claims.values())
    assert np.mean(outcome.numbers["random"]) < 0.2


def test_a_residual_network_has_its_figures_too():
    given = given_of(seeded(Residual, dtype=torch.float32), images(5, dtype=torch.float32))
    for name in ("sixt2020-figure-3", "sixt2020-figure-6"):
        computed(*SMALL[name], given)
