import pytest
import torch
from torch import nn

from veridical.smoothing import NoiseAveraged, smoothgrad


def cubic(model, inputs, target=None):
    """A relevance that depends on the input alone, in closed form."""
    return inputs**3


def by_class(model, inputs, target=None):
    return inputs * 0 + target.reshape(-1, 1, 1, 1)


def images(count=3):
    return torch.randn(count, 2, 4, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def classifier():
    net = nn.Sequential(nn.Flatten(), nn.Linear(40, 3)).double().eval()
    generator = torch.Generator().manual_seed(0)
    net[1].weight.data = torch.randn(net[1].weight.shape, generator=generator, dtype=torch.float64)
    return net


def test_mean_over_copies_against_a_loop():
    x = images()
    noise = torch.randn(4, 2, 4, 5, generator=torch.Generator().manual_seed(7)).double()
    sigma = 0.2 * (x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True))
    expected = sum(((x + e * sigma) ** 3 for e in noise), torch.zeros_like(x)) / 4
    found = smoothgrad(cubic, samples=4, noise=0.2, seed=7)(classifier(), x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("chunk", [None, 1, 2, 100])
def test_batch_equals_singles_and_chunks_do_not_matter(chunk):
    x, net = images(), classifier()
    method = smoothgrad(cubic, samples=5, chunk=chunk)
    singles = torch.cat([smoothgrad(cubic, samples=5)(net, one) for one in x.split(1)])
    torch.testing.assert_close(method(net, x), singles, rtol=1e-13, atol=1e-13)


def test_target_is_that_of_the_clean_image():
    x, net = images(), classifier()
    expected = net(x).argmax(1).double().reshape(-1, 1, 1, 1).expand_as(x)
    torch.testing.assert_close(smoothgrad(by_class, noise=5.0)(net, x), expected)
    assert torch.equal(smoothgrad(by_class)(net, x, 2), torch.full_like(x, 2.0))


def test_fixed_range():
    x, net = images(), classifier()
    noise = torch.randn(2, 2, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    expected = ((x + 0.3 * noise[0]) ** 3 + (x + 0.3 * noise[1]) ** 3) / 2
    torch.testing.assert_close(smoothgrad(cubic, samples=2, noise=0.1, range=3.0)(net, x), expected)


def test_no_noise_is_the_method():
    x = images()
    torch.testing.assert_close(smoothgrad(cubic, noise=0.0)(classifier(), x), x**3)


def test_normalized_average_sums_to_one():
    found = NoiseAveraged(cubic, average="normalized")(classifier(), images())
    torch.testing.assert_close(found.sum((1, 2, 3)), torch.ones(3, dtype=torch.float64))
    assert bool((found >= 0).all())


def test_derivative_is_exact():
    net = classifier()
    target = torch.tensor([1])
    method = smoothgrad(cubic, samples=3, noise=0.2)
    assert torch.autograd.gradcheck(lambda x: method(net, x, target), (images(1).requires_grad_(True),))


def test_global_generator_is_as_before():
    net, x = classifier(), images()
    state = torch.get_rng_state()
    first = smoothgrad(cubic)(net, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, smoothgrad(cubic)(net, x))
    assert not torch.equal(first, smoothgrad(cubic, seed=1)(net, x))


@pytest.mark.parametrize(
    "options",
    [
        {"samples": 0},
        {"chunk": 0},
        {"noise": -1.0},
        {"noise": float("nan")},
        {"range": 0.0},
        {"range": "pixel"},
    ],
)
def test_wrong_options(options):
    with pytest.raises(ValueError, match="expected"):
        smoothgrad(cubic, **options)


def test_wrong_average():
    with pytest.raises(ValueError, match="normalized"):
        NoiseAveraged(cubic, average="median")


def test_name():
    assert smoothgrad(cubic).name == "smoothgrad(cubic, samples=10, noise=0.1)"
