"""Infidelity and sensitivity in the audit: the figures of the functions, for images as they are stored."""

import pytest
import torch

from veridical.attributions import method as find_method
from veridical.auditing import PRESETS, audit
from veridical.auditing.perturbed import radii
from veridical.faithfulness import infidelity, sensitivity

QUICK = PRESETS["quick"]
BOUNDS = ((-2.0, -1.0, 0.0), (2.0, 1.0, 3.0))
BOTH = ["infidelity", "sensitivity"]


def by_image(report, method, statistic):
    rows = [one for one in report.scores if (one.method, one.statistic) == (method, statistic)]
    return torch.tensor([one.value for one in rows if one.image], dtype=torch.float64)


def test_infidelity_is_that_of_the_function_read_as_each_method_means_it(network, images):
    report = audit(network, images, methods=["gradient", "lrp-z"], tests=["infidelity"])
    target = network(images).argmax(1)
    for name, reading in (("gradient", "slope"), ("lrp-z", "contribution")):
        assert report.run.tests["infidelity"].settings[f"reading.{name}"] == reading
        alone = infidelity(
            network, images, find_method(name), target=target, perturbation="square", reading=reading,
            samples=QUICK.squares, shuffles=QUICK.shuffles, scaled=True,
        )  # fmt: skip
        torch.testing.assert_close(by_image(report, name, "explained"), alone.explained)
        torch.testing.assert_close(by_image(report, name, "infidelity"), alone.values)
        margin = by_image(report, name, "explained_margin")
        torch.testing.assert_close(margin, alone.explained - alone.chance)
        (row,) = [
            one for one in report.scores if (one.method, one.statistic) == (name, "median_explained_margin")
        ]
        assert row.value == pytest.approx(float(margin.median())) and row.n == 5
        assert row.ci_low <= row.value <= row.ci_high


def test_sensitivity_moves_each_channel_by_a_share_of_black_to_white(network, images):
    report = audit(network, images, methods=["gradient"], tests=["sensitivity"], bounds=BOUNDS)
    alone = sensitivity(
        network, images, find_method("gradient"), target=network(images).argmax(1),
        radius=(0.08, 0.04, 0.06), samples=QUICK.neighbors,
    )  # fmt: skip
    torch.testing.assert_close(by_image(report, "gradient", "sensitivity"), alone.values)
    torch.testing.assert_close(by_image(report, "gradient", "largest_distance"), alone.largest)


def test_a_channel_without_a_range_stays_as_it_is(network, images):
    bounds = ((-2.0, -1.0, 0.5), (2.0, 1.0, 0.5))
    report = audit(network, images, methods=["gradient"], tests=["sensitivity"], bounds=bounds)
    alone = sensitivity(
        network, images, find_method("gradient"), target=network(images).argmax(1),
        radius=(0.08, 0.04, 0.0), samples=QUICK.neighbors,
    )  # fmt: skip
    torch.testing.assert_close(by_image(report, "gradient", "sensitivity"), alone.values)


def test_without_bounds_the_range_of_the_image_counts(images):
    image = images[0]
    assert radii(image, 0.02, None) == pytest.approx(0.02 * float(image.max() - image.min()))
    assert radii(torch.full_like(image, 0.3), 0.02, None) == 0.02
    assert radii(image, 0.5, BOUNDS) == (2.0, 1.0, 1.5)


def test_both_are_advice_and_say_what_they_rest_on(network, images):
    def constant(model, inputs, target):
        return torch.ones_like(inputs)

    tests = ["random-logit", "cascading-randomization", *BOTH]
    methods = {"constant": constant, "gradient": find_method("gradient")}
    with_advice = audit(network, images, methods=methods, tests=tests)
    without = audit(network, images, methods=methods, tests=tests[:2])
    for name, verdict in with_advice.verdicts.items():
        assert verdict.verdict == without.verdicts[name].verdict
        assert verdict.reason == without.verdicts[name].reason
        evidence = {one.test: one for one in verdict.evidence}
        assert all("advisory" in evidence[test].note for test in BOTH)
        assert all("Yeh et al. 2019" in evidence[test].source for test in BOTH)
    constant_map = {one.test: one for one in with_advice.verdicts["constant"].evidence}
    assert constant_map["sensitivity"].value == 0 and constant_map["sensitivity"].passed is True
    # A map whose pixels are all alike is itself in any order.
    assert constant_map["infidelity"].value == 0 and constant_map["infidelity"].passed is False
