"""What an audit stores of the cosine convergence is what the library finds, and says what is not resolved."""

import numpy as np
import pytest
import torch
from torch import nn

from networks import Attention, seeded
from veridical.attributions import method as find_method
from veridical.auditing import audit
from veridical.auditing.cosines import summaries
from veridical.auditing.pooling import Outcome, Pooled, joined
from veridical.faithfulness import cosine_convergence

TEST = "cosine-convergence"


def stored(report, method="gradient"):
    """Summaries by statistic and layer, in stored order."""
    found = {}
    for row in report.scores:
        if row.method == method and row.test == TEST and not row.image:
            found.setdefault(row.statistic, {})[row.layer] = row
    return found


def of_images(model, images, name, count=3):
    return [
        cosine_convergence(model, images[i : i + 1], find_method(name), first_index=i) for i in range(count)
    ]


@pytest.fixture
def report(network, images):
    return audit(network, images, methods=["gradient", "lrp-zplus"], tests=[TEST])


def test_percentiles_are_medians_over_the_images(report, network, images):
    for name in ("gradient", "lrp-zplus"):
        results, found = of_images(network, images, name), stored(report, name)
        for place, layer in enumerate(results[0].layers):
            for level in (0, 1, 5, 10, 20, 80, 95, 99, 100):
                values = [one.one_minus_percentiles[level][place] for one in results]
                row = found[f"one_minus_percentile_{level}_cosine"][layer]
                assert row.value == pytest.approx(np.median(values)) and row.n == 3
            median = found["one_minus_median_cosine"][layer].value
            near, far = (found[f"one_minus_percentile_{p}_cosine"][layer].value for p in (80, 20))
            assert near <= median <= far
            assert found["random_baseline"][layer].value == results[0].random_baseline[place]
            assert found["resolution"][layer].value == np.median([one.resolution[place] for one in results])


def test_the_histogram_counts_all_images_at_the_first_convolution(report, network, images):
    results, found = of_images(network, images, "gradient"), stored(report)["cosines"]
    settings = report.run.tests[TEST].settings
    assert settings["first_convolution"] == "0" == results[0].layers[-2]
    assert (settings["channels"], settings["precision"]) == (4, "float64")
    counts = sum(one.histogram("0").counts for one in results)
    assert [row.value for row in found.values()] == counts.tolist()
    assert list(found)[:2] == ["0.9999 to 1", "0.999 to 0.9999"] and list(found)[-1] == "0 to 0.1"
    # Ten pairs at each of 144 locations of three images, but for those without relevance.
    missing = stored(report)["nan_fraction"]["0"].value
    assert counts.sum() == pytest.approx(3 * 10 * 144 * (1 - missing))


def test_what_float32_cannot_resolve_is_stored(images):
    """One channel in the middle: behind it all directions are the same, and only rounding is left."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Conv2d(6, 1, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 5)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    single = stored(audit(model, images.float(), methods=["gradient"], tests=[TEST]))
    assert single["unresolved_fraction"]["4"].value == 0  # the start
    assert single["unresolved_fraction"]["0"].value == 1
    assert single["resolution"]["0"].value < 1e-12
    assert single["one_minus_median_cosine"]["0"].value < 1e-11


def test_a_layer_without_a_cosine_is_missing_and_not_unresolved(network, images):
    with torch.no_grad():
        network[2].bias.fill_(-1e4)
    found = stored(audit(network, images, methods=["gradient"], tests=[TEST]))
    assert found["nan_fraction"]["0"].value == 1 and found["unresolved_fraction"]["0"].value == 0
    assert np.isnan(found["one_minus_percentile_20_cosine"]["0"].value)
    assert found["one_minus_percentile_20_cosine"]["0"].n == 0
    assert sum(row.value for row in found["cosines"].values()) == 0


def test_parts_of_the_images_give_the_summaries_of_the_whole(network, images):
    results = of_images(network, images, "lrp-zplus")

    def outcome(part):
        return Outcome(
            [
                Pooled("m", TEST, one.statistic, np.nan, layer=one.layer, values=one.values, kind=one.kind)
                for one in summaries(part)
            ]
        )

    whole, parts = joined([outcome(results)], 0), joined([outcome(results[:1]), outcome(results[1:])], 0)
    assert repr(whole.scores) == repr(parts.scores)


def test_a_vision_transformer_is_audited_token_by_token():
    generator = torch.Generator().manual_seed(0)
    model = seeded(Attention, 29)
    x = torch.rand(3, 3, 8, 8, generator=generator, dtype=torch.float64)
    report = audit(model, x, methods=["gradient", "lrp-zplus"], tests=[TEST, "random-logit"])
    assert not report.run.skipped and set(report.verdicts) == {"gradient", "lrp-zplus"}
    settings = report.run.tests[TEST].settings
    assert (settings["first_convolution"], settings["channels"]) == ("patches", 4)
    for name in report.verdicts:
        found = stored(report, name)
        assert {"head", "mlp.2", "mlp.0", "patches", "input"} <= set(found["median_cosine"])
        # The head reads the class token alone: the other four of five tokens have no relevance at the end.
        assert found["nan_fraction"]["mlp.2"].value == pytest.approx(4 / 5)
        assert found["median_cosine"]["head"].value < 1
        # Four patches and ten pairs of each of three images.
        share = 1 - found["nan_fraction"]["patches"].value
        assert sum(row.value for row in found["cosines"].values()) == pytest.approx(3 * 4 * 10 * share)
    evidence = [one for one in report.verdicts["gradient"].evidence if one.test == TEST]
    assert len(evidence) == 1 and evidence[0].n == 3 and 0 < evidence[0].value <= 1
