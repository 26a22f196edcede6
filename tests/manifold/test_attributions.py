"""The tangent space as an attribution: right images, right rows, and no other images."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import veridical as vd
from veridical.faithfulness import RoarData
from veridical.manifold import (
    KnownSpaces,
    TangentPart,
    TangentScores,
    orthonormal_rows,
    pixel_scores,
    store_tangents,
    tangent_fraction,
)
from veridical.values import Target

SHAPE = (1, 4, 4)
N, K, D = 6, 3, 16


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images() -> Tensor:
    return drawn(N, *SHAPE, seed=1).float()


def a_basis() -> Tensor:
    return orthonormal_rows(drawn(N, K, D, seed=2), 1e-12)[0].unflatten(2, SHAPE)


@pytest.fixture
def known():
    return KnownSpaces(images(), a_basis())


class Network(nn.Module):
    """Logits z = W x: the gradient of class c is row c."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(D, 2, bias=False)
        self.head.weight.data = drawn(2, D, seed=9).float()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


def gradient(model: nn.Module, inputs: Tensor, target: Target = None) -> Tensor:
    return model.head.weight[target].detach().view_as(inputs)


@pytest.mark.parametrize("order", [[0, 1, 2], [4, 1, 1, 5], [3]])
def test_scores_are_those_of_the_image_wherever_it_stands(known, order):
    found = TangentScores(known)(Network(), images()[order])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, pixel_scores(a_basis())[order].float())
    torch.testing.assert_close(found.flatten(1).sum(1), torch.full((len(order),), float(K)))


def test_an_image_is_found_in_every_precision_that_holds_it(known):
    assert known.rows(images().double()[[2, 0]]) == [2, 0]
    rounded = KnownSpaces(images().half(), a_basis())
    assert rounded.rows(images().half().float()) == list(range(N))


def test_other_images_are_refused(known):
    changed = images()
    changed[1, 0, 2, 2] += 1e-6
    assert known.rows(images()[[0]]) == [0]
    with pytest.raises(ValueError, match=r"tangent space is known, got 1 of 6 .*first: 1"):
        TangentScores(known)(Network(), changed)
    with pytest.raises(ValueError, match="got 6 of 6"):
        TangentPart(gradient, known)(Network(), images() * 0.5, torch.zeros(N, dtype=torch.long))


def test_of_equal_images_the_first_counts():
    twice = KnownSpaces(images()[[0, 0, 1]], a_basis()[:3])
    assert twice.rows(images()[[0, 1]]) == [0, 2]


def test_the_parts_of_a_map_lie_in_the_space_and_outside_and_sum_to_it(known):
    model, target = Network(), torch.tensor([0, 1, 0])
    order = [5, 0, 2]
    inputs = images()[order]
    tangent = TangentPart(gradient, known)(model, inputs, target)
    rest = TangentPart(gradient, known, "orthogonal")(model, inputs, target)
    torch.testing.assert_close(tangent + rest, gradient(model, inputs, target))
    rows = a_basis()[order]
    torch.testing.assert_close(
        tangent_fraction(tangent, rows), torch.ones(3).double(), atol=1e-6, rtol=0
    )  # fmt: skip
    assert float(tangent_fraction(rest, rows).max()) < 1e-6
    assert TangentPart(gradient, known).name == "gradient-tangent"


def test_stored_spaces_are_read_where_they_are_asked_for(tmp_path):
    weight = drawn(2, D, seed=5)

    def decoder(z: Tensor) -> Tensor:
        return (z @ weight.to(z)).tanh().view(-1, *SHAPE)

    z = drawn(5, 2, seed=6)
    store = store_tangents(tmp_path, decoder, z, chunk=2)
    known = KnownSpaces(decoder(z).float(), store)
    torch.testing.assert_close(known.spaces(known.images[[1, 2, 3]]), store[1:4])
    torch.testing.assert_close(known.spaces(known.images[[4, 0]]), torch.cat([store[4:5], store[:1]]))
    torch.testing.assert_close(known.scores, pixel_scores(store[:]).float())


def test_settings_that_do_not_fit_are_refused(known):
    with pytest.raises(ValueError, match="one basis an image, got 5 for 6"):
        KnownSpaces(images(), a_basis()[:5])
    with pytest.raises(ValueError, match="expected relevance of shape"):
        KnownSpaces(images()[:, :, :3], a_basis())
    with pytest.raises(ValueError, match="part"):
        TangentPart(gradient, known, "normal")
    with pytest.raises(TypeError, match="callable|called|function"):
        TangentPart("gradient", known)


def test_remove_and_retrain_takes_it_and_knows_the_cells_of_other_spaces(tmp_path, known):
    labels = torch.arange(N) % 2
    data = RoarData(images()[:4], labels[:4], images()[4:], labels[4:])
    seen: list[Tensor] = []

    def train(shown: Tensor, _labels: Tensor, _seed: int) -> nn.Module:
        seen.append(shown)
        return Network().eval()

    settings = {"folder": tmp_path / "roar", "shares": (0.5,), "repetitions": 1, "edges": False}
    found = vd.roar(Network().eval(), data, [TangentScores(known)], train, **settings)
    assert set(found.accuracy) == {("random", "most"), ("tangent-scores", "most")}
    gone = seen[-1] != data.images
    scores = pixel_scores(a_basis()[:4])
    for mask, own in zip(gone.flatten(1), scores.flatten(1), strict=True):
        assert mask.sum() == D // 2 and float(own[mask].min()) >= float(own[~mask].max())
    other = KnownSpaces(images(), a_basis().flip(0))
    assert known.digest != other.digest == KnownSpaces(images(), a_basis().flip(0)).digest
    with pytest.raises(ValueError, match="experiment|cells|folder"):
        vd.roar(Network().eval(), data, [TangentScores(other)], train, **settings)
    assert np.isfinite(found.mean("tangent-scores")[0].estimate)
