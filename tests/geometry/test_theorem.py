"""Theorem 1: no link of the chain is ever violated; walks and geodesics against closed forms."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import veridical as vd
from networks import Residual, images, seeded
from surfaces import Quadric, dense, perceptron, point
from veridical.geometry import GeodesicSettings, WalkSettings
from veridical.smoothing import SmoothedModel

CASES_FAST, CASES_SLOW = 4, 46
IMAGES = 24


class Small(nn.Module):
    """A padded convolution, batch normalization, a residual sum, a linear head; images of 1 x 3 x 3."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 3, 2, padding=1), nn.BatchNorm2d(3)
        self.second, self.head = nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.Linear(48, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm(self.first(x)))
        return self.head((y + F.relu(self.second(y))).flatten(1))


def subject(seed: int) -> tuple[nn.Module, tuple[int, int, int]]:
    """One of four architectures with random weights, and the size of its images."""
    sizes = ((4, 6, 5, 2), (4, 9, 3), (6, 7, 6, 5, 2))
    if seed % 4 == 3:
        return seeded(Small, seed), (1, 3, 3)
    chosen = sizes[seed % 4]
    return perceptron(seed, chosen, None), (1, chosen[0] // 2, 2)


def check_chain(seed: int) -> None:
    """24 random cases: one network, 24 images; the links of the proof too, with dense Hessians."""
    beta = (0.5, 1.0, 3.0, 10.0)[seed // 4 % 4]
    model, shape = subject(seed)
    generator = torch.Generator().manual_seed(1000 + seed)
    x = torch.randn(IMAGES, *shape, generator=generator, dtype=torch.float64)
    path = vd.walk(model, x, 0, beta=beta, steps=4, length=0.2, seed=seed)
    found = vd.theorem1(model, path, top=1, steps=math.prod(shape) - 1, batch=IMAGES, factor="tight")
    assert bool(path.reached.all())
    assert bool(found.holds(1e-3).all()), {name: value.min() for name, value in found.slack().items()}
    smooth = SmoothedModel(model, beta)
    for image in range(IMAGES):
        gradient, matrix, exact = dense(smooth, path.points[-1, image : image + 1], 0)
        bound = found.constant.hessian[image]
        assert gradient.norm() <= found.constant.gradient[image]
        assert matrix.norm() <= bound
        assert exact.norm() <= matrix.norm() / gradient.norm() * (1 + 1e-12)
        assert exact.abs().max() <= exact.norm()
        assert found.curvature[image] >= exact.abs().max() * (1 - 1e-8)


@pytest.mark.parametrize("seed", range(CASES_FAST))
def test_the_chain_holds(seed: int) -> None:
    check_chain(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(CASES_FAST, CASES_FAST + CASES_SLOW))
def test_the_chain_holds_in_1200_cases(seed: int) -> None:
    assert (CASES_FAST + CASES_SLOW) * IMAGES == 1200
    check_chain(seed)


def test_a_walk_on_a_sphere_is_a_great_circle() -> None:
    x = point(0.0, 0.0, 3.0)
    path = vd.walk(Quadric([1.0] * 3), x, 0, direction=point(1.0, 0.0, 0.7), length=2.0, steps=100)
    assert torch.allclose(path.points.flatten(2).norm(dim=2), torch.tensor(3.0).double(), atol=1e-9)
    assert path.points[:, 0, 0, 0, 1].abs().max() < 1e-12  # it stays in the plane
    angle = path.length.item() / 3
    assert angle == pytest.approx(2 / 3, rel=2e-4)
    assert path.change.item() == pytest.approx(2 * math.sin(angle / 2), rel=1e-4)
    assert path.turning.item() == pytest.approx(angle, rel=1e-4)
    assert path.distance.item() == pytest.approx(3 * path.change.item(), rel=1e-9)


def test_the_chain_is_tight_on_a_circle_and_knows_every_link() -> None:
    model = perceptron(0, (4, 6, 2), None)
    path = vd.walk(model, images(1, 2)[:, :1], 0, beta=2.0, steps=5, length=0.1)
    found = vd.theorem1(model, path, steps=3, every=3)
    assert found.measured_at == (0, 3, 5)
    slack = found.slack()
    assert set(slack) == {*found.links()} and len(slack) == 4
    assert slack["curvature * length <= beta * C * length"].item() == pytest.approx(
        (found.weight_bound / found.curvature_bound).item()
    )
    paper, tight = (vd.theorem1(model, path, steps=3, factor=name) for name in ("paper", "tight"))
    assert paper.weight_bound.item() == pytest.approx(4 * tight.weight_bound.item())
    assert bool(found.holds().all())


def test_walks_do_not_depend_on_the_batch_and_the_step_is_kept() -> None:
    model, x = seeded(Residual), images(3, 8)
    whole = vd.walk(model, x, 1, beta=2.0, steps=3, length=0.3)
    split = vd.walk(model, x, 1, beta=2.0, steps=3, length=0.3, batch=1)
    assert torch.allclose(whole.points, split.points, atol=1e-12)
    values = torch.stack([vd.beta_smooth(_value, 2.0)(model, p, 1) for p in whole.points])
    assert (values - values[0]).abs().max() < 1e-10
    assert torch.allclose(whole.length, torch.tensor(0.3).double(), rtol=1e-2)


def _value(model: torch.nn.Module, inputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return model(inputs).gather(1, target[:, None])


def test_a_geodesic_on_a_sphere_lies_between_chord_and_arc() -> None:
    first, second = point(2.0, 0.0, 0.0), point(0.0, 2.0, 0.0)
    found = vd.geodesic(Quadric([1.0] * 3), first, second, 0, sweeps=4)
    arc = 2 * math.pi / 2
    assert arc <= found.upper.item() <= arc * 1.01
    assert found.lower.item() == pytest.approx(math.sqrt(8)) and found.moved.item() == pytest.approx(0.0)
    assert found.ratio.item() == pytest.approx(found.upper.item() / math.sqrt(8))
    assert len(found.path.points) == 17


def test_shortening_finds_the_straight_line_of_a_cylinder() -> None:
    # From (1, 0, 0) to (-0.6, 0.8, 2): unrolled, a straight line.
    found = vd.geodesic(Quadric([1.0, 1.0, 0.0]), point(1.0, 0.0, 0.0), point(-0.6, 0.8, 2.0), 0, sweeps=20)
    exact = math.hypot(math.acos(-0.6), 2.0)
    assert exact * 0.9999 <= found.upper.item() <= exact * 1.01


def test_the_twin_is_moved_onto_the_level_set_first() -> None:
    found = vd.geodesic(
        Quadric([1.0] * 3), point(2.0, 0.0, 0.0), point(0.0, 3.0, 0.0), 0, halvings=1, sweeps=1
    )
    assert found.moved.item() == pytest.approx(1.0)
    assert torch.allclose(found.path.points[-1], point(0.0, 2.0, 0.0), atol=1e-9)


def test_an_image_and_itself_have_distance_zero_and_no_ratio() -> None:
    model, x = seeded(Residual), images(2, 8)
    found = vd.geodesic(model, x, x, beta=2.0, halvings=1, sweeps=1)
    assert found.upper.abs().max() < 1e-9 and bool(found.ratio.isnan().all() | (found.upper < 1e-9).all())


def test_a_level_that_cannot_be_reached_is_not_measured() -> None:
    # Through the center there is no gradient to follow.
    first, second = point(2.0, 0.0, 0.0), point(-2.0, 0.0, 0.0)
    with pytest.warns(UserWarning, match=r"no path on the level set of image\(s\) \[0\]"):
        found = vd.geodesic(Quadric([1.0] * 3), first, second, 0, halvings=1, sweeps=1)
    assert math.isnan(found.upper.item()) and not bool(found.path.reached)
    with pytest.warns(UserWarning, match="no gradient to follow"):
        flat = vd.walk(Quadric([1.0] * 3), point(0.0, 0.0, 0.0), 0)
    assert not bool(flat.reached) and math.isnan(flat.length.item())


def test_a_class_whose_level_set_is_empty_near_the_image_is_named_and_the_others_are_measured() -> None:
    class Bump(nn.Module):
        """exp(-||x||^2 / 2): far from the center there is no point with the output that the center has."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            value = (-x.flatten(1).square().sum(dim=1) / 2).exp()
            return torch.stack([value, 1 - value], dim=1)

    inputs = torch.cat([point(1.0, 0.0, 0.0), point(1.0, 0.0, 0.0)])
    others = torch.cat([point(0.0, 1.0, 0.0), point(0.0, 60.0, 0.0)])
    with pytest.warns(
        UserWarning, match=r"image\(s\) \[1\].*no point with that output nearby.*another target"
    ):
        found = vd.geodesic(Bump().eval(), inputs, others, 1, halvings=2, sweeps=10)
    assert found.path.reached.tolist() == [True, False]
    assert math.pi / 2 <= found.upper[0] <= math.pi / 2 * 1.02 and math.isnan(found.upper[1])


def test_a_geodesic_lies_between_the_straight_line_and_a_walk() -> None:
    model = perceptron(5, (12, 20, 10, 3), None)
    path = vd.walk(model, images(4, 2), 1, beta=3.0, steps=10, length=0.8, seed=2)
    found = vd.geodesic(model, path.points[0], path.points[-1], 1, beta=3.0, sweeps=30)
    assert bool((found.lower <= found.upper).all()) and bool((found.ratio >= 1).all())
    assert torch.allclose(found.lower, path.distance) and bool((found.moved < 1e-9).all())
    assert bool((found.upper <= path.length * 1.001).all())


def test_bad_arguments_are_refused() -> None:
    model, x = perceptron(0, (12, 6, 3), 2.0), images(1, 2)
    with pytest.raises(ValueError, match="direction of shape"):
        vd.walk(model, x, 0, direction=x[0])
    with pytest.raises(ValueError, match="others of shape"):
        vd.geodesic(model, x, x[:, :1], 0)
    with pytest.raises(ValueError, match="steps and batch"):
        WalkSettings(steps=0)
    with pytest.raises(ValueError, match="positive length"):
        WalkSettings(length=0.0)
    with pytest.raises(ValueError, match="sweeps of at least 1"):
        GeodesicSettings(sweeps=0)
    path = vd.walk(model, x, 0, score="probability", steps=1)
    with pytest.raises(ValueError, match="got 'probability'"):
        vd.theorem1(model, path)
    with pytest.raises(ValueError, match="every of at least 1"):
        vd.theorem1(model, vd.walk(model, x, 0, steps=1), every=0)
