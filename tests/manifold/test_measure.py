"""Methods with known alignment on a network whose gradient is known."""

import math

import pytest
import torch
from torch import Tensor, nn

import veridical as vd
from veridical.manifold import (
    AlignmentSettings,
    RandomFraction,
    load_recipe,
    measure_alignment,
    orthonormal_rows,
    store_tangents,
)
from veridical.values import Target

SHAPE = (1, 4, 8)
N, K, D = 6, 4, 32


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Network(nn.Module):
    """Logits z = W x: the gradient of class c is row c."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(D, 3, bias=False).double()
        self.head.weight.data = drawn(3, D, seed=9)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


def inputs() -> Tensor:
    return drawn(N, *SHAPE, seed=1)


def a_basis() -> Tensor:
    return orthonormal_rows(drawn(N, K, D, seed=2), 1e-12)[0].unflatten(2, SHAPE)


def gradient(model: nn.Module, images: Tensor, target: Target = None) -> Tensor:
    return model.head.weight[target].detach().view_as(images)


def of_image(images: Tensor) -> Tensor:
    """Which of the images each one is."""
    return torch.cdist(images.flatten(1), inputs().flatten(1)).argmin(1)


def aligned(model: nn.Module, images: Tensor, target: Target = None) -> Tensor:
    return a_basis()[of_image(images), 1]


def orthogonal(model: nn.Module, images: Tensor, target: Target = None) -> Tensor:
    return vd.manifold.tangent_split(drawn(N, *SHAPE, seed=4), a_basis()).orthogonal[of_image(images)]


def nothing(model: nn.Module, images: Tensor, target: Target = None) -> Tensor:
    return torch.zeros_like(images)


METHODS = {"gradient": gradient, "aligned": aligned, "orthogonal": orthogonal, "nothing": nothing}


def test_known_methods_have_known_fractions() -> None:
    found = measure_alignment(Network().eval(), inputs(), a_basis(), METHODS)
    assert found.methods == tuple(METHODS) and found.fractions.shape == (4, N)
    torch.testing.assert_close(found.of("aligned"), torch.ones(N).double())
    assert found.of("orthogonal").max() < 1e-14 and found.of("nothing").isnan().all()
    rows = Network().head.weight.detach()[found.target].view(N, *SHAPE)
    torch.testing.assert_close(found.of("gradient"), vd.tangent_fraction(rows, a_basis()))
    assert torch.equal(found.target, Network()(inputs()).argmax(1)) and torch.equal(
        found.predicted, found.target
    )
    torch.testing.assert_close(found.by_k[1], torch.tensor([0.0, 1, 1, 1]).double().expand(N, -1))
    assert found.rank.tolist() == [K] * N and found.dimension == D
    shifted = vd.tangent_fraction(rows, a_basis().roll(1, 0))
    torch.testing.assert_close(found.others[0], shifted)


def test_the_summary_holds_the_methods_against_random_directions() -> None:
    found = measure_alignment(Network().eval(), inputs(), a_basis(), METHODS)
    stated = RandomFraction(K, D)
    best, worst, missing = (found.summary(name) for name in ("aligned", "orthogonal", "nothing"))
    assert best.random == pytest.approx(stated.mean)
    assert best.random_high == pytest.approx(stated.quantile(0.95))
    assert best.mean.estimate == pytest.approx(1) and best.std == pytest.approx(0, abs=1e-9)
    assert best.p_value == pytest.approx(0.5**N) and best.above.estimate == 1
    assert worst.p_value == 1 and worst.above.estimate == 0 and worst.mean.estimate < 1e-14
    assert missing.missing == N and missing.mean.n == 0 and math.isnan(missing.p_value)
    assert math.isnan(missing.std)
    assert found.difference("aligned", "orthogonal").low == pytest.approx(1)
    growth = found.mean_by_k("aligned")
    assert [round(random, 9) for _, random in growth] == [
        round(RandomFraction(j, D).mean, 9) for j in (1, 2, 3, 4)
    ]
    assert [one.estimate for one, _ in growth] == pytest.approx([0, 1, 1, 1])
    with pytest.raises(ValueError, match="a measured method, got 'gradent'; did you mean gradient"):
        found.summary("gradent")


def test_random_maps_are_not_called_aligned() -> None:
    count = 400
    maps, spaces = drawn(count, *SHAPE, seed=3), a_basis()[:1].expand(count, -1, -1, -1, -1)
    found = measure_alignment(
        Network().eval(), drawn(count, *SHAPE), spaces, {"random": lambda *_: maps}, batch=count
    )
    row = found.summary("random")
    assert row.p_value > 0.01 and row.mean.low < row.random < row.mean.high
    assert row.above.low < 0.05 < row.above.high


def test_mixed_ranks_have_their_own_baselines() -> None:
    basis = a_basis()
    basis[0, 2:] = 0
    found = measure_alignment(Network().eval(), inputs(), basis, {"gradient": gradient})
    assert found.rank.tolist() == [2] + [K] * (N - 1)
    expected = (RandomFraction(2, D).mean + (N - 1) * RandomFraction(K, D).mean) / N
    assert found.summary("gradient").random == pytest.approx(expected)
    assert found.p_values[0, 0] == pytest.approx(RandomFraction(2, D).p_value(float(found.fractions[0, 0])))


def test_the_batch_changes_nothing_and_bases_may_be_stored(tmp_path) -> None:
    decoder, z = nn.Sequential(nn.Linear(K, D), nn.Tanh(), nn.Unflatten(1, SHAPE)).double(), drawn(N, K)
    store = store_tangents(tmp_path, decoder, z, precision="float64", chunk=4)
    images, seen = decoder(z).detach(), []
    whole = measure_alignment(Network().eval(), images, store[:], {"gradient": gradient})
    parts = measure_alignment(
        Network().eval(), images, store, {"gradient": gradient}, batch=4, progress=lambda *at: seen.append(at)
    )
    assert seen == [(4, N), (N, N)]
    torch.testing.assert_close(parts.by_k, whole.by_k)
    torch.testing.assert_close(parts.others, whole.others)
    torch.testing.assert_close(parts.p_values, whole.p_values)


def test_a_given_target_is_explained_and_one_image_has_no_other() -> None:
    found = measure_alignment(Network().eval(), inputs()[:1], a_basis()[:1], {"gradient": gradient}, target=2)
    assert found.target.tolist() == [2] and found.others.isnan().all()
    expected = vd.tangent_fraction(Network().head.weight[2].detach().view(1, *SHAPE), a_basis()[:1])
    torch.testing.assert_close(found.of("gradient"), expected)


def test_the_table_has_the_best_first_and_every_method() -> None:
    lines = measure_alignment(Network().eval(), inputs(), a_basis(), METHODS, level=0.9).table().splitlines()
    assert [line.split("`")[1] for line in lines[2:]] == ["aligned", "gradient", "orthogonal", "nothing"]
    assert "90% interval" in lines[0] and {line.count("|") for line in lines} == {10}


def test_names_are_resolved_by_the_public_function() -> None:
    model = Network().eval()
    found = vd.measure_alignment(model, inputs(), a_basis(), ["gradient", "gradient-x-input"])
    torch.testing.assert_close(found.of("gradient"), measure_alignment(
        model, inputs(), a_basis(), {"gradient": gradient}).of("gradient"))  # fmt: skip
    published = vd.measure_alignment(model, inputs(), a_basis())
    assert set(published.methods) == {"gradient", "gradient-x-input", "integrated-gradients", "smoothgrad"}
    # The averaged gradient of a linear network is its gradient.
    torch.testing.assert_close(published.of("integrated-gradients"), published.of("gradient"))


def test_wrong_arguments_are_named() -> None:
    model = Network().eval()
    with pytest.raises(ValueError, match="at least one method, got none"):
        measure_alignment(model, inputs(), a_basis(), {})
    with pytest.raises(TypeError, match="explanation method that can be called, got 3 for 'three'"):
        measure_alignment(model, inputs(), a_basis(), {"three": 3})
    with pytest.raises(ValueError, match="one basis an image, got 5 for 6 images"):
        measure_alignment(model, inputs(), a_basis()[:5], METHODS)
    with pytest.raises(ValueError, match="relevance of shape"):
        measure_alignment(model, inputs(), a_basis().reshape(N, K, 1, 8, 4), METHODS)
    with pytest.raises(ValueError, match=r"relevance of shape \(6, 1, 4, 8\) from flat"):
        measure_alignment(model, inputs(), a_basis(), {"flat": flat})
    with pytest.raises(ValueError, match="batch of at least one image, got 0"):
        AlignmentSettings(batch=0)
    with pytest.raises(ValueError, match="level between 0 and 1, got 99"):
        AlignmentSettings(level=99)


def flat(model: nn.Module, images: Tensor, target: Target = None) -> Tensor:
    return images.flatten(1)


def test_the_recipe_says_what_the_convention_does() -> None:
    recipe = load_recipe()
    for name, options in recipe.sets["mnist32"].methods.items():
        assert vd.method(name, **options) == vd.method(name, convention="bordt2023")
    for one in recipe.sets.values():
        assert one.tolerance == pytest.approx(one.dimension * torch.finfo(torch.float32).eps)
        assert all(vd.method(name, **options) for name, options in one.methods.items())
    assert recipe.sets["mnist32"].reported["gradient"].mean == 0.31


def test_a_wrong_recipe_is_named(tmp_path) -> None:
    path = tmp_path / "mine.toml"
    with pytest.raises(ValueError, match="a recipe at .*mine.toml, got No such file"):
        load_recipe(path)
    path.write_text("name = ")
    with pytest.raises(ValueError, match="TOML in .*mine.toml"):
        load_recipe(path)
    path.write_text('name = "mine"\nsource = "me"\n[sets.one]\nlatents = 0\n')
    with pytest.raises(ValueError, match=r"mine.toml: field 'sets.one.*mend that field"):
        load_recipe(path)
