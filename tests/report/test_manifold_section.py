"""The sections about the manifold and about movement, from stored scores alone."""

import math

import numpy as np
import pytest

from veridical.records import (
    Score,
    TestRecord,
    read_run,
    read_scores,
    write_arrays,
    write_run,
    write_scores,
)
from veridical.report import render
from veridical.report.dots import Dots, Scale, dots_picture
from veridical.report.manifold import manifold_section
from veridical.report.movement import angle, movement_section
from veridical.report.reader import read_data

FACTS = {
    "source": "vae model of 3 x 24 x 24 images, my-manifold", "latents": 10, "dimension": 1728,
    "lowest_rank": 8, "highest_rank": 10, "reconstruction_error": 0.21, "class_kept": 1.0,
    "bad_manifold": False, "images": 2,
}  # fmt: skip
CURVED = {"softplus": 10.0, "beta": 10.0, "radius": 1 / (255 * math.sqrt(12)), "products": 12, "images": 2}
NAMES = ("photo-0.png", "photo-1.png")


def fractions(method, value):
    def row(statistic, number, **where):
        return Score(method, "tangent-space", statistic, number, **where)

    bounds = {"ci_low": value - 0.05, "ci_high": value + 0.05, "n": 2}
    found = [row("tangent_fraction", value, image=name) for name in NAMES]
    found += [row("reconstruction_error", 0.21, image=name) for name in NAMES]
    found += [row("class_kept", float(name == NAMES[0]), image=name) for name in NAMES]
    found += [row("median_tangent_fraction", value, **bounds), row("mean_tangent_fraction", value, **bounds)]
    found.append(row("above_random_share", 1.0, ci_low=0.3, ci_high=1.0, n=2))
    for name, number in (
        ("mean_other_image_fraction", 0.2),
        ("mean_random_fraction", 0.0744),
        ("random_quantile_95", 0.1),
        ("sign_test_p_value", 0.25),
    ):
        found.append(row(name, number, n=2))
    return found


def moves(largest, typical):
    radius, found = 0.05, []
    for name in NAMES:
        values = {
            "largest_curvature": largest, "curvature_residual": 0.01, "radius": radius,
            "largest_movement": min(radius * largest, 2.0),
        }  # fmt: skip
        found += [Score("gradient", "curvature", key, value, image=name) for key, value in values.items()]
        for key, factor in (("typical_curvature", 1.0), ("expected_movement", radius)):
            value = typical * factor
            bounds = {"ci_low": 0.8 * value, "ci_high": 1.3 * value}
            found.append(Score("gradient", "curvature", key, value, image=name, **bounds))
    return found


def extend(directory, scores, **tests):
    run = read_run(directory)
    known = {**run.tests, **{name: TestRecord(description="", settings=one) for name, one in tests.items()}}
    write_run(directory, run.model_copy(update={"tests": known}))
    write_scores(directory, [*read_scores(directory), *scores])
    return directory


@pytest.fixture
def measured(run_directory):
    points = np.full((2, 3, 24, 24), 0.5, dtype=np.float32)
    write_arrays(run_directory / "maps" / "tangent-space" / "images.safetensors", {"reconstructions": points})
    scores = fractions("gradient", 0.31) + fractions("lrp-zplus", 0.4) + moves(10.0, 2.0)
    return extend(run_directory, scores, **{"tangent-space": FACTS}, curvature=CURVED)


def test_without_these_tests_there_are_no_sections(run_directory):
    data = read_data(run_directory)
    assert manifold_section(data) is None and movement_section(data) is None


def test_the_manifold_section_says_where_it_comes_from_and_what_was_measured(measured):
    section = manifold_section(read_data(measured))
    facts = dict(section.facts)
    assert "my-manifold" in facts["Manifold"] and facts["Rank of the tangent spaces"] == "8 to 10"
    assert facts["Latent values"] == "10 (k), of the 1,728 values of an image (d)"
    assert facts["Random directions"] == "mean fraction 0.074; 95 % stay below 0.1"
    assert section.bad == "" and [row.name for row in section.rows] == ["gradient", "lrp-zplus"]
    assert (section.rows[0].median, section.rows[0].interval) == ("0.31", "0.26 to 0.36")
    assert section.alt.endswith("gradient 0.31, lrp-zplus 0.4; random directions 0.074.")
    assert [pair.lines for pair in section.pairs] == [
        ("error 0.21", "class kept"), ("error 0.21", "another class is predicted"),
    ]  # fmt: skip
    page = render(measured).read_text()
    assert 'id="manifold"' in page and 'id="movement"' in page
    assert "How far the gradient map can be moved" in page
    assert page.count('alt="Reconstruction of photo-') == 2


def test_a_bad_manifold_is_said(run_directory):
    facts = {**FACTS, "bad_manifold": True, "reconstruction_error": 0.93, "class_kept": 0.5}
    extend(run_directory, fractions("gradient", 0.31), **{"tangent-space": facts})
    section = manifold_section(read_data(run_directory))
    assert "fits these photographs badly" in section.bad and "0.93" in section.bad and "50%" in section.bad
    assert section.pairs == ()


def test_a_map_of_zeros_is_shown_as_not_measured(run_directory):
    scores = fractions("gradient", math.nan)
    extend(run_directory, scores, **{"tangent-space": FACTS})
    section = manifold_section(read_data(run_directory))
    assert section.rows[0].median == "not measured" and section.rows[0].interval == ""


def test_the_movement_section_gives_change_and_gray_levels(run_directory):
    extend(run_directory, moves(10.0, 2.0), curvature=CURVED)
    section = movement_section(read_data(run_directory))
    assert section.count == 2
    (first, _), facts = section.rows, dict(section.facts)
    assert facts["Network"] == "with softplus, beta = 10, in place of ReLU"
    assert facts["Step"] == "0.289 gray levels in every value (of 255)"
    assert facts["The same in the network's input"] == "Euclidean length 0.05"
    assert first.largest == "0.5 (29°)" and first.expected == "0.1 (5.73°)"
    # The map turns by 0.5 within 0.289 gray levels, so by the root of 2 within 0.816.
    assert first.worst_levels == "0.816" and first.random_levels == "4.08"


@pytest.mark.parametrize("curvatures", [(1000.0, 90.0), (0.0, 0.0), (math.nan, math.nan)])
def test_every_curvature_can_be_shown(curvatures, run_directory):
    extend(run_directory, moves(*curvatures), curvature={**CURVED, "softplus": None})
    section = movement_section(read_data(run_directory))
    shown = {1000.0: "2 or more", 0.0: "0 (0°)"}.get(curvatures[0], "not measured")
    assert section.rows[0].largest == shown
    assert dict(section.facts)["Network"] == "as it is, without ReLU"
    levels = {1000.0: "0.0082", 0.0: "∞"}.get(curvatures[0], "not measured")
    assert section.rows[0].worst_levels == levels


def test_angles():
    assert (angle(1.0), angle(math.sqrt(2))) == ("1 (60°)", "1.41 (90°)")
    assert (angle(2.0), angle(math.nan)) == ("2 or more", "not measured")


def test_the_same_dots_give_the_same_picture_and_others_another():
    scale = Scale("value", (0.01, 2.0), (("mark", 0.1),), log=True)
    dots = Dots("one", [0.1, math.nan], [0.05, math.nan], [0.2, math.nan])
    one, again = (dots_picture(["a" * 40, "b"], [dots, dots], scale) for _ in range(2))
    assert one == again and one.startswith("data:image/png;base64,")
    assert one != dots_picture(["a", "b"], [Dots("one", [0.2, 0.3], [0.1, 0.2], [0.4, 0.4])], scale)
