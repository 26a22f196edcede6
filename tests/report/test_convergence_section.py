"""The section about converging directions says what was stored, and nothing that was not."""

import math
from dataclasses import replace

import pytest

from report.conftest import LAYERS
from veridical.records import read_run, read_scores, write_run, write_scores
from veridical.report import render
from veridical.report.convergence import TEST, convergence
from veridical.report.curves import Axis, Band, Curve, bands_picture, bars_picture
from veridical.report.reader import read_data

FIRST = LAYERS[-1]
NEW = ("one_minus_percentile", "cosines", "resolution", "unresolved", "nan_fraction")


def changed(directory, values):
    """Set statistics by (statistic, layer); None takes the rows away."""
    rows = []
    for row in read_scores(directory):
        key = (row.statistic, row.layer)
        if row.test != TEST or key not in values:
            rows.append(row)
        elif values[key] is not None:
            rows.append(replace(row, value=values[key]))
    write_scores(directory, rows)
    return convergence(read_data(directory), "gradient")


def test_charts_numbers_and_resolution_are_shown_for_every_method(example):
    text = render(example).read_text(encoding="utf-8")
    assert text.count("<h4>Do directions converge on the way to the input?</h4>") == 3
    assert text.count("Shaded are percentiles over pairs of vectors and locations") == 3
    assert text.count("Shares of absolute cosines at features.0: 0.9999 to 1: 33.3 %, ") == 3
    assert text.count("<dt>Median |cosine| of random vectors of 16 channels</dt><dd>0.15</dd>") == 3
    assert text.count("in float32, rounding alone makes a median 1 − |cosine| of up to 2.0 × 10⁻¹⁵") == 3
    assert "Not resolved" not in text


def test_the_percentiles_of_the_first_convolution_are_in_words(example):
    found = convergence(read_data(example), "gradient")
    facts = dict(found.facts)
    rest = 10.0 ** (-5 * 0.31)
    low, high = facts["1 − |cosine|, 5th to 95th percentile"].split(" to ")
    assert float(low) == pytest.approx(rest * 10**-0.45, abs=0.001)
    assert float(high) == pytest.approx(rest * 10**0.45, abs=0.001)
    assert facts["Without a cosine (relevance zero or not finite)"] == "5 %"
    assert f"5th to 95th percentile at {FIRST}: {low} to {high}" in found.charts[1].alt
    assert len(found.charts) == 3 and all(chart.source.startswith("data:image/png") for chart in found.charts)


def test_layers_that_are_not_resolved_are_named_and_many_are_counted(run_directory):
    one = changed(run_directory, {("unresolved_fraction", FIRST): 0.5})
    assert one.rounding.startswith(f"Not resolved: at {FIRST} (of 7 layers) the median")
    assert "rounding in float32 alone" in one.rounding
    every = changed(run_directory, {("unresolved_fraction", layer): 1.0 for layer in LAYERS})
    assert every.rounding.startswith("Not resolved: at 6 layers (of 7 layers)")


def test_an_earlier_run_without_these_statistics_has_its_curves_only(run_directory):
    rows = [row for row in read_scores(run_directory) if not row.statistic.startswith(NEW)]
    write_scores(run_directory, rows)
    run = read_run(run_directory)
    for name in ("channels", "precision"):
        del run.tests[TEST].settings[name]
    write_run(run_directory, run)
    found = convergence(read_data(run_directory), "gradient")
    assert len(found.charts) == 2 and found.rounding == ""
    assert [name for name, _ in found.facts][1] == "Median |cosine| of random vectors"
    assert len(found.facts) == 3
    assert "Do directions converge" in render(run_directory).read_text(encoding="utf-8")


def test_without_a_known_first_convolution_no_numbers_are_given(run_directory):
    run = read_run(run_directory)
    run.tests[TEST].settings.clear()
    write_run(run_directory, run)
    found = convergence(read_data(run_directory), "gradient")
    assert found.facts == () and len(found.charts) == 3


def test_a_method_without_the_test_has_no_section(run_directory):
    write_scores(run_directory, [row for row in read_scores(run_directory) if row.test != TEST])
    assert convergence(read_data(run_directory), "gradient") is None


def test_numbers_have_the_interval_over_the_photographs(run_directory):
    rows = [
        replace(row, ci_low=0.5, ci_high=0.75) if row.statistic == "one_minus_median_cosine" else row
        for row in read_scores(run_directory)
    ]
    write_scores(run_directory, rows)
    facts = dict(convergence(read_data(run_directory), "gradient").facts)
    assert facts["1 − |cosine|, median"].endswith(" (0.5 to 0.75)")
    assert "(" not in facts["Median |cosine|"]


def test_what_has_no_cosine_is_not_measured(run_directory):
    rows = [
        replace(row, value=0.0 if row.statistic == "cosines" else math.nan) if row.test == TEST else row
        for row in read_scores(run_directory)
    ]
    write_scores(run_directory, rows)
    found = convergence(read_data(run_directory), "gradient")
    assert len(found.charts) == 2 and found.rounding == ""
    assert dict(found.facts)["1 − |cosine|, median"] == "not measured"


def test_bars_and_bands_are_small_and_differ_with_their_values():
    curve = Curve(["a", "b"], [0.1, 0.01], baseline=[0.5, 0.5])
    bands = [Band("x", [0.01, 0.001], [0.5, 0.1])]
    drawn = {
        bands_picture(curve, bands, Axis("y", log=True)),
        bands_picture(curve, [replace(bands[0], high=[0.9, 0.9])], Axis("y", log=True)),
        bars_picture(["a", "b"], [10, 90], Axis("y", below="x")),
        bars_picture(["a", "b"], [90, 10], Axis("y", below="x")),
    }
    assert len(drawn) == 4 and max(map(len, drawn)) < 20_000
