"""Data sets whose manifold is known: drawn from a decoder's prior, or reconstructed from real images."""

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from torch import Tensor, nn
from torch.nn import functional as F

from veridical.checks import check_choice, check_count, check_logits, nearest_names
from veridical.manifold.decoding import Decoder, check_images
from veridical.manifold.fitting import digest_images
from veridical.manifold.fitting_settings import FILE
from veridical.manifold.fitting_store import encode
from veridical.manifold.generative_store import DataSet, DataSetManifest, Precision, Rows, store_rows
from veridical.manifold.models import ManifoldModel
from veridical.manifold.networks import Resized
from veridical.manifold.storage import StoredTangents, store_tangents
from veridical.manifold.tangent import Progress
from veridical.training.accuracy import check_labeled, evaluating
from veridical.training.settings import TrainingSettings

# Constants of the format: a draw depends on the seed and on its block, whatever the chunks are.
BLOCK = 256
IMAGES_BLOCK = 128

# Of one file of tangent spaces, which is put together in memory.
_FILE_BYTES, _MOST_SPACES = 2**29, 256


@dataclass(frozen=True)
class DataSetSettings:
    """How a data set is made and stored.

    Attributes:
        parts: pairs of name and number of images, which follow each other in one stream; () for one part
            "all", of all images, in a reconstructive set.
        side: decoded images are resized to this height and width, bilinearly; None keeps their size.
        precision: of the stored images.
        chunk: rows in one file.
        seed: of the draws.
    """

    parts: tuple[tuple[str, int], ...] = ()
    side: int | None = None
    precision: Precision = "float32"
    chunk: int = 5000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            TypeError: if a count is no whole number.
            ValueError: if a number is out of range or the precision unknown.
        """
        check_choice("precision", self.precision, get_args(Precision))
        check_count("chunk", self.chunk, 1)
        check_count("seed", self.seed, 0)
        for name, count in self.parts:
            check_count(f"the images of part {name!r}", count, 1)
        if len({name for name, _ in self.parts}) < len(self.parts):
            raise ValueError(f"expected parts of different names, got {self.parts}; rename one")
        if self.side is not None:
            check_count("side", self.side, 1)


class DataSetRecipe(BaseModel):
    """One data set that is drawn from a prior.

    Attributes:
        source: where this is said, or who chose it.
        fit: the recipe of the manifold that it is drawn from; `veridical manifold generate` tells of another.
        classes: how many the labels have.
        settings: of the set.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(min_length=1)
    fit: str
    classes: int = Field(ge=2)
    settings: DataSetSettings


def data_set_recipes() -> dict[str, DataSetRecipe]:
    """All recipes that come with the package, by name."""
    return TypeAdapter(dict[str, DataSetRecipe]).validate_json(json.dumps(_published()["generate"]))


def data_set_recipe(name: str) -> DataSetRecipe:
    """The recipe of that name.

    Raises:
        ValueError: if there is none; the message has the nearest names.
    """
    found = data_set_recipes()
    if name not in found:
        raise ValueError(f"expected the name of a data set, got {name!r}; {nearest_names(name, list(found))}")
    return found[name]


def labeller_settings() -> TrainingSettings:
    """How the labeling network of the published code was trained."""
    found = TypeAdapter(TrainingSettings).validate_python(_published()["labeller"]["settings"])
    return found


def generate_data_set(
    folder: str | Path,
    decoder: Decoder,
    labeller: nn.Module,
    latents: int,
    settings: DataSetSettings,
    progress: Progress | None = None,
) -> DataSet:
    """Draw images from a decoder's normal prior, with labels of a network that is sure of them.

    z ~ N(0, I); x = decoder(z); p = softmax(labeller(x)). A draw is accepted with probability (max p)^2; its
    label is argmax p, and p is its soft label. The parts follow each other in one stream of draws. Latents,
    images and labels are stored in chunks; an interrupted call is continued by the same call, and the rows
    depend on the seed, not on the chunks.

    Source: Bordt et al. 2023, section 3.4, and the published code for the acceptance.

    Args:
        folder: of the data set; made where there is none.
        decoder: latents (N, latents) to images (N, C, H, W); a module computes on its own device.
        labeller: images, before they are resized, to logits (N, classes); used in evaluation mode.
        latents: k.
        settings: parts, size, storage and seed.
        progress: called with images done and images in all.

    Returns:
        The data set, complete.

    Raises:
        TypeError: see `check_images` and `check_logits`.
        ValueError: if k >= d, images or logits have a wrong form, or the folder holds another data set.
    """
    if not settings.parts:
        raise ValueError("expected at least one part, got none; for example parts=(('test', 10000),)")
    check_count("latents", latents, 1)
    blocks = _Draws(decoder, labeller, latents, settings)
    images, probabilities = blocks.sample(torch.zeros(1, latents))
    manifest = DataSetManifest(
        approach="generative",
        parts=settings.parts,
        latent=(latents,),
        shape=_shape(images, latents, settings),
        classes=probabilities.shape[1],
        side=settings.side,
        precision=settings.precision,
        seed=settings.seed,
        chunk=settings.chunk,
        about="draws of a standard normal latent, accepted with probability (max p)^2",
    )
    return store_rows(Path(folder), manifest, blocks, progress)


def reconstruct_data_set(
    folder: str | Path,
    model: ManifoldModel,
    images: Tensor,
    labels: Tensor,
    settings: DataSetSettings | None = None,
    progress: Progress | None = None,
) -> DataSet:
    """Real images on the manifold of an autoencoder: x = decode(encode(image)), with their own labels.

    Source: Bordt et al. 2023, section 3.2, the reconstructive approach.

    Args:
        folder: of the data set; made where there is none.
        model: a fitted one, or the published one.
        images: (N, C, H, W), uint8 or float in [0, 1].
        labels: LongTensor (N,).
        settings: parts, size and storage; nothing is drawn.
        progress: called with images done and images in all.

    Returns:
        The data set, complete.

    Raises:
        TypeError: if images or labels are of another type.
        ValueError: if images, labels and parts do not fit, or the folder holds another data set.
    """
    chosen = settings or DataSetSettings()
    check_labeled(images, labels)
    parts = chosen.parts or (("all", len(images)),)
    if sum(count for _, count in parts) != len(images):
        raise ValueError(
            f"expected parts of {len(images)} images together, got {parts}; count the images of each part"
        )
    blocks = _Reconstructions(model, images, labels, chosen)
    first = next(blocks(0))
    manifest = DataSetManifest(
        approach="reconstructive",
        parts=parts,
        latent=tuple(first["latents"].shape[1:]),
        shape=_shape(first["images"], first["latents"][0].numel(), chosen),
        classes=int(labels.max()) + 1,
        side=chosen.side,
        precision=chosen.precision,
        seed=chosen.seed,
        chunk=chosen.chunk,
        about=f"reconstructions of images with SHA-256 {digest_images(images)}",
    )
    return store_rows(Path(folder), manifest, blocks, progress)


def store_data_tangents(
    data: DataSet,
    decoder: Decoder,
    part: str | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> StoredTangents:
    """The tangent spaces of a part, in the folder `tangents-<part>` of the data set; see `store_tangents`.

    Args:
        data: the set.
        decoder: the one that it was made with, without resizing.
        part: its name; None for all rows.
        progress: called with images done and images in all.
        options: of `store_tangents`; by default a file has 256 spaces, fewer where they are large.

    Raises:
        ValueError: see `store_tangents`; and if the decoder's images are not those of the set.
    """
    latents = data.load("latents", part)
    call: Any = decoder if data.manifest.side is None else Resized(decoder, data.manifest.side)  # type: ignore[arg-type]
    with torch.no_grad():
        found = call(latents[:1].to(_place(decoder))).cpu()
    stored = data.load("images", part, limit=1).to(found)
    if found.shape != stored.shape or not torch.allclose(found, stored, rtol=1e-2, atol=2e-3):
        raise ValueError(
            f"expected the decoder that made {data.folder}, got one with another first image; pass that one"
        )
    place = data.folder / f"tangents-{part or 'all'}"
    one = 2 * latents[0].numel() * stored.numel()
    options.setdefault("chunk", max(1, min(_MOST_SPACES, _FILE_BYTES // one)))
    if data.manifest.approach == "generative":
        options.setdefault("prior", "none")  # they were drawn from it: a rare one may lie outside
    return store_tangents(place, call, latents.to(_place(decoder)), progress=progress, **options)


@dataclass(frozen=True)
class _Draws:
    """Accepted draws after any position: blocks of a fixed number of candidates, each with its own seed."""

    decoder: Decoder
    labeller: nn.Module
    latents: int
    settings: DataSetSettings

    def __call__(self, position: int) -> Iterator[Rows]:
        seeds = torch.Generator().manual_seed(self.settings.seed)
        block = 0
        while True:
            own = int(torch.randint(2**62, (), generator=seeds))
            if (block + 1) * BLOCK > position:
                rows = self._block(own, block)
                after = rows["position"] > position
                yield {name: value[after] for name, value in rows.items()}
            block += 1

    def _block(self, seed: int, block: int) -> Rows:
        source = torch.Generator().manual_seed(seed)
        z = torch.randn(BLOCK, self.latents, generator=source)
        chance = torch.rand(BLOCK, generator=source, dtype=torch.float64)
        images, probabilities = self.sample(z)
        accepted = (chance < acceptance(probabilities)).nonzero().flatten()
        shown = _resized(images[accepted], self.settings.side)
        return {
            "latents": z[accepted],
            "images": shown,
            "labels": probabilities[accepted].argmax(dim=1),
            "probabilities": probabilities[accepted].float(),
            "position": accepted + block * BLOCK + 1,
        }

    def sample(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) and their soft labels float64 (N, K), on the CPU."""
        with torch.no_grad(), evaluating(self.labeller):
            images = check_images(self.decoder(z.to(_place(self.decoder))), len(z))
            logits = check_logits(self.labeller(images.to(_place(self.labeller))), len(z))
        return images.cpu(), logits.cpu().double().softmax(dim=1)


@dataclass(frozen=True)
class _Reconstructions:
    """Reconstructions after any position."""

    model: ManifoldModel
    images: Tensor
    labels: Tensor
    settings: DataSetSettings

    def __call__(self, position: int) -> Iterator[Rows]:
        for begin in range(position // IMAGES_BLOCK * IMAGES_BLOCK, len(self.images), IMAGES_BLOCK):
            part = slice(begin, begin + IMAGES_BLOCK)
            z = encode(self.model, self.images[part])
            with torch.no_grad():
                images = check_images(self.model.decoder(z), len(z)).cpu()
            rows = {
                "latents": z.cpu(),
                "images": _resized(images, self.settings.side),
                "labels": self.labels[part],
                "position": torch.arange(begin, begin + len(z)) + 1,
            }
            after = rows["position"] > position
            yield {name: value[after] for name, value in rows.items()}


def acceptance(probabilities: Tensor) -> Tensor:
    """The probability (max p)^2 with which a draw with soft labels (N, K) is kept, (N,)."""
    return probabilities.max(dim=1).values.square()


def _published() -> dict[str, Any]:
    return tomllib.loads((resources.files("veridical") / FILE).read_text(encoding="utf-8"))


def _shape(images: Tensor, latents: int, settings: DataSetSettings) -> tuple[int, int, int]:
    channels, height, width = (int(size) for size in images.shape[1:])
    if latents >= channels * height * width:
        raise ValueError(
            f"expected fewer latent values than the {channels * height * width} values of an image, got "
            f"k = {latents}; where k >= d every direction is tangent: take a narrower bottleneck"
        )
    return (channels, settings.side or height, settings.side or width)


def _resized(images: Tensor, side: int | None) -> Tensor:
    if side is None:
        return images
    if not len(images):  # interpolation refuses an empty batch
        return images.new_empty(0, images.shape[1], side, side)
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)


def _place(module: object) -> torch.device:
    weights = next(module.parameters(), None) if isinstance(module, nn.Module) else None
    return torch.device("cpu") if weights is None else weights.device
