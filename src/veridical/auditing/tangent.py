"""The audited images moved onto a manifold, and how much of a map lies in its tangent space there.

A gradient has a tangent space to lie in only where the image is on the manifold. So the images of the audit
are encoded and decoded, and the maps of this test are those of the reconstructions, as in the reconstructive
approach of Bordt et al. 2023, section 3.2. A reconstruction is another image: how near it is to the audited
one, and whether the network still predicts the class, is measured and stored beside the fractions.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from veridical.auditing.digests import state_digest
from veridical.checks import check_logits
from veridical.manifold import (
    Alignment,
    Decoder,
    FittedManifold,
    RandomFraction,
    TangentSettings,
    load_manifold,
    load_tcvae,
    measure_alignment,
    tangent_chunks,
)
from veridical.manifold.decoding import check_images, check_latents, prepare
from veridical.manifold.fitting_store import encode
from veridical.manifold.models import ManifoldModel
from veridical.manifold.tangent import check_prior, least_bytes
from veridical.values import Explainer

Latents = Tensor | Callable[[Tensor], Tensor]
"""One latent for each image of the audit, or a function from images in [0, 1] to latents."""

ManifoldLike = str | Path | FittedManifold | ManifoldModel | tuple[Decoder, Latents]
"""A directory of `veridical manifold fit`, a file of beta-TCVAE weights, either of them loaded, or a decoder
with latents."""

Bounds = tuple[tuple[float, ...], tuple[float, ...]]

MOST_BYTES = 2**31
"""Of all tangent spaces, which are kept in memory in single precision while methods are measured; and of what
is needed to compute one of them."""

FAR, FEW_KEPT = 0.5, 0.8
"""A manifold is called bad where the median reconstruction error is at least the one, or the share of images
that keep their class is below the other. Our choice: half of an image's contrast, and four of five."""

_BATCH = 16


@dataclass(frozen=True, eq=False)
class OnManifold:
    """Images of an audit on a manifold.

    Attributes:
        decoder: latents (N, ...) to images (N, C, H, W), as the network takes them.
        latents: of the images (N, ...).
        points: (N, C, H, W), the reconstructions, as the network takes them.
        errors: float64 (N,), ||point - image|| / ||image - mean color of the image||: 0 for a perfect
            reconstruction, 1 for one no nearer than an image of a single color; NaN for such an image.
        kept: BoolTensor (N,), whether the network predicts the same class.
        source: where the manifold comes from, in words.
        settings: what the results depend on, for `run.json`.
        max_bytes: see `TangentSettings`; at least what one image needs.
    """

    decoder: Decoder = field(repr=False)
    latents: Tensor
    points: Tensor
    errors: Tensor
    kept: Tensor
    source: str
    settings: dict[str, Any]
    max_bytes: int

    @cached_property
    def _spaces(self) -> tuple[Tensor, Tensor]:
        settings = TangentSettings(prior="none", max_bytes=self.max_bytes)
        chunks = tangent_chunks(self.decoder, self.latents, settings)
        kept = [(one.basis.float(), one.rank) for one in chunks]
        return torch.cat([basis for basis, _ in kept]), torch.cat([rank for _, rank in kept])

    @property
    def basis(self) -> Tensor:
        """Bases (N, k, C, H, W) of the tangent spaces at the points, in single precision."""
        return self._spaces[0]

    @property
    def rank(self) -> Tensor:
        """LongTensor (N,), of the tangent spaces."""
        return self._spaces[1]

    @property
    def dimension(self) -> int:
        """d, the number of values of an image."""
        return self.points[0].numel()

    def align(self, model: nn.Module, explainer: Explainer, targets: Tensor, **options: Any) -> Alignment:
        """The fraction of one method's maps at the points; options as for `measure_alignment`."""
        return measure_alignment(
            model, self.points, self.basis, {"method": explainer}, target=targets, **options
        )

    def random(self) -> Tensor:
        """float64 (N,), the mean fraction of random directions in each of the spaces, exactly."""
        means = [RandomFraction(int(rank), self.dimension).mean for rank in self.rank]
        return torch.tensor(means, dtype=torch.float64)

    def facts(self) -> dict[str, Any]:
        """What was found out about the manifold, for `run.json`."""
        rank, median = self.rank, float(self.errors.nanmedian())
        kept = float(self.kept.double().mean())
        return {
            "source": self.source,
            "latents": self.latents[0].numel(),
            "dimension": self.dimension,
            "lowest_rank": int(rank.min()),
            "highest_rank": int(rank.max()),
            "reconstruction_error": median,
            "class_kept": kept,
            "bad_manifold": not (median < FAR and kept >= FEW_KEPT),
        }


def open_manifold(path: str | Path) -> FittedManifold | ManifoldModel:
    """The manifold of a directory of `veridical manifold fit`, or of a file of beta-TCVAE weights.

    Raises:
        RecordError: the directory holds no fitted manifold.
        FileNotFoundError: there is nothing at the path.
        ValueError: the file holds something else.
    """
    return load_manifold(path) if Path(path).is_dir() else load_tcvae(path)


def put_on_manifold(
    given: ManifoldLike, model: nn.Module, images: Tensor, bounds: Bounds | None
) -> OnManifold:
    """Encode and decode images; everything that could fail later is refused here.

    Args:
        given: the manifold, of images in [0, 1] where bounds are given, else of images as the network takes
            them.
        model: in evaluation mode.
        images: (N, C, H, W), as the network takes them.
        bounds: black and white as the network takes them, one number a channel.

    Raises:
        TypeError: the manifold, its latents or its images are of the wrong type.
        ValueError: the decoder is coupled over the batch, not deterministic or without derivative, k >= d,
            its images have another size, there are too few latents, or the tangent spaces need too much
            memory.
        RecordError: a directory holds no fitted manifold.
    """
    found = _opened(given)
    low, width = _units(images, bounds)
    shown = (images - low) / width
    with torch.no_grad():
        latents = _latents(found, shown, bounds is not None)
    decoder, source = _decoder(found), _source(given, found)
    prepared = prepare(decoder, latents, None)
    shape = (images.shape[1], images.shape[2], images.shape[3])
    if prepared.shape != shape:
        raise _other_size(shape, f"images of {prepared.shape}")
    _check_memory(latents, images)
    check_prior(decoder, latents, TangentSettings())
    scaled = _in_units(decoder, low, width) if bounds is not None else decoder
    needed = _needed_for_one(scaled, latents)
    with torch.no_grad():
        parts = [check_images(decoder(part), len(part), shape) for part in latents.split(_BATCH)]
        points = low + width * torch.cat(parts).to(images)
    return OnManifold(
        decoder=scaled,
        latents=latents,
        points=points,
        errors=_errors(points, images),
        kept=_predicted(model, points) == _predicted(model, images),
        source=source,
        settings={"manifold": _digest(found)},
        max_bytes=max(TangentSettings().max_bytes, needed),
    )


@dataclass(frozen=True)
class _Scaled:
    """A decoder that is no module, in the units of the network."""

    decoder: Decoder
    low: Tensor
    width: Tensor

    def __call__(self, latents: Tensor) -> Tensor:
        images = self.decoder(latents)
        return self.low.to(images) + self.width.to(images) * images


class _ScaledModule(nn.Module):
    """A decoder that is a module, in the units of the network: its arithmetic can be that of float64."""

    low: Tensor
    width: Tensor

    def __init__(self, decoder: nn.Module, low: Tensor, width: Tensor) -> None:
        super().__init__()
        self.decoder = decoder
        self.register_buffer("low", low)
        self.register_buffer("width", width)

    def forward(self, latents: Tensor) -> Tensor:
        images: Tensor = self.decoder(latents)
        return self.low + self.width * images


def _in_units(decoder: Decoder, low: Tensor, width: Tensor) -> Decoder:
    if isinstance(decoder, nn.Module) and not isinstance(decoder, torch.jit.ScriptModule):
        place = _place(decoder)
        return _ScaledModule(decoder, low.to(place), width.to(place))
    return _Scaled(decoder, low, width)


def _opened(given: object) -> Any:
    """A fitted manifold, a model, or a pair of decoder and latents."""
    if isinstance(given, str | Path):
        return open_manifold(given)
    if isinstance(given, tuple) and len(given) == 2:
        decoder, latents = given
        if callable(decoder) and (isinstance(latents, Tensor) or callable(latents)):
            return given
    elif hasattr(given, "decoder") and hasattr(given, "encode"):
        return given
    raise TypeError(
        "expected a manifold: a directory of `veridical manifold fit`, a file of beta-TCVAE weights, a "
        "fitted manifold, or a pair (decoder, latents or a function from images to latents), got "
        f"{type(given).__name__}; see docs/manifold.md"
    )


def _latents(found: Any, shown: Tensor, known: bool) -> Tensor:
    """One latent for each image."""
    if not isinstance(found, tuple):
        return _encoded(found, shown, known)
    latents: Any = found[1]
    if isinstance(latents, Tensor):
        check_latents(latents)
        if len(latents) < len(shown):
            raise ValueError(
                f"expected a latent for each of the {len(shown)} images, in their order, got {len(latents)}; "
                "encode all of them, or audit fewer images"
            )
        return latents[: len(shown)].detach()
    coded: Tensor = latents(shown)
    check_latents(coded)
    if len(coded) != len(shown):
        raise ValueError(f"expected a latent for each of the {len(shown)} images, got {len(coded)}")
    return coded.detach()


def _encoded(found: Any, shown: Tensor, known: bool) -> Tensor:
    """By the encoder of a manifold that was fitted to images in [0, 1]."""
    low, high = float(shown.min()), float(shown.max())
    if not known and (low < 0 or high > 1):
        raise ValueError(
            f"expected images in [0, 1], which manifolds are fitted to, got values from {low:.3g} to "
            f"{high:.3g}; pass bounds, black and white as the network takes them"
        )
    model, own = found, tuple(shown.shape[1:])
    if isinstance(found, FittedManifold):
        model, shape = found.model, found.shape
        if own != (shape.channels, shape.height, shape.width):
            raise _other_size(own, f"images of {(shape.channels, shape.height, shape.width)}")
    try:
        return encode(model, shown.to(next(model.decoder.parameters()).dtype))
    except (ValueError, RuntimeError) as error:
        raise _other_size(own, f"a refusal: {str(error).splitlines()[0]}") from error


def _other_size(shape: Sequence[int], got: str) -> ValueError:
    return ValueError(
        f"expected a manifold of images of the network's size {tuple(shape)}, got {got}; fit one to images "
        f"of that size (`veridical manifold fit --side {shape[-1]}`)"
    )


def _check_memory(latents: Tensor, images: Tensor) -> None:
    needed = 4 * latents.numel() * images[0].numel()
    if needed > MOST_BYTES:
        raise ValueError(
            f"expected tangent spaces of at most {MOST_BYTES / 2**30:g} GiB, got {needed / 2**30:.1f} GiB "
            f"for {len(images)} images and k = {latents[0].numel()}; audit fewer images (a smaller preset), "
            "or take a manifold with fewer latent values"
        )


def _needed_for_one(decoder: Decoder, latents: Tensor) -> int:
    """The memory that the computation of one tangent space takes."""
    directions = latents[0].numel()
    prepared = prepare(decoder, latents, None)
    needed = least_bytes(prepared, directions)
    if needed > MOST_BYTES:
        raise ValueError(
            f"expected a manifold of which one tangent space is computed in at most {MOST_BYTES / 2**30:g} "
            f"GiB, got {needed / 2**30:.1f} GiB for k = {directions} and images of {prepared.shape}; take "
            "one with fewer latent values, or of smaller images"
        )
    return needed


def _units(images: Tensor, bounds: Bounds | None) -> tuple[Tensor, Tensor]:
    """Black, and white minus black, each (1, C, 1, 1); 0 and 1 without bounds."""
    low, high = bounds or ((0.0,), (1.0,))
    first, last = (images.new_tensor(side).view(1, -1, 1, 1) for side in (low, high))
    return first, last - first


def _decoder(found: Any) -> Decoder:
    decoder: Decoder = found[0] if isinstance(found, tuple) else found.decoder
    return decoder


def _place(module: nn.Module) -> torch.device:
    weights = next(module.parameters(), None)
    return torch.device("cpu") if weights is None else weights.device


def _errors(points: Tensor, images: Tensor) -> Tensor:
    plain = images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    far, contrast = ((one - images).flatten(1).double().norm(dim=1).cpu() for one in (points, plain))
    return torch.where(contrast > 0, far / contrast, math.nan)


def _predicted(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        parts = [check_logits(model(part.clone()), len(part)) for part in images.split(_BATCH)]
    return torch.cat(parts).argmax(dim=1).cpu()


def _source(given: object, found: Any) -> str:
    """Where the manifold comes from."""
    if isinstance(found, FittedManifold):
        shape = found.shape
        what = f"{shape.architecture} model of {shape.channels} x {shape.height} x {shape.width} images"
    else:
        decoder = _decoder(found)
        what = getattr(decoder, "__qualname__", "") or type(decoder).__name__
    return f"{what}, {given}" if isinstance(given, str | Path) else what


def _digest(found: Any) -> str:
    """SHA-256 of the weights; of a function its name, and of latents their values."""
    one = found.model if isinstance(found, FittedManifold) else found
    parts = one if isinstance(one, tuple) else (one,)
    return hashlib.sha256("|".join(map(_identity, parts)).encode()).hexdigest()


def _identity(part: Any) -> str:
    if isinstance(part, nn.Module):
        return state_digest(part)
    if isinstance(part, Tensor):
        content = part.detach().cpu().contiguous().double().numpy().tobytes()
        return hashlib.sha256(f"{tuple(part.shape)}".encode() + content).hexdigest()
    named = part if hasattr(part, "__qualname__") else type(part)
    return f"{named.__module__}.{named.__qualname__}"
