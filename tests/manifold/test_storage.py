"""Stored tangent spaces: precision, laziness, resuming, and damaged or foreign folders."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from veridical.manifold import (
    StoredTangents,
    open_tangents,
    principal_angles,
    store_tangents,
    tangent_fraction,
    tangent_spaces,
)
from veridical.manifold.storage import chunk_path
from veridical.records import RecordError

SHAPE = (2, 4, 4)


class Decoder(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.register_buffer("matrix", drawn(32, 3, seed=seed))

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.matrix.T).tanh().unflatten(1, SHAPE)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def z() -> Tensor:
    return drawn(5, 3, seed=7)


@pytest.mark.parametrize(("precision", "error"), [("float16", 1e-3), ("float32", 1e-6), ("float64", 1e-13)])
def test_what_is_read_is_what_was_computed_but_for_the_measured_error(
    tmp_path: Path, z: Tensor, precision: str, error: float
) -> None:
    exact, seen = tangent_spaces(Decoder(), z), []
    store = store_tangents(
        tmp_path, Decoder(), z, precision=precision, chunk=2, progress=lambda *at: seen.append(at)
    )
    assert seen == [(2, 5), (4, 5), (5, 5)] and store.shape == exact.basis.shape and len(store) == 5
    assert store[:].dtype == getattr(torch, precision) == store[:0].dtype
    assert store.largest_angle < error
    if precision != "float64":
        assert error / 1000 < store.largest_angle
    maps = drawn(5, *SHAPE, seed=1)
    change = tangent_fraction(maps, store[:]) - tangent_fraction(maps, exact.basis)
    assert change.abs().max() <= store.largest_angle + 1e-14
    torch.testing.assert_close(store.rank, exact.rank)
    torch.testing.assert_close(store.singular_values, exact.singular_values)
    torch.testing.assert_close(store.latent_norms, exact.latent_norms)
    torch.testing.assert_close(store.images, exact.images.float())


def test_any_part_can_be_read(tmp_path: Path, z: Tensor) -> None:
    store = store_tangents(tmp_path, Decoder(), z, chunk=2)
    whole = torch.cat(list(store))
    assert torch.equal(store[1:4], whole[1:4]) and torch.equal(store[-1], whole[4])
    assert torch.equal(open_tangents(tmp_path)[2], whole[2]) and store[3:1].shape == (0, 3, *SHAPE)
    with pytest.raises(IndexError, match=r"an image in 0..4, got 5"):
        _ = store[5]
    with pytest.raises(ValueError, match="a slice without a step"):
        _ = store[::2]


def test_only_the_files_that_are_asked_for_are_read(tmp_path: Path, z: Tensor) -> None:
    store = store_tangents(tmp_path, Decoder(), z, chunk=2)
    chunk_path(tmp_path, 0).write_bytes(b"damaged")
    assert store[2:].shape == (3, 3, *SHAPE)
    with pytest.raises(RecordError, match="expected tangent spaces in .*chunk-00000"):
        _ = store[0]


def test_an_interrupted_store_is_continued(tmp_path: Path, z: Tensor) -> None:
    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store_tangents(tmp_path, Decoder(), z, chunk=2, progress=stop)
    with pytest.raises(RecordError, match=r"chunk-00002.*got no such file: the store is not finished"):
        open_tangents(tmp_path)
    before = chunk_path(tmp_path, 0).stat().st_mtime_ns
    store = store_tangents(tmp_path, Decoder(), z, chunk=2)
    assert chunk_path(tmp_path, 0).stat().st_mtime_ns == before
    again = store_tangents(tmp_path / "again", Decoder(), z, chunk=5)
    torch.testing.assert_close(store[:], again[:], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("change", "name"),
    [({"precision": "float32"}, "precision"), ({"chunk": 3}, "chunk"), ({"tolerance": 0.5}, "tolerance")],
)
def test_a_folder_of_other_spaces_is_not_continued(
    tmp_path: Path, z: Tensor, change: dict[str, object], name: str
) -> None:
    store_tangents(tmp_path, Decoder(), z, chunk=2)
    with pytest.raises(ValueError, match=rf"folder of the same tangent spaces, got .* with {name} ="):
        store_tangents(tmp_path, Decoder(), z, **{"chunk": 2, **change})


def test_neither_are_other_latents_or_another_decoder(tmp_path: Path, z: Tensor) -> None:
    store_tangents(tmp_path, Decoder(), z, chunk=2)
    with pytest.raises(ValueError, match="with latents ="):
        store_tangents(tmp_path, Decoder(), z + 1, chunk=2)
    with pytest.raises(ValueError, match="expected the decoder that began .* first image is another"):
        store_tangents(tmp_path, Decoder(seed=9), z, chunk=2)


def test_the_angle_between_planes_is_the_known_one() -> None:
    basis = torch.zeros(1, 2, 1, 2, 2).double()
    basis[0, 0, 0, 0, 0] = basis[0, 1, 0, 0, 1] = 1
    turned = basis.clone()
    for angle in (1e-3, 1e-9):
        turned[0, 1, 0] = torch.tensor([[0, 1], [angle, 0]])
        assert principal_angles(basis, turned).item() == pytest.approx(angle, rel=1e-5)
    assert principal_angles(basis, basis).item() == 0


def test_a_latent_outside_the_prior_is_warned_of_once_with_its_place(tmp_path: Path, z: Tensor) -> None:
    z[4] = 90
    with pytest.warns(UserWarning, match=r"1 outside: \[4\]") as seen:
        store_tangents(tmp_path, Decoder(), z, chunk=2, prior="normal")
    assert len(seen) == 1


def test_other_mistakes_are_named(tmp_path: Path, z: Tensor) -> None:
    with pytest.raises(ValueError, match="precision to be one of float16, float32, float64, got 'int8'"):
        store_tangents(tmp_path, Decoder(), z, precision="int8")
    with pytest.raises(ValueError, match="at least one image a chunk, got 0"):
        store_tangents(tmp_path, Decoder(), z, chunk=0)
    with pytest.raises(ValueError, match="latents of shape"):
        store_tangents(tmp_path, Decoder(), z[0])
    with pytest.raises(RecordError, match="got no tangents.json; see store_tangents"):
        open_tangents(tmp_path)
    store = store_tangents(tmp_path, Decoder(), z, chunk=2)
    assert isinstance(store, StoredTangents)
    content = json.loads((tmp_path / "tangents.json").read_text())
    (tmp_path / "tangents.json").write_text(json.dumps({**content, "count": -1}))
    with pytest.raises(RecordError, match="tangents.json: field 'count'.*restore the file"):
        open_tangents(tmp_path)
    (tmp_path / "tangents.json").write_text("{")
    with pytest.raises(RecordError, match="expected JSON"):
        open_tangents(tmp_path)
