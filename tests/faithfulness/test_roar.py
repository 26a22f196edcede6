"""Remove and retrain on images whose class is in one known place."""

import json
import math

import pytest
import torch
from torch import nn

import veridical
from veridical.faithfulness import RoarData, RoarSettings, roar
from veridical.faithfulness._removal import edge_maps, map_ranks, random_ranks, without
from veridical.faithfulness._roar_store import Cell

SIDE = 4
SHARES = (0.125, 0.25, 0.5)


def told(labels):
    """Images (N, 1, 4, 4) of small noise whose first pixel is -1 for class 0 and 1 for class 1."""
    noise = torch.rand(len(labels), 1, SIDE, SIDE, generator=torch.Generator().manual_seed(len(labels)))
    images = 0.1 * noise.double()
    images[:, 0, 0, 0] = 2.0 * labels - 1
    return images


def data(count=40, tests=20):
    return RoarData(
        told(torch.arange(count) % 2),
        torch.arange(count) % 2,
        told(torch.arange(tests) % 2),
        torch.arange(tests) % 2,
    )


class Reader(nn.Module):
    """Reads the first pixel, as long as it tells the classes apart; else says class 0."""

    def __init__(self, useful=True):
        super().__init__()
        self.useful = useful
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.eval()

    def forward(self, images):
        first = images[:, 0, 0, 0] * self.weight
        score = first if self.useful else -torch.ones_like(first)
        return torch.stack([-score, score], dim=1)


def train(images, labels, seed):
    first = images[:, 0, 0, 0]
    return Reader(bool((first > 0.5).double().mean() > 0.25))


def pointer(model, inputs, target=None):
    """All relevance on the pixel that tells the class."""
    relevance = torch.zeros_like(inputs)
    relevance[:, :, 0, 0] = 1
    return relevance


def blind(model, inputs, target=None):
    """All relevance elsewhere."""
    return 1 - pointer(model, inputs)


METHODS = {"pointer": pointer, "blind": blind}
CHOSEN = {"shares": SHARES, "repetitions": 2, "edges": False, "order": "both"}


def run(methods=None, trained=train, **more):
    return roar(Reader(), data(), methods or METHODS, trained, **{**CHOSEN, **more})


def test_a_map_on_the_deciding_pixel_takes_the_accuracy_at_once():
    found = run()
    assert found.shares == (0.0, *SHARES) and found.n == 20 and found.chance == 0.5
    assert found.accuracy["pointer", "most"] == ((1.0, 1.0), *[(0.5, 0.5)] * 3)
    assert found.accuracy["blind", "most"] == ((1.0, 1.0),) * 4
    assert found.accuracy["pointer", "least"] == ((1.0, 1.0),) * 4
    assert found.accuracy["blind", "least"] == ((1.0, 1.0), *[(0.5, 0.5)] * 3)


def test_margins_compare_with_random_pixels():
    found = run()
    random = [sum(values) / 2 for values in found.accuracy["random", "most"]]
    assert random[0] == 1 and 0.5 <= random[-1] < 1
    area = float(torch.trapezoid(torch.tensor(random), torch.tensor(found.shares))) / 0.5
    pointed = float(torch.trapezoid(torch.tensor([1, 0.5, 0.5, 0.5]), torch.tensor(found.shares))) / 0.5
    assert found.margin("pointer").estimate == pytest.approx(area - pointed, abs=1e-6)
    assert found.margin("pointer").estimate > 0 > found.margin("blind").estimate
    assert found.margin("pointer", "least").estimate == pytest.approx(1 - area, abs=1e-6)
    assert found.margin("blind", "least").estimate == pytest.approx(pointed - area, abs=1e-6)


def test_the_interval_is_students():
    outcomes = iter([0.9, 0.7] + [0.5] * 100)

    class Fixed(Reader):
        def __init__(self):
            super().__init__()
            self.right = round(next(outcomes) * 20)
            self.seen = 0

        def forward(self, images):
            own = (torch.arange(len(images)) + self.seen) % 2
            wrong = torch.arange(len(images)) + self.seen >= self.right
            self.seen += len(images)
            classes = torch.where(wrong, 1 - own, own)
            return nn.functional.one_hot(classes, 2).double()

    found = run({"pointer": pointer}, lambda *_: Fixed(), order="most", shares=(0.5,))
    start = found.mean("pointer")[0]
    # Two values: half the width is 12.706 (Student's 97.5 % for one degree) * 0.1414 / sqrt(2).
    assert (start.estimate, start.n) == (pytest.approx(0.8), 2)
    assert start.high - start.estimate == pytest.approx(12.7062 * 0.1, abs=1e-3)
    alone = run({"pointer": pointer}, repetitions=1).mean("pointer")[0]
    assert alone.estimate == 1 and math.isnan(alone.low) and alone.n == 1


def test_the_table_has_one_row_a_curve():
    rows = run(edges=True).table()
    assert [(row["method"], row["order"]) for row in rows] == [
        ("random", "most"),
        *[(name, order) for name in ("edges", "pointer", "blind") for order in ("most", "least")],
    ]
    row = rows[3]
    assert row["0"] == 1 and row["0.125"] == row["0.125 low"] == 0.5 and row["margin"] > 0
    assert rows[0]["margin"] == 0


def counted(calls):
    def trained(images, labels, seed):
        calls.append(seed)
        return train(images, labels, seed)

    return trained


def test_each_cell_is_trained_once_with_the_seed_of_its_repetition():
    calls, steps = [], []
    run(trained=counted(calls), seed=10, progress=lambda done, total: steps.append((done, total)))
    # Nothing removed, random, two methods in two orders; two repetitions.
    assert len(calls) == 2 * (1 + 3 + 2 * 2 * 3) and set(calls) == {10, 11}
    assert steps[0] == (1, 32) and steps[-1] == (32, 32)


class Interrupted:
    """A train function that is stopped after some networks; equal names in `roar.json` need one class."""

    def __init__(self, calls, after):
        self.calls, self.after = calls, after

    def __call__(self, images, labels, seed):
        if len(self.calls) == self.after:
            raise KeyboardInterrupt
        self.calls.append(seed)
        return train(images, labels, seed)


def test_an_interrupted_experiment_goes_on(tmp_path):
    first, rest = [], []
    with pytest.raises(KeyboardInterrupt):
        run(trained=Interrupted(first, 7), folder=tmp_path)
    assert len(list((tmp_path / "cells").iterdir())) == 7
    found = run(trained=Interrupted(rest, 100), folder=tmp_path)
    assert len(first) + len(rest) == 32
    assert dict(found.accuracy) == dict(run().accuracy)
    none: list[int] = []
    run(trained=Interrupted(none, 100), folder=tmp_path)
    assert not none


def test_a_cell_that_cannot_be_read_is_measured_again(tmp_path):
    run(trained=Interrupted([], 100), folder=tmp_path)
    files = sorted((tmp_path / "cells").iterdir())
    files[0].write_text("{")
    files[1].write_text("{}")
    again: list[int] = []
    run(trained=Interrupted(again, 100), folder=tmp_path)
    assert len(again) == 2


def test_shares_repetitions_and_methods_may_be_added(tmp_path):
    calls: list[int] = []
    run({"pointer": pointer}, Interrupted(calls, 100), folder=tmp_path, order="most", repetitions=1)
    before = len(calls)
    run(trained=Interrupted(calls, 100), folder=tmp_path, shares=(*SHARES, 0.75))
    # 2 of nothing removed, and (random, pointer, blind twice) x 4 shares x 2, less those that were there.
    assert len(calls) == 2 + 5 * 4 * 2 and before == 1 + 3 + 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "another in settings"),
        ({"trained": train}, "another in train"),
        ({"methods": {"pointer": blind}}, "another in pointer"),
    ],
)
def test_cells_of_another_experiment_are_refused(tmp_path, change, message):
    run(trained=Interrupted([], 100), folder=tmp_path)
    with pytest.raises(ValueError, match=message):
        run(**{"trained": Interrupted([], 100), "folder": tmp_path, **change})


def test_other_images_and_another_model_are_refused(tmp_path):
    run(trained=Interrupted([], 100), folder=tmp_path)
    other = Reader()
    other.weight.data *= 2
    for model, images in ((other, data()), (Reader(), data(42))):
        with pytest.raises(ValueError, match="another in (model|data)"):
            roar(model, images, METHODS, Interrupted([], 100), folder=tmp_path, **CHOSEN)


def test_a_training_that_diverges_is_not_measured_and_told(tmp_path):
    def diverging(images, labels, seed):
        if seed == 1:
            raise FloatingPointError("a loss of nan")
        return train(images, labels, seed)

    for _ in range(2):  # the second time from the folder
        found = run({"pointer": pointer}, diverging, order="most", folder=tmp_path)
        assert math.isnan(found.accuracy["pointer", "most"][0][1])
        mean = found.mean("pointer")[0]
        assert mean.estimate == 1 and mean.n == 1 and found.margin("pointer").n == 1
        assert len(found.failures) == 1 + 3 + 3 and "a loss of nan" in found.failures[0][1]


def test_maps_are_made_once_a_method_and_never_of_more_than_a_batch():
    sizes = []

    def watched(model, inputs, target=None):
        sizes.append(len(inputs))
        return pointer(model, inputs)

    run({"watched": watched}, batch=16)
    assert sizes == [16, 16, 8, 16, 4]


def test_the_batch_changes_nothing():
    gradient = {"gradient": veridical.method("gradient"), "noise": noisy}
    first, second = (run(gradient, batch=size) for size in (3, 64))
    assert dict(first.accuracy) == dict(second.accuracy)


def noisy(model, inputs, target=None):
    return (inputs * 1e4).sin()


def test_removed_pixels_become_the_mean_of_the_channel():
    images = torch.rand(3, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    ranks = torch.tensor([[0, 1, 2, 3]] * 3)
    fill = torch.tensor([5.0, 6.0])
    found = without(images, ranks, 0.5, False, fill)
    assert torch.equal(found[:, :, 1], images[:, :, 1])
    assert found[:, 0, 0].unique().tolist() == [5] and found[:, 1, 0].unique().tolist() == [6]
    least = without(images, ranks, 0.25, True, fill)
    assert least[:, 0, 1, 1].unique().tolist() == [5]
    assert torch.equal(least.flatten(2)[:, :, :3], images.flatten(2)[:, :, :3])
    seen = []
    pixels = data()

    def keep(images, labels, seed):
        seen.append(images)
        return Reader()

    roar(Reader(), pixels, {"pointer": pointer}, keep, shares=(1 / 16,), repetitions=1, edges=False)
    changed = seen[-1]
    assert torch.allclose(changed[:, 0, 0, 0], pixels.images.mean().expand(40))
    assert torch.equal(changed.flatten(1)[:, 1:], pixels.images.flatten(1)[:, 1:])


def test_ranks_follow_the_map_and_ties_differ_between_images():
    maps = torch.tensor([[[0.1, 0.9], [0.5, -1.0]]])
    assert map_ranks(maps, 0).tolist() == [[2, 0, 1, 3]]
    flat = map_ranks(torch.zeros(50, 4, 4), 0)
    assert torch.equal(flat.sort(dim=1).values, torch.arange(16).expand(50, 16).int())
    assert len(flat.unique(dim=0)) > 40
    assert torch.equal(flat, map_ranks(torch.zeros(50, 4, 4), 0))
    assert not torch.equal(random_ranks(5, 16, 0, 1), random_ranks(5, 16, 0, 2))


def test_edges_are_where_the_brightness_changes():
    images = torch.zeros(1, 2, 6, 6)
    images[..., 3:] = 1
    found = edge_maps(images)[0]
    assert found[:, [0, 1, 4, 5]].abs().max() == 0
    assert torch.equal(found[:, 2:4], torch.full((6, 2), 8.0))


def test_names_of_cells_are_files_and_differ():
    names = {Cell(method, "most", 0.5, 0).name for method in ("a/b", "a_b", "a b")}
    assert len(names) == 3 and not any("/" in name or " " in name for name in names)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shares": ()}, "rising shares"),
        ({"shares": (0.5, 0.3)}, "rising shares"),
        ({"shares": (0.5, 1.1)}, "rising shares"),
        ({"order": "all"}, "order to be one of most, least, both"),
        ({"repetitions": 0}, "repetitions and batch of at least 1"),
        ({"batch": 0}, "repetitions and batch of at least 1"),
        ({"seed": -1}, "a seed of at least 0"),
        ({"reduction": "mean"}, "expected reduction"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        RoarSettings(**settings)


def test_wrong_arguments_are_named_before_any_training():
    def never(*_):
        raise AssertionError

    for methods, error, message in (
        ({"random": pointer}, ValueError, "other names than random and edges"),
        ([pointer], TypeError, "expected methods by name"),
        ({"a": 3}, TypeError, "an explanation method"),
    ):
        with pytest.raises(error, match=message):
            roar(Reader(), data(), methods, never)
    with pytest.raises(TypeError, match=r"a function \(images, labels, seed\) -> network"):
        roar(Reader(), data(), METHODS, "train")
    good = data()
    with pytest.raises(ValueError, match="the model has 2 classes"):
        roar(
            Reader(),
            RoarData(good.images, good.labels + 1, good.test_images, good.test_labels),
            METHODS,
            never,
        )


def test_wrong_data_are_named():
    good = data()
    with pytest.raises(TypeError, match="LongTensor"):
        RoarData(good.images, good.labels.double(), good.test_images, good.test_labels)
    with pytest.raises(ValueError, match=r"expected \(40,\) labels"):
        RoarData(good.images, good.labels[1:], good.test_images, good.test_labels)
    with pytest.raises(ValueError, match="images of one shape"):
        RoarData(good.images, good.labels, good.test_images[..., 1:], good.test_labels)


def test_a_network_without_one_row_an_image_is_named():
    with pytest.raises(ValueError, match=r"expected logits \(20, K\)"):
        run(trained=lambda *_: nn.Flatten(0))


def test_the_public_function_takes_names():
    found = veridical.roar(Reader(), data(), ["gradient"], train, **{**CHOSEN, "order": "most"})
    assert found.accuracy["gradient", "most"] == ((1.0, 1.0), *[(0.5, 0.5)] * 3)


@pytest.mark.slow
def test_real_training_finds_the_deciding_pixel():
    """The gradient of a trained network takes what tells the class, random pixels rarely do."""
    from veridical.training import FromScratch, TrainingSettings

    def linear(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 8), nn.ReLU(), nn.Linear(8, 2)).double()

    fit = FromScratch(linear, TrainingSettings(epochs=40, batch=8, lr=0.01))
    images = data(100, 100)
    model = fit(images.images, images.labels, 99)
    found = veridical.roar(model, images, ["gradient"], fit, shares=(0.125, 0.25), repetitions=3)
    assert found.mean("gradient")[0].estimate == 1
    assert found.mean("gradient")[-1].estimate < 0.75
    assert found.margin("gradient").low > 0


def test_settings_are_stored_with_the_experiment(tmp_path):
    run(trained=Interrupted([], 100), folder=tmp_path)
    kept = json.loads((tmp_path / "roar.json").read_text())
    assert kept["settings"] == {"reduction": None, "seed": 0}
    assert kept["train"].endswith("test_roar.Interrupted") and set(kept["methods"]) == set(METHODS)


def test_images_on_another_device_lose_the_same_pixels():
    maps = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert map_ranks(maps, 0).device.type == "cpu"
    # What is on "meta" has a device and no values, and refuses to be mixed as a GPU's tensors do.
    away = without(torch.zeros(3, 2, 4, 4, device="meta"), map_ranks(maps, 0), 0.5, False, torch.zeros(2))
    assert away.device.type == "meta" and away.shape == (3, 2, 4, 4)


@pytest.mark.gpu
def test_a_gpu_gives_the_accuracies_of_the_cpu():
    there = RoarData(*(one.cuda() for one in vars(data()).values()))
    moved = roar(Reader().cuda(), there, METHODS, train, **CHOSEN)
    assert moved.accuracy == run().accuracy and moved.chance == 0.5
