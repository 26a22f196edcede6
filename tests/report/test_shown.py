"""Large runs: what is shown is sampled, said, and small enough."""

import os

import numpy as np
import pytest

from report.conftest import photographs, write_example
from veridical.records import read_run, write_arrays, write_run
from veridical.report import render
from veridical.report.shown import MAPS, Stock, chosen, shown_of, spaced


@pytest.mark.parametrize(("count", "most"), [(0, 3), (1, 1), (7, 7), (100, 12), (1000, 100), (5, 1)])
def test_places_are_spaced_evenly_with_the_first(count, most):
    places = spaced(count, most)
    assert len(places) == min(count, most) == len(set(places))
    assert list(places) == sorted(places) and (not places or places[0] == 0)
    if most > 1 and count:
        assert places[-1] == count - 1
        assert np.ptp(np.diff(places)) <= 1 if len(places) > 1 else True


def test_steps_are_chosen_with_their_places():
    assert chosen(["a", "b", "c", "d", "e"], 3) == {0: "a", 2: "c", 4: "e"}


@pytest.mark.parametrize(("methods", "images"), [(1, 10), (12, 100), (40, 1000), (500, 3)])
def test_no_run_shows_more_maps_than_the_limit(example, methods, images):
    run = read_run(example)
    record, one = run.images[0], next(iter(run.methods.values()))
    run = run.model_copy(
        update={"images": [record] * images, "methods": {f"m{k}": one for k in range(methods)}}
    )
    shown = shown_of(run)
    assert len(shown.mapped) >= 1 and len(shown.mapped) * methods * 2 <= max(MAPS, 2 * methods)
    assert set(shown.mapped) <= set(shown.listed) and len(shown.listed) <= 100


def test_a_picture_that_is_not_stored_has_no_tile():
    assert Stock().tile("photo-1", "alt", ("line",)) is None


@pytest.mark.slow
def test_a_page_of_100_photographs_with_the_worst_maps_is_below_15_mb(tmp_path):
    """Twelve methods, 224 pixels, maps of noise: nothing is harder to compress."""
    generator = np.random.default_rng(0)
    methods = tuple(f"method-{place}" for place in range(12))
    small = write_example(tmp_path / "run", photographs(24, 2, generator), methods)
    photos = generator.integers(0, 256, (100, 3, 224, 224), dtype=np.uint8)
    write_arrays(small / "maps" / "images.safetensors", {"images": photos})
    first = small / "maps" / "method-0.safetensors"
    maps = generator.standard_normal((100, 224, 224)).astype(np.float16)
    steps = np.repeat(maps[None, :1], 50, axis=0)
    arrays = {"original": maps, "other_logit": maps, "randomized": steps}
    write_arrays(first, arrays, {"layers": [f"layer {place}" for place in range(50)]})
    for name in methods[1:]:
        (small / "maps" / f"{name}.safetensors").unlink()
        os.link(first, small / "maps" / f"{name}.safetensors")
    run = read_run(small)
    record = run.images[0]
    images = [record.model_copy(update={"name": f"photo-{place}.png"}) for place in range(100)]
    write_run(small, run.model_copy(update={"images": images}))
    path = render(small)
    text = path.read_text(encoding="utf-8")
    assert "Maps are shown for 11 of 100 photographs" in text and "Shown are 8 of 50 steps" in text
    assert 5e6 < path.stat().st_size < 15e6
