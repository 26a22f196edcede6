"""Training is reproducible, goes on where it stopped, and says so when it cannot."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from veridical.records import read_arrays, write_arrays
from veridical.training import (
    DivergedError,
    FromScratch,
    TrainingSettings,
    accuracy,
    train_classifier,
)
from veridical.training.accuracy import as_input
from veridical.training.classifier import digest, epoch_generator

SETTINGS = TrainingSettings(epochs=3, batch=8, lr=0.02, shift=0.1, flip=True, seed=4)


def network(seed=0, dropout=0.3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(3 * 36, 2)
        )


def bright_and_dark(count=20):
    labels = torch.arange(count) % 2
    noise = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return 0.3 * noise + labels[:, None, None, None], labels


def weights(module):
    return [value.clone() for value in module.state_dict().values()]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_it_learns_what_can_be_learned():
    images, labels = bright_and_dark()
    model = network(dropout=0.0)
    done = train_classifier(model, images, labels, replace(SETTINGS, epochs=30))
    assert len(done.history) == 30
    assert done.history[-1].loss < done.history[0].loss
    assert accuracy(model, images, labels).share == 1
    assert not model.training


def test_the_same_run_twice_gives_the_same_weights_and_leaves_the_random_state():
    before = torch.get_rng_state()
    found = []
    for noise in (0, 1):
        model = network()
        torch.rand(noise)  # what others have drawn does not matter
        train_classifier(model, *bright_and_dark(), SETTINGS)
        found.append(weights(model))
    torch.rand(0)
    assert same(*found)
    torch.set_rng_state(before)
    train_classifier(network(), *bright_and_dark(), SETTINGS)
    assert torch.equal(torch.get_rng_state(), before)


def test_images_in_half_precision_train_the_network_that_their_values_train():
    images, labels = bright_and_dark()
    stored, model, plain = images.half(), network(), network()
    train_classifier(model, stored, labels, SETTINGS)
    train_classifier(plain, stored.float(), labels, SETTINGS)
    assert same(weights(model), weights(plain))
    assert accuracy(model, stored, labels) == accuracy(plain, stored.float(), labels)
    assert as_input(model.double(), stored).dtype == torch.float64
    assert as_input(nn.Linear(1, 1).half(), stored).dtype == torch.float16
    assert as_input(model, (images * 255).byte()).dtype == torch.float32
    stored[3, 0, 2, 2] = torch.inf
    with pytest.raises(ValueError, match="expected finite images"):
        train_classifier(network(), stored, labels, SETTINGS)


def test_other_seeds_give_other_weights():
    found = []
    for seed in (0, 1):
        model = network(dropout=0.0)
        train_classifier(model, *bright_and_dark(), replace(SETTINGS, seed=seed))
        found.append(weights(model))
    assert not same(*found)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_an_interrupted_run_ends_like_one_that_was_not(tmp_path, optimizer):
    momentum = 0.9 if optimizer == "sgd" else 0.0
    settings = replace(SETTINGS, optimizer=optimizer, momentum=momentum, schedule="cosine")
    whole = network()
    expected = train_classifier(whole, *bright_and_dark(), settings)

    def stop(moment):
        if moment.epoch == 1 and moment.step == 2:
            raise KeyboardInterrupt

    file, first = tmp_path / "run" / "checkpoint.safetensors", network()
    with pytest.raises(KeyboardInterrupt):
        train_classifier(first, *bright_and_dark(), settings, checkpoint=file, progress=stop)
    resumed = network(seed=9)
    done = train_classifier(resumed, *bright_and_dark(), settings, checkpoint=file)
    assert done.resumed == 1
    assert done.history == expected.history
    assert same(weights(whole), weights(resumed))
    assert not same(weights(first), weights(resumed))


def test_a_finished_run_is_not_done_again(tmp_path):
    file, model = tmp_path / "checkpoint.safetensors", network()
    train_classifier(model, *bright_and_dark(), SETTINGS, checkpoint=file)
    calls = []
    again = network(seed=5)
    done = train_classifier(again, *bright_and_dark(), SETTINGS, checkpoint=file, progress=calls.append)
    assert done.resumed == 3 and not calls and same(weights(model), weights(again))


def test_more_epochs_go_on_from_a_finished_run(tmp_path):
    file = tmp_path / "checkpoint.safetensors"
    train_classifier(network(), *bright_and_dark(), replace(SETTINGS, epochs=2), checkpoint=file)
    longer, whole = network(seed=5), network()
    train_classifier(longer, *bright_and_dark(), SETTINGS, checkpoint=file)
    train_classifier(whole, *bright_and_dark(), SETTINGS)
    assert same(weights(longer), weights(whole))


def test_progress_counts_every_step():
    moments = []
    train_classifier(network(), *bright_and_dark(), replace(SETTINGS, epochs=2), progress=moments.append)
    assert [(one.epoch, one.step, one.steps) for one in moments] == [
        (epoch, step, 3) for epoch in (0, 1) for step in (1, 2, 3)
    ]
    assert all(one.loss > 0 and 0 <= one.accuracy <= 1 for one in moments)


def test_bytes_are_scaled():
    images, labels = bright_and_dark()
    stored = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    first, second = network(), network()
    train_classifier(first, stored, labels, SETTINGS)
    train_classifier(second, stored.float() / 255, labels, SETTINGS)
    assert same(weights(first), weights(second))
    assert accuracy(first, stored, labels) == accuracy(second, stored.float() / 255, labels)


def test_a_loss_of_nan_keeps_the_last_good_epoch(tmp_path):
    file, model = tmp_path / "checkpoint.safetensors", network()
    seen = []

    def spoil(moment):
        if moment.epoch == 1 and moment.step == 1:
            with torch.no_grad():
                model[0].weight.fill_(float("nan"))
        if moment.epoch == 0 and moment.step == moment.steps:
            seen.append(weights(model))

    with pytest.raises(
        DivergedError, match=r"a loss of nan in step 2 of epoch 2.*as after epoch 1.*Lower lr"
    ):
        train_classifier(model, *bright_and_dark(), SETTINGS, checkpoint=file, progress=spoil)
    assert same(weights(model), seen[0])
    arrays, told = read_arrays(file)
    assert len(told["history"]) == 1
    assert torch.equal(torch.from_numpy(arrays["network.0.weight"]), seen[0][0])


def test_weights_that_become_infinite_in_the_last_step_are_noticed():
    model, before = network(), None
    before = weights(model)

    def spoil(moment):
        if moment.step == moment.steps:
            with torch.no_grad():
                model[4].bias.fill_(float("inf"))

    with pytest.raises(DivergedError, match=r"NaN or infinity in 4\.bias"):
        train_classifier(model, *bright_and_dark(), SETTINGS, progress=spoil)
    assert same(weights(model), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.03}, "lr 0.03 instead of 0.02"),
        ({"seed": 5}, "seed 5 instead of 4"),
        ({"epochs": 1}, "epochs 1, of which 2 are done"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change, message):
    file = tmp_path / "checkpoint.safetensors"
    train_classifier(network(), *bright_and_dark(), replace(SETTINGS, epochs=2), checkpoint=file)
    with pytest.raises(ValueError, match=message):
        train_classifier(network(), *bright_and_dark(), replace(SETTINGS, **change), checkpoint=file)


def test_a_checkpoint_of_other_images_another_network_or_none_is_refused(tmp_path):
    file, (images, labels) = tmp_path / "checkpoint.safetensors", bright_and_dark()
    train_classifier(network(), images, labels, SETTINGS, checkpoint=file)
    with pytest.raises(ValueError, match="other images or labels"):
        train_classifier(network(), images, 1 - labels, SETTINGS, checkpoint=file)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(ValueError, match=r"got one that differs in 0\.bias"):
        train_classifier(other, images, labels, SETTINGS, checkpoint=file)
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match="got a damaged file; delete it"):
        train_classifier(network(), images, labels, SETTINGS, checkpoint=file)
    write_arrays(file, {"a": images.numpy()}, {"what": "maps"})
    with pytest.raises(ValueError, match="expected a checkpoint of a training run"):
        train_classifier(network(), images, labels, SETTINGS, checkpoint=file)


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (torch.zeros(2, 1, 8, 8, dtype=torch.int32), torch.tensor([0, 1]), TypeError, "got torch.int32"),
        ([1], torch.tensor([0, 1]), TypeError, "got list"),
        (torch.zeros(2, 1, 8, 8), torch.tensor([0.0, 1.0]), TypeError, "labels as a LongTensor"),
        (torch.zeros(2, 8, 8), torch.tensor([0, 1]), ValueError, r"expected images \(N, C, H, W\)"),
        (torch.zeros(0, 1, 8, 8), torch.zeros(0).long(), ValueError, "at least one"),
        (torch.zeros(2, 1, 8, 8), torch.tensor([0]), ValueError, "one label an image"),
        (torch.zeros(2, 1, 8, 8), torch.tensor([0, -1]), ValueError, "0 or more, got -1"),
        (torch.zeros(2, 1, 8, 8), torch.tensor([0, 2]), ValueError, "the network has 2 classes"),
        (torch.full((2, 1, 8, 8), torch.nan), torch.tensor([0, 1]), ValueError, "finite images"),
    ],
)
def test_wrong_images_and_labels_are_named(images, labels, error, message):
    with pytest.raises(error, match=message):
        train_classifier(network(), images, labels, SETTINGS)


def test_a_network_with_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="set requires_grad"):
        train_classifier(network().requires_grad_(False), *bright_and_dark(), SETTINGS)


def test_accuracy_counts_with_an_interval_and_keeps_the_mode():
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False), nn.Dropout(0.9))
    model[1].weight.data = torch.tensor([[-1.0], [1.0]])
    images = torch.tensor([-1.0, 1.0, 1.0, 1.0])[:, None, None, None]
    model[2].eval()
    found = accuracy(model, images, torch.tensor([0, 1, 1, 0]), batch=3)
    assert (found.correct, found.n, found.share) == (3, 4, 0.75)
    # By hand: cross-entropy log(1 + exp(-2)) three times, log(1 + exp(2)) once.
    expected = (3 * torch.log1p(torch.tensor(-2.0).exp()) + torch.log1p(torch.tensor(2.0).exp())) / 4
    assert found.loss == pytest.approx(float(expected), abs=1e-6)
    interval = found.interval()
    # Wilson for 3 of 4 at 95 %.
    assert (interval.low, interval.high) == pytest.approx((0.3006, 0.9544), abs=1e-4)
    assert model.training and not model[2].training


def test_from_scratch_builds_and_trains_by_the_seed():
    images, labels = bright_and_dark()
    train = FromScratch(network, SETTINGS)
    first, again, other = (train(images, labels, seed) for seed in (1, 1, 2))
    assert same(weights(first), weights(again)) and not same(weights(first), weights(other))


def test_epochs_have_generators_of_their_own():
    draws = {
        int(torch.randint(2**40, (), generator=epoch_generator(*one))) for one in [(0, 0), (0, 1), (1, 0)]
    }
    assert len(draws) == 3


def test_the_digest_knows_type_and_shape():
    images, labels = bright_and_dark()
    found = {
        digest(images, labels),
        digest(images.reshape(20, 1, 4, 16), labels),
        digest(images.double(), labels),
    }
    assert len(found) == 3
