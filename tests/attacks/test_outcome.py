"""What an attack achieved: the conventions, the tables, and joining."""

import math
from dataclasses import replace

import pyarrow as pa
import pytest
import torch
from torch import nn

from networks import images, seeded
from veridical.attacks import ManipulationSettings, join, manipulate, outcome_table
from veridical.attacks.outcome import Convention, compare, image_change
from veridical.attributions import method
from veridical.metrics import box, mse, pearson, ssim

SETTINGS = ManipulationSettings(steps=6, lr=0.02, factors=(1e5, 1e3), rescale=False, every=3)


def network():
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 4)
        )
    )


def goals(count=4):
    maps = torch.full((count, 8, 8), 0.05, dtype=torch.float64)
    maps[:, 2:5, 1:6] = 1.0
    return maps


def run(chunk=slice(None), **changes):
    settings = replace(SETTINGS, **changes)
    return manipulate(
        network(), images(4)[chunk], goals()[chunk], explainer=method("gradient"), settings=settings
    )


@pytest.fixture(scope="module")
def result():
    return run()


def test_conventions_travel_with_the_numbers(result):
    maps = result.similarity.to_target.convention
    assert maps == Convention("sum-1", 7, "pair") == result.similarity.before.convention
    assert result.image_change.similarity.convention == Convention("input", 7, "pair")
    bounded = run(bounds=(-5.0, 5.0)).image_change.similarity
    assert bounded.convention == Convention("unit", 7, 1.0)


def test_numbers_are_those_of_the_named_convention():
    first, second = (images(2, size=5, seed=seed).abs().sum(1) for seed in (1, 2))
    found = compare(first, second)
    assert found.convention.window == 5  # smaller than the usual 7: the maps are
    both = torch.stack((first, second), 1).flatten(1)
    wide = both.amax(1) - both.amin(1)
    torch.testing.assert_close(found.ssim, ssim(first, second, window=5, data_range=wide))
    torch.testing.assert_close(found.pcc, pearson(first, second))
    torch.testing.assert_close(found.mse, mse(first, second))


def test_images_are_compared_in_the_valid_range():
    clean = images(2, size=9).tanh()
    moved = clean * 0.9
    limits = tuple(torch.full((1, 1, 1, 1), value, dtype=torch.float64) for value in (-1.0, 1.0))
    found = image_change(clean, moved, limits).similarity
    torch.testing.assert_close(found.ssim, ssim((clean + 1) / 2, (moved + 1) / 2, window=7, data_range=1.0))


def test_measurements_are_one_number_a_pair(result):
    values = result.measurements()
    assert set(result.statistics()) < set(values)
    assert all(value.shape == (4,) and value.dtype == torch.float64 for value in values.values())
    change = result.output_change
    winner = change.logits[torch.arange(4), change.class_before]
    torch.testing.assert_close(values["winner_logit_change"], winner)
    torch.testing.assert_close(values["logit_norm"], change.logits.square().sum(1).sqrt())
    torch.testing.assert_close(values["logit_linf"], change.logits.abs().amax(1))
    torch.testing.assert_close(values["pcc_before"], result.history[0].pcc)


def test_table_holds_a_box_of_every_measurement(result):
    rows = {row["statistic"]: row for row in result.table(level=0.9, seed=2)}
    assert set(rows) == set(result.measurements())
    expected = box(result.similarity.to_target.pcc, level=0.9, seed=2).record()
    assert {name: rows["pcc_to_target"][name] for name in expected} == expected
    assert rows["ssim_to_target"]["window"] == 7 and rows["ssim_to_target"]["values"] == "sum-1"
    assert rows["ssim_image"]["values"] == "input" and rows["linf"]["values"] is None
    assert rows["class_kept"]["mean"] == 1.0


def test_table_fits_a_data_frame(result):
    table = pa.Table.from_pylist(result.table())
    assert table.num_rows == len(result.measurements())
    assert str(table.schema.field("median").type) == "double"
    assert str(table.schema.field("data_range").type) == "string"


def test_what_was_not_measured_is_counted(result):
    pcc = result.similarity.to_target.pcc.clone()
    pcc[1] = math.nan
    to_target = replace(result.similarity.to_target, pcc=pcc)
    changed = replace(result, similarity=replace(result.similarity, to_target=to_target))
    row = next(row for row in changed.table() if row["statistic"] == "pcc_to_target")
    assert (row["n"], row["missing"]) == (3, 1)


def test_joined_parts_equal_the_whole(result):
    parts = [run(slice(0, 1)), run(slice(1, 4))]
    joined = join(parts)
    torch.testing.assert_close(joined.inputs, result.inputs)
    torch.testing.assert_close(joined.output_change.logits, result.output_change.logits)
    assert [entry.step for entry in joined.history] == [0, 3, 6]
    torch.testing.assert_close(joined.history[-1].pcc, result.history[-1].pcc)
    assert joined.similarity.to_target.convention == result.similarity.to_target.convention
    for one, two in zip(outcome_table(parts), result.table(), strict=True):
        assert one["statistic"] == two["statistic"] and one["n"] == 4
        assert one["median"] == pytest.approx(two["median"], rel=1e-6, abs=1e-12)


def test_one_interrupted_part_marks_the_whole():
    def stop(done, losses):
        if done == 4:
            raise KeyboardInterrupt

    short = manipulate(
        network(), images(4)[:1], goals()[:1], explainer=method("gradient"), settings=SETTINGS, callback=stop
    )
    joined = join([run(slice(1, 4)), short])
    assert joined.interrupted and len(joined.inputs) == 4
    assert [entry.step for entry in joined.history] == [0, 3]


def test_what_is_not_alike_is_not_joined(result):
    bounded = run(bounds=(-5.0, 5.0))
    with pytest.raises(ValueError, match="expected results of one kind, got convention"):
        join([result, bounded])
    with pytest.raises(ValueError, match="got rescale False and True"):
        join([result, run(rescale=True)])
    with pytest.raises(ValueError, match="at least one result"):
        outcome_table([])
