"""Two classes of one image: the paper's normalization, closed forms, one forward pass."""

import numpy as np
import pytest
import torch
from torch import nn

from networks import Residual, images, seeded
from veridical.attributions import method
from veridical.faithfulness import class_difference, display_scale


def fixed(model, inputs, target=None):
    """Relevance that depends on the class: the image for class 0, its negative for class 1."""
    return inputs * torch.where(target == 0, 1.0, -1.0)[:, None, None, None]


def test_mixed_maps_are_scaled_by_the_percentiles_of_both_signs_and_clipped():
    x = images(2, 16)
    found = display_scale(x)
    for one, scaled in zip(x.numpy(), found.numpy(), strict=True):
        top, bottom = np.percentile(one, 99.5), -np.percentile(one, 0.5)
        expected = np.clip(np.where(one > 0, one / top, one / bottom), -1, 1)
        np.testing.assert_allclose(scaled, expected, atol=1e-12)
    assert found.abs().max() == 1
    torch.testing.assert_close(display_scale(-x), -found)
    torch.testing.assert_close(display_scale(x * 1e-7), found)


def test_maps_of_one_sign_are_not_clipped():
    x = images(2, 16).abs() + 0.1
    found = display_scale(x)
    tops = torch.quantile(x.flatten(1), 0.995, dim=1)
    torch.testing.assert_close(found, x / tops[:, None, None, None])
    assert found.max() > 1
    torch.testing.assert_close(display_scale(-x), -found)


def test_sparse_maps_fall_back_to_the_largest_magnitude_and_zeros_are_not_measured():
    x = torch.zeros(3, 1, 40, 40, dtype=torch.float64)
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 4.0, -2.0
    x[1, 0, 0, 0] = 5.0
    found = display_scale(x)
    assert found[0, 0, 0, :2].tolist() == [1.0, -1.0] and found[1, 0, 0, 0] == 1
    assert found[2].isnan().all()


def test_equal_and_opposite_maps():
    model, x = seeded(Residual), images(2, 16)
    same = class_difference(model, x, lambda m, y, target=None: y.clone(), 0, 1)
    assert same.mean_absolute.tolist() == same.relative.tolist() == [0, 0]
    opposite = class_difference(model, x, fixed, 0, 1)
    torch.testing.assert_close(opposite.relative, torch.full((2,), 2.0, dtype=torch.float64))
    torch.testing.assert_close(opposite.difference, 2 * opposite.first)
    torch.testing.assert_close(opposite.mean_absolute, 2 * opposite.first.abs().mean((1, 2, 3)))


class Counted(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, x):
        self.calls += 1
        return self.model(x)


@pytest.mark.parametrize(
    ("name", "passes"), [("gradient", 1), ("lrp-zplus", 1), ("contrastive-lrp", 1), ("smoothgrad", None)]
)
def test_maps_are_those_of_the_method_and_share_one_forward_pass(name, passes):
    model, x = Counted(seeded(Residual)).eval(), images(3, 16)
    explain = method(name)
    found = class_difference(model, x, explain, 2, torch.tensor([0, 1, 0]))
    assert passes is None or model.calls == passes
    torch.testing.assert_close(found.first, display_scale(explain(model, x, 2)))
    torch.testing.assert_close(found.second, display_scale(explain(model, x, torch.tensor([0, 1, 0]))))
    assert found.first_target.tolist() == [2, 2, 2] and found.second_target.tolist() == [0, 1, 0]


def test_wrong_arguments_are_named():
    model, x = seeded(Residual), images(2, 16)
    with pytest.raises(ValueError, match="two different classes, got 1 twice for image 1"):
        class_difference(model, x, fixed, torch.tensor([0, 1]), 1)
    with pytest.raises(ValueError, match="percentile above 50"):
        class_difference(model, x, fixed, 0, 1, percentile=0.995)
    with pytest.raises(ValueError, match="target in 0"):
        class_difference(model, x, fixed, 0, 99)
    with pytest.raises(ValueError, match=r"targets of shape \(2,\), got \(3,\)"):
        class_difference(model, x, fixed, 0, torch.tensor([1, 1, 1]))
    with pytest.raises(TypeError):
        class_difference(model, x, "gradient", 0, 1)
