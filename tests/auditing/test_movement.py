"""How far the gradient map can be moved, as a test of the audit."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from veridical.auditing import PRESETS, audit
from veridical.auditing.movement import BETA, RADIUS, predict, radius_of, softplus_for
from veridical.geometry import predict_movement


@pytest.fixture
def smooth():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(400, 4)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 4)
    return model


def rows(report, statistic, summary=False):
    return [row for row in report.scores if row.statistic == statistic and (row.image == "") == summary]


def test_the_radius_is_the_rounding_error_of_a_file_with_8_bits():
    image = torch.zeros(3, 4, 5)
    gray = torch.rand(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 255
    rounding = float((gray - gray.round()).square().mean().sqrt())
    assert radius_of(image, ((0.0,) * 3, (255.0,) * 3)) == pytest.approx(rounding * math.sqrt(60), rel=1e-2)
    one = radius_of(image, ((0.0, -1.0, 2.0), (1.0, 2.0, 4.0)))
    assert one == pytest.approx(RADIUS * math.sqrt(20 * (1 + 9 + 4)))
    image[0, 0, 0], image[1, 0, 0] = -3.0, 1.0
    assert radius_of(image, None) == pytest.approx(4 * RADIUS * math.sqrt(60))


def test_it_is_measured_once_with_the_gradient(network, images):
    report = audit(network, images, methods=["gradient", "lrp-zplus"], tests=["curvature"])
    count = PRESETS["quick"].curved
    assert [row.image for row in rows(report, "largest_movement")] == [f"image {k}" for k in range(count)]
    assert {row.method for row in report.scores} == {"gradient"}
    (left,) = report.run.skipped
    assert (left.method, left.applies) == ("lrp-zplus", False) and "not of a method" in left.reason
    assert report.run.tests["curvature"].settings["softplus"] == BETA


def test_the_figures_are_those_of_predict_movement(network, images):
    bounds = ((-1.0,) * 3, (1.0,) * 3)
    report = audit(network, images, methods=["gradient"], tests=["curvature"], bounds=bounds)
    radius, products = radius_of(images[0], bounds), PRESETS["quick"].curvature_products
    with torch.no_grad():
        target = network(images).argmax(1)
    expected = predict_movement(
        network, images[:2], target[:2], beta=BETA, radius=radius, steps=products // 2,
        probes=products - products // 2, tolerance=0.01,
    )  # fmt: skip
    for statistic, column in (
        ("largest_movement", expected.largest),
        ("expected_movement", expected.expected),
        ("largest_curvature", expected.curvature.largest.abs()),
        ("typical_curvature", expected.norm.estimate / math.sqrt(431)),
    ):
        found = [row.value for row in rows(report, statistic)]
        assert found == pytest.approx(column.tolist(), rel=1e-6)
    low = [row.ci_low for row in rows(report, "expected_movement")]
    assert low == pytest.approx(expected.low.tolist(), rel=1e-6)
    assert [row.value for row in rows(report, "radius")] == [radius] * 2
    (median,) = rows(report, "median_largest_movement", summary=True)
    assert median.n == 2 and median.value == pytest.approx(expected.largest.mean().item(), rel=1e-6)


def test_the_prediction_grows_with_the_curvature(network, images):
    soft = predict(network, images[:1], torch.tensor([0]), 0.01, steps=20, probes=20)
    hard = predict_movement(network, images[:1], torch.tensor([0]), beta=0.5, radius=0.01)
    assert float(soft.largest) > float(hard.largest)


def test_a_smooth_network_is_taken_as_it_is(smooth, images):
    report = audit(smooth, images, methods=["gradient"], tests=["curvature"])
    assert softplus_for(smooth, images) is None
    assert report.run.tests["curvature"].settings["softplus"] is None
    assert len(rows(report, "largest_movement")) == 2


def test_a_piecewise_linear_network_without_relu_is_left_out_with_the_reason(images):
    model = nn.Sequential(nn.MaxPool2d(3), nn.Flatten(), nn.Linear(48, 4)).double().eval()
    report = audit(model, images, methods=["gradient"], tests=["random-logit", "curvature"])
    assert not rows(report, "largest_movement")
    (left,) = report.run.skipped
    assert left.test == "curvature" and "piecewise linear" in left.reason


def test_it_is_advisory_and_needs_five_images_to_say_anything(network, images, monkeypatch):
    report = audit(network, images, methods=["gradient"], tests=["curvature"])
    (evidence,) = report.verdicts["gradient"].evidence
    assert evidence.statistic == "median_expected_movement" and evidence.passed is None
    assert "advisory" in evidence.note and "needs 5 images, has 2" in evidence.note
    monkeypatch.setitem(PRESETS, "quick", replace(PRESETS["quick"], curved=5))
    report = audit(network, images / 100, methods=["gradient"], tests=["curvature"])
    (evidence,) = report.verdicts["gradient"].evidence
    assert evidence.n == 5 and evidence.passed is True


def test_more_products_bring_the_largest_curvature_nearer(network, images):
    few, many = (
        predict(network, images[:1], torch.tensor([0]), 0.01, steps=steps, probes=4) for steps in (2, 40)
    )
    exact = predict_movement(network, images[:1], torch.tensor([0]), beta=BETA, steps=200, tolerance=1e-9)
    largest = abs(float(exact.curvature.largest))
    gaps = [abs(abs(float(one.curvature.largest)) - largest) / largest for one in (few, many)]
    assert gaps[1] < 0.02 and gaps[1] <= gaps[0]
