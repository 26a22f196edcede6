import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from veridical.attacks import PRESETS, ManipulationSettings, manipulate
from veridical.attacks.loss import Problem, needs_smoothing, saliency_map
from veridical.attacks.outcome import compare, image_change, output_change
from veridical.smoothing import beta_smooth, smoothgrad

FAST = ManipulationSettings(steps=60, lr=0.02, factors=(1e6, 1e3), rescale=False, every=20)


@dataclass(frozen=True)
class Gradient:
    name: str = "gradient"

    def __call__(self, model, inputs, target=None):
        return self.with_logits(model, inputs, target)[0]

    def with_logits(self, model, inputs, target=None):
        create = inputs.requires_grad
        x = inputs if create else inputs.detach().requires_grad_(True)
        with torch.enable_grad():
            logits = model(x)
            chosen = logits.gather(1, target[:, None]).sum()
            relevance = torch.autograd.grad(chosen, x, create_graph=create)[0]
        return relevance, logits


def plain(model, inputs, target=None):
    return Gradient()(model, inputs, target)


def network():
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 16, 4),
    ).double()
    for parameter in net.parameters():
        scale = 1 / math.sqrt(max(1, parameter[0].numel()))
        parameter.data = scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return net.eval()


def images(count=3):
    generator = torch.Generator().manual_seed(5)
    return torch.rand(count, 2, 8, 8, generator=generator, dtype=torch.float64) * 2 - 1


def goals(count=3):
    maps = torch.full((count, 8, 8), 0.05, dtype=torch.float64)
    for index in range(count):
        maps[index, index : index + 4, 2:6] = 1.0
    return maps


def run(count=3, settings=FAST, **options):
    options.setdefault("explainer", Gradient())
    return manipulate(network(), images(count), goals(count), settings=settings, **options)


def test_map_moves_to_the_target_and_the_class_stays():
    result = run()
    similar = result.similarity
    assert bool((similar.to_target.pcc > similar.before.pcc + 0.2).all())
    assert bool((similar.to_target.mse < similar.before.mse).all())
    assert bool(result.output_change.class_kept.all())
    assert not result.interrupted
    assert [entry.step for entry in result.history] == [0, 20, 40, 60]
    assert bool(result.history[0].loss.isnan().all())
    assert bool(result.history[-1].loss.isfinite().all())


def test_everything_returned_is_of_the_unmodified_network():
    result, net = run(), network()
    target = net(result.inputs).argmax(1)
    expected = saliency_map(Gradient(), net, result.inputs, target)
    torch.testing.assert_close(result.saliency, expected)
    torch.testing.assert_close(result.saliency.sum((1, 2)), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(result.target_map.sum((1, 2)), torch.ones(3, dtype=torch.float64))
    change = net(result.inputs) - net(images())
    torch.testing.assert_close(result.output_change.logits, change.detach())


def test_batch_equals_singles():
    together = run()
    for index in range(3):
        alone = manipulate(
            network(),
            images()[index : index + 1],
            goals()[index : index + 1],
            explainer=Gradient(),
            settings=FAST,
        )
        torch.testing.assert_close(together.inputs[index], alone.inputs[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(together.saliency[index], alone.saliency[0], rtol=0, atol=1e-9)
        assert together.step[index] == alone.step[0]


def test_sharing_the_forward_pass_changes_nothing():
    shared, separate = run(), run(explainer=plain)
    torch.testing.assert_close(shared.inputs, separate.inputs, rtol=0, atol=1e-9)


def problem(explainer=None, **options):
    net, settings = network(), ManipulationSettings(factors=(1e4, 1e2), rescale=False, **options)
    with torch.no_grad():
        logits = net(images(1))
    goal = goals(1) / goals(1).sum()
    return Problem(net, explainer or Gradient(), logits.argmax(1), goal, logits, settings, True)


@pytest.mark.parametrize("output", ["probability", "logit"])
@pytest.mark.parametrize("network_of_output", ["shared", "unmodified"])
@pytest.mark.parametrize("explainer", [Gradient(), smoothgrad(Gradient(), samples=2)])
def test_gradient_of_the_loss_equals_finite_differences(output, network_of_output, explainer):
    task = problem(explainer, output=output, output_network=network_of_output)
    x = (images(1) + 0.05).requires_grad_(True)
    (gradient,) = torch.autograd.grad(task.losses(x, 3.0).sum(), x)
    generator = torch.Generator().manual_seed(9)
    for _ in range(3):
        way = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        above, below = (task.losses(x + sign * 1e-6 * way, 3.0).item() for sign in (1, -1))
        assert (above - below) / 2e-6 == pytest.approx((gradient * way).sum().item(), rel=1e-5, abs=1e-7)


def test_loss_is_equation_4_in_means():
    task, x = problem(), images(1) + 0.1
    found = task.losses(x, math.inf)
    net = task.model
    h = Gradient()(net, x, task.targets).abs().sum(1)
    h = h / h.sum()
    p, p0 = net(x).softmax(1), net(images(1)).softmax(1)
    expected = 1e4 * ((h - task.target_map) ** 2).mean() + 1e2 * ((p - p0) ** 2).mean()
    torch.testing.assert_close(found[0], expected)


def test_clamping_is_respected():
    settings = ManipulationSettings(
        steps=20, lr=0.2, factors=(1e6, 0.0), rescale=False, bounds=((-1.0, -1.1), torch.ones(2)), keep="last"
    )
    result = run(settings=settings)
    assert bool((result.inputs <= 1).all())
    assert bool((result.inputs[:, 0] >= -1).all())
    assert result.inputs[:, 1].min() == -1.1
    assert bool((result.image_change.linf <= 1).all())
    assert bool((result.step == 20).all())


def test_best_is_never_worse_than_what_was_seen():
    result = run()
    seen = torch.stack([torch.where(entry.class_kept, entry.pcc, -1.0) for entry in result.history])
    torch.testing.assert_close(result.similarity.to_target.pcc, seen.amax(0))


@pytest.mark.parametrize("keep", ["best", "last"])
def test_interrupt_keeps_what_was_reached(keep):
    def stop(done, losses):
        assert losses.shape == (3,)
        if done == 45:
            raise KeyboardInterrupt

    settings = ManipulationSettings(steps=60, lr=0.02, factors=(1e6, 1e3), rescale=False, every=20, keep=keep)
    result, whole = run(callback=stop, settings=settings), run()
    assert result.interrupted
    assert [entry.step for entry in result.history] == [0, 20, 40]
    assert bool((result.step > 0).all())
    for short, long in zip(result.history, whole.history, strict=False):
        torch.testing.assert_close(short.pcc, long.pcc)


def test_interrupt_before_the_first_evaluation_returns_the_clean_image():
    def stop(done, losses):
        raise KeyboardInterrupt

    result = run(callback=stop)
    assert torch.equal(result.inputs, images())
    assert bool(result.image_change.psnr.isinf().all())


def test_logits_can_be_held_constant():
    free = ManipulationSettings(steps=40, lr=0.02, factors=(1e6, 0.0), rescale=False, keep="last")
    held = ManipulationSettings(
        steps=40, lr=0.02, factors=(1e6, 1e5), rescale=False, output="logit", keep="last",
        output_network="unmodified",
    )  # fmt: skip
    change = [run(settings=setting).output_change.logits.norm() for setting in (free, held)]
    assert change[1] < 0.2 * change[0]


def test_relu_without_growth_is_refused():
    settings = ManipulationSettings(steps=5, smoothing="off", factors=(1e6, 0.0))
    with pytest.raises(ValueError, match="growth"):
        run(settings=settings)


def test_detached_method_is_refused():
    def detached(model, inputs, target=None):
        return plain(model, inputs, target).detach()

    settings = ManipulationSettings(steps=5, factors=(1e6, 0.0))
    with pytest.raises(ValueError, match="detached"):
        run(explainer=detached, settings=settings)


def test_attack_on_smoothed_methods():
    settings = ManipulationSettings(steps=20, lr=0.02, factors=(1e6, 1e3), rescale=False, every=10)
    smoothed = run(1, settings=settings, explainer=beta_smooth(Gradient(), 2.0))
    assert math.isinf(smoothed.history[-1].beta)
    assert smoothed.similarity.to_target.pcc > smoothed.similarity.before.pcc
    noisy = run(1, settings=settings, explainer=smoothgrad(Gradient(), samples=3))
    assert noisy.history[-1].beta < 100
    assert noisy.similarity.to_target.pcc > noisy.similarity.before.pcc


def test_network_without_relu_needs_no_growth():
    net = nn.Sequential(nn.Flatten(), nn.Linear(128, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
    result = manipulate(net, images(1), goals(1), explainer=Gradient(), settings=FAST)
    assert math.isinf(result.history[-1].beta)


def test_which_methods_need_smoothing():
    def named(name):
        return Gradient(name)

    assert needs_smoothing(named("gradient"))
    assert needs_smoothing(named("guided-backprop"))
    assert needs_smoothing(plain)
    assert needs_smoothing(smoothgrad(plain))
    assert not needs_smoothing(named("lrp-zplus"))
    assert not needs_smoothing(named("deep-taylor"))
    assert not needs_smoothing(beta_smooth(plain))
    assert not needs_smoothing(smoothgrad(beta_smooth(plain)))


def test_model_inputs_and_generator_are_as_before():
    net, x = network(), images()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    random, before = torch.get_rng_state(), x.clone()
    manipulate(net, x, goals(), explainer=Gradient(), settings=FAST)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, before)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_training_mode_is_put_back():
    net = network().train()
    with pytest.warns(UserWarning, match="training mode"):
        manipulate(net, images(1), goals(1), explainer=Gradient(), settings=FAST)
    assert net.training


BAD_MAPS = {
    "shape": (goals()[:, :4], r"\(3, 8, 8\), got \(3, 4, 8\)"),
    "batch": (goals()[:1], "one"),
    "negative": (goals() - 1, "non-negative"),
    "nan": (goals() * math.nan, "NaN"),
    "zeros": (goals() * 0, "zeros"),
}


@pytest.mark.parametrize("name", BAD_MAPS)
def test_wrong_target_maps(name):
    target_map, message = BAD_MAPS[name]
    with pytest.raises(ValueError, match=message):
        manipulate(network(), images(), target_map, explainer=Gradient(), settings=FAST)


def test_other_wrong_arguments():
    with pytest.raises(TypeError, match="target_map"):
        manipulate(network(), images(), None, explainer=Gradient())
    with pytest.raises(ValueError, match="NaN"):
        manipulate(network(), images() * math.nan, goals(), explainer=Gradient())
    with pytest.raises(ValueError, match="0..3, got 4"):
        run(target=4)
    with pytest.raises(ValueError, match="within the bounds"):
        run(settings=ManipulationSettings(bounds=(0.0, 1.0)))
    with pytest.raises(ValueError, match="bounds of 1 or 2 channels"):
        run(settings=ManipulationSettings(bounds=((0.0,) * 3, (1.0,) * 3)))
    with pytest.raises(ValueError, match="expected relevance of shape"):
        run(explainer=lambda model, inputs, target=None: inputs.sum(1))


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 0},
        {"every": 0},
        {"lr": 0.0},
        {"lr": math.nan},
        {"beta": (10.0, -1.0)},
        {"factors": (-1.0, 0.0)},
        {"output": "softmax"},
        {"smoothing": "yes"},
        {"keep": "first"},
        {"output_network": "other"},
        {"bounds": (1.0, 0.0)},
        {"bounds": ((0.0, 1.0), (1.0, 1.0))},
        {"bounds": ((0.0, 0.0), (1.0, 1.0, 1.0))},
    ],
)
def test_wrong_settings(options):
    with pytest.raises(ValueError, match="expected"):
        ManipulationSettings(**options)


def test_factor_follows_the_number_of_pixels():
    assert ManipulationSettings().map_factor(224 * 224) == 1e11
    assert ManipulationSettings().map_factor(112 * 112) == pytest.approx(1e11 / 16)
    assert ManipulationSettings(rescale=False).map_factor(4) == 1e11


def test_presets_are_the_published_numbers():
    assert PRESETS["table1-lrp"].lr == 2e-4
    assert PRESETS["table2-densenet121"].beta == (30.0, 300.0)
    assert PRESETS["table2-resnet18"].factors == (1e11, 10.0)
    assert {entry.output for name, entry in PRESETS.items() if "table2" in name} == {"logit"}
    assert PRESETS["table5-integrated-gradients"].steps == 200


def test_image_change_in_units_of_the_valid_range():
    clean = torch.zeros(1, 1, 2, 2)
    moved = clean + torch.tensor([[0.0, 0.4], [0.0, 0.0]])
    limits = (torch.tensor(-1.0).reshape(1, 1, 1, 1), torch.tensor(1.0).reshape(1, 1, 1, 1))
    change = image_change(clean, moved, limits)
    assert change.linf.item() == pytest.approx(0.2)
    assert change.l2.item() == pytest.approx(0.2)
    assert change.psnr.item() == pytest.approx(20.0)
    assert bool(change.similarity.ssim.isnan().all())


def test_output_change_in_closed_form():
    before, after = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    change = output_change(before, after)
    high = 1 / (1 + math.exp(-2))
    assert change.probability.item() == pytest.approx(high)
    assert change.probability_change.item() == pytest.approx(1 - 2 * high)
    assert change.probability_norm.item() == pytest.approx(math.sqrt(2) * (2 * high - 1))
    assert not change.class_kept.item()


def test_compare_does_not_depend_on_the_scale_of_maps():
    maps = torch.rand(2, 9, 9, generator=torch.Generator().manual_seed(0))
    other = maps.flip(1)
    torch.testing.assert_close(compare(maps, other).ssim, compare(maps * 1e-6, other * 1e-6).ssim)
    torch.testing.assert_close(compare(maps, maps).ssim, torch.ones(2, dtype=torch.float64))


def test_statistics_are_one_number_a_pair():
    values = run().statistics()
    assert {"pcc_to_target", "pcc_to_original", "linf", "psnr", "class_kept"} <= set(values)
    assert all(value.shape == (3,) and value.dtype == torch.float64 for value in values.values())
