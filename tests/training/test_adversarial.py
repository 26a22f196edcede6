"""The adversary has a closed form on a linear network, keeps its budget, and trains robust networks."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from veridical.training import (
    Adversary,
    TrainingSettings,
    adversarial_images,
    bordt2023_lenet,
    train_classifier,
    training_recipe,
)
from veridical.training.adversarial import draw_budget, draw_start
from veridical.training.settings import settings_from

SHAPE = (6, 1, 4, 4)
FREE = Adversary(epsilon=0.5, steps=4, bounds=(), start="zero")


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def images(seed=1, low=0.0, high=1.0):
    return low + (high - low) * torch.rand(SHAPE, generator=source(seed), dtype=torch.float64)


LABELS = torch.tensor([0, 1, 0, 1, 0, 1])


class Linear(nn.Module):
    """Logits (0, w x): the loss of class 0 grows along w, that of class 1 along -w."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, generator=source(), dtype=torch.float64))

    def forward(self, x):
        score = x.flatten(1) @ self.weight
        return torch.stack([torch.zeros_like(score), score], dim=1)


def curved(seed=0, dropout=0.0, norm=False):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Conv2d(1, 3, 3), *([nn.BatchNorm2d(3)] if norm else []), nn.Tanh(), nn.Flatten()]
        return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(12, 3)).double()


def signs():
    return torch.where(LABELS == 0, 1.0, -1.0).double()[:, None, None, None]


def test_on_a_linear_network_the_change_is_epsilon_times_the_normed_weights():
    network = Linear()
    found = adversarial_images(network, images(), LABELS, FREE) - images()
    direction = (network.weight / network.weight.norm()).detach().view(1, 1, 4, 4)
    torch.testing.assert_close(found, 0.5 * signs() * direction)


def test_on_a_linear_network_the_change_is_epsilon_times_the_sign_of_the_weights():
    network = Linear()
    found = adversarial_images(network, images(), LABELS, replace(FREE, norm="linf")) - images()
    torch.testing.assert_close(found, 0.5 * signs() * network.weight.detach().sign().view(1, 1, 4, 4))


def test_one_short_step_has_the_length_of_a_step():
    found = adversarial_images(Linear(), images(), LABELS, replace(FREE, steps=1, stride=0.3)) - images()
    torch.testing.assert_close(found.flatten(1).norm(dim=1), torch.full((6,), 0.15).double())


def test_a_shared_budget_holds_for_the_whole_batch():
    network = Linear()
    shared = replace(FREE, budget="batch", start="bordt2023", steps=40)
    found = adversarial_images(network, images(), LABELS, shared) - images()
    assert float(found.norm()) == pytest.approx(0.5, abs=1e-6)
    # The gradients, that of the surest image the smallest, share the budget: not one length for each.
    lengths = found.flatten(1).norm(dim=1)
    assert float(lengths.max() / lengths.min()) > 1.05
    assert float(lengths.max()) < 0.4


def test_by_hand_one_step_of_the_shared_budget():
    network = Linear()
    x = images().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(network(x), LABELS), x)
    shared = replace(FREE, budget="batch", steps=1, stride=0.5)
    found = adversarial_images(network, images(), LABELS, shared) - images()
    torch.testing.assert_close(found, 0.25 * gradient / gradient.norm())


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("start", ["ball", "zero"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_budget_and_range_are_respected(norm, start, dtype):
    adversary = Adversary(norm, epsilon=0.3, steps=5, start=start)
    given = images().to(dtype)
    found = adversarial_images(curved().to(dtype), given, LABELS, adversary)
    change = (found.double() - given.double()).flatten(1)
    lengths = change.norm(dim=1) if norm == "l2" else change.abs().amax(dim=1)
    assert float(lengths.max()) <= 0.3 + 1e-6
    assert float(lengths.max()) > 0.2
    assert float(found.min()) >= 0 and float(found.max()) <= 1
    assert found.dtype == dtype and not found.requires_grad


def test_without_bounds_images_leave_the_range():
    found = adversarial_images(curved(), images(), LABELS, replace(FREE, epsilon=2.0))
    assert float(found.min()) < 0 or float(found.max()) > 1


def test_it_raises_the_loss():
    network, adversary = curved(), Adversary(epsilon=0.5, steps=5)
    found = adversarial_images(network, images(), LABELS, adversary)
    before, after = (
        nn.functional.cross_entropy(network(x), LABELS, reduction="none") for x in (images(), found)
    )
    assert bool((after > before).all())


def test_random_starts_fill_the_ball():
    adversary = Adversary(epsilon=2.0)
    lengths = draw_start(torch.Size((4000, 1, 1, 2)), adversary, source()).flatten(1).norm(dim=1)
    assert float(lengths.max()) <= 2 + 1e-6
    # Uniform in a disk: a quarter of the points lies within half of the radius.
    assert float((lengths < 1).double().mean()) == pytest.approx(0.25, abs=0.03)
    values = draw_start(torch.Size((100, 1, 5, 5)), replace(adversary, norm="linf"), source())
    assert -2 <= float(values.min()) < -1.9 and 1.9 < float(values.max()) <= 2


@pytest.mark.parametrize("budget", ["image", "batch"])
def test_the_authors_start_is_half_of_epsilon_long_and_not_negative(budget):
    start = draw_start(torch.Size(SHAPE), Adversary(epsilon=3.0, start="bordt2023", budget=budget), source())
    rows = start.flatten(1) if budget == "image" else start.reshape(1, -1)
    torch.testing.assert_close(rows.norm(dim=1), torch.full((len(rows),), 1.5))
    assert float(start.min()) >= 0


def test_one_of_several_epsilons_is_drawn():
    several = Adversary(epsilon=(1.0, 4.0, 8.0))
    generator = source()
    drawn = [draw_budget(several, generator).epsilon for _ in range(300)]
    assert all(70 < drawn.count(one) < 130 for one in (1.0, 4.0, 8.0))


def test_the_result_belongs_to_the_seed_and_not_to_the_batch():
    network, adversary = curved(), Adversary(epsilon=0.3, steps=3)
    whole, parts, other = (
        adversarial_images(network, images(), LABELS, adversary, **options)
        for options in ({"batch": 6}, {"batch": 4}, {"seed": 1})
    )
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-12)
    assert not torch.allclose(whole, other)


@pytest.mark.parametrize("mode", ["evaluation", "training"])
def test_the_network_is_left_as_it_was(mode):
    network, before = curved(dropout=0.5, norm=True).train(), torch.get_rng_state()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    adversarial_images(network, images(), LABELS, Adversary(epsilon=0.3, steps=2, mode=mode))
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    assert all(one.grad is None and one.requires_grad for one in network.parameters())
    assert all(module.training for module in network.modules())
    if mode == "evaluation":
        assert torch.equal(torch.get_rng_state(), before)
    torch.set_rng_state(before)


def test_training_mode_has_dropout():
    network = curved(dropout=0.5).train()
    plain, dropped = (
        adversarial_images(network, images(), LABELS, replace(FREE, mode=mode, steps=1))
        for mode in ("evaluation", "training")
    )
    assert not torch.allclose(plain, dropped)


def test_tiny_and_vanishing_gradients():
    network = Linear()
    with torch.no_grad():
        network.weight.mul_(1e-30)
    found = adversarial_images(network.float(), images().float(), LABELS, FREE) - images().float()
    assert float(found.flatten(1).norm(dim=1).min()) == pytest.approx(0.5, abs=1e-5)
    with torch.no_grad():
        network.weight.zero_()
    assert torch.equal(adversarial_images(network, images().float(), LABELS, FREE), images().float())


def test_bytes_are_scaled():
    stored = (images() * 255).round().to(torch.uint8)
    found = adversarial_images(curved().float(), stored, LABELS, FREE)
    expected = adversarial_images(curved().float(), stored.float() / 255, LABELS, FREE)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"norm": "l1"}, ValueError, "norm to be one of l2, linf"),
        ({"start": "best"}, ValueError, "start to be one of"),
        ({"budget": "pixel"}, ValueError, "budget to be one of"),
        ({"mode": "eval"}, ValueError, "mode to be one of"),
        ({"steps": 0}, ValueError, "steps of at least 1"),
        ({"steps": 2.0}, TypeError, "steps as a whole number"),
        ({"epsilon": 0.0}, ValueError, "epsilon above 0, got 0.0"),
        ({"epsilon": (1.0, -1.0)}, ValueError, "epsilon above 0"),
        ({"epsilon": ()}, ValueError, "epsilon above 0"),
        ({"epsilon": math.nan}, ValueError, "epsilon above 0"),
        ({"stride": 0}, ValueError, "stride above 0"),
        ({"bounds": (1.0, 0.0)}, ValueError, r"bounds \(low, high\)"),
        ({"bounds": (1.0,)}, ValueError, r"bounds \(low, high\)"),
        ({"norm": "linf", "budget": "batch"}, ValueError, "for linf, got 'batch'"),
        ({"norm": "linf", "start": "bordt2023"}, ValueError, "and 'bordt2023'"),
    ],
)
def test_wrong_choices_are_named(options, error, message):
    with pytest.raises(error, match=message):
        Adversary(**options)


def test_wrong_images_are_named():
    with pytest.raises(ValueError, match=r"within the adversary's bounds \(0.0, 1.0\), got values from"):
        adversarial_images(curved(), images(high=2.0), LABELS, Adversary())
    with pytest.raises(ValueError, match="the network has 3 classes"):
        adversarial_images(curved(), images(), LABELS + 2, Adversary())
    with pytest.raises(ValueError, match="one label an image"):
        adversarial_images(curved(), images(), LABELS[:2], Adversary())
    with pytest.raises(ValueError, match="batch of at least 1"):
        adversarial_images(curved(), images(), LABELS, Adversary(), batch=0)


def test_an_adversary_is_a_value_and_comes_back_from_json():
    settings = TrainingSettings(adversary=Adversary(epsilon=(1.0, 2.0), bounds=()))
    assert len({settings, replace(settings)}) == 1
    told = asdict(settings)
    told["adversary"] = {
        name: list(one) if isinstance(one, tuple) else one for name, one in told["adversary"].items()
    }
    assert settings_from(told) == settings
    assert settings_from({"epochs": 3}) == TrainingSettings(epochs=3)
    with pytest.raises(TypeError, match="expected adversary as an Adversary or None, got 'l2'"):
        TrainingSettings(adversary="l2")


TRAINING = TrainingSettings(
    epochs=3, batch=4, lr=0.02, seed=4, adversary=Adversary(epsilon=(0.2, 0.4), steps=2, mode="training")
)


def weights(network):
    return [value.clone() for value in network.state_dict().values()]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_an_interrupted_adversarial_training_ends_like_one_that_was_not(tmp_path):
    def stop(moment):
        if moment.epoch == 1 and moment.step == 1:
            raise KeyboardInterrupt

    whole, file = curved(dropout=0.3), tmp_path / "checkpoint.safetensors"
    before = torch.get_rng_state()
    expected = train_classifier(whole, images(), LABELS, TRAINING)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(KeyboardInterrupt):
        train_classifier(curved(dropout=0.3), images(), LABELS, TRAINING, checkpoint=file, progress=stop)
    resumed = curved(seed=9, dropout=0.3)
    done = train_classifier(resumed, images(), LABELS, TRAINING, checkpoint=file)
    assert done.resumed == 1 and done.history == expected.history
    assert same(weights(whole), weights(resumed))


def test_the_adversary_changes_the_training_and_belongs_to_the_checkpoint(tmp_path):
    plain, robust, file = curved(), curved(), tmp_path / "checkpoint.safetensors"
    train_classifier(plain, images(), LABELS, replace(TRAINING, adversary=None))
    train_classifier(robust, images(), LABELS, TRAINING, checkpoint=file)
    assert not same(weights(plain), weights(robust))
    with pytest.raises(ValueError, match="got adversary None instead of Adversary"):
        train_classifier(curved(), images(), LABELS, replace(TRAINING, adversary=None), checkpoint=file)


def test_training_refuses_images_beyond_the_bounds():
    with pytest.raises(ValueError, match="within the adversary's bounds"):
        train_classifier(curved(), images(low=-1.0), LABELS, TRAINING)


def test_the_lenet_and_its_recipes_are_those_of_the_code():
    network, before = bordt2023_lenet(), torch.get_rng_state()
    assert same(weights(network), weights(bordt2023_lenet(0)))
    assert not same(weights(network), weights(bordt2023_lenet(1)))
    assert torch.equal(torch.get_rng_state(), before)
    shapes = {name: tuple(one.shape) for name, one in network.named_parameters() if one.dim() > 1}
    assert shapes == {
        "conv1.weight": (32, 1, 3, 3),
        "conv2.weight": (64, 32, 3, 3),
        "fc3.weight": (128, 12544),
        "fc4.weight": (10, 128),
    }
    assert sum(one.numel() for one in network.parameters()) == 1_625_866
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    assert training_recipe("bordt2023-mnist32").settings == TrainingSettings(
        epochs=50, batch=32, lr=1e-3, schedule="step"
    )
    robust = training_recipe("bordt2023-mnist32-robust").settings
    assert robust.adversary == Adversary(
        "l2", (1.0, 4.0, 8.0), 100, bounds=(), start="bordt2023", budget="batch", mode="training"
    )
    assert (robust.optimizer, robust.lr, robust.batch, robust.epochs) == ("sgd", 0.1, 100, 15)
    # What was measured, and what the comment in the recipe says.
    reduced = training_recipe("bordt2023-mnist32-robust-reduced").settings
    assert reduced == TrainingSettings(
        epochs=5, batch=64, lr=1e-3, schedule="cosine", adversary=Adversary("l2", 2.0, 4)
    )
    assert reduced.total_steps(10_000) * 4 == 3140
