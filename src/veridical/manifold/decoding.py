"""A decoder as this layer uses it: checked at the door, and differentiated by each of its latent values.

A decoder is any callable from latents (N, ...) to images (N, C, H, W) that treats its images one by one.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Decoder = Callable[[Tensor], Tensor]
"""Latents (N, ...) to images (N, C, H, W): a module, a function, a method of a diffusion model or a GAN."""

Derivative = Literal["forward", "reverse"]
"""Dual numbers; or, for decoders whose operations have none, the derivative of the backward pass with respect
to the vector that it carries, which is the same number."""

_REPEATED, _COUPLED = 16, 128


@dataclass(frozen=True)
class Prepared:
    """A decoder that passed the checks.

    Attributes:
        call: the decoder, with its weights in `dtype`.
        dtype: of the latents that it is called with.
        shape: (C, H, W).
        derivative: how it can be differentiated.
        image_bytes: of the tensors that one image and one direction need inside of the decoder.
    """

    call: Decoder = field(repr=False)
    dtype: torch.dtype
    shape: tuple[int, int, int]
    derivative: Derivative
    image_bytes: int

    def jacobian(self, latents: Tensor, block: int) -> tuple[Tensor, Tensor]:
        """Images (n, C, H, W) and their derivatives (n, k, C, H, W), `block` directions at a time.

        Raises:
            ValueError: if an image has another size than the first one, or is not finite.
        """
        latents = latents.detach().to(self.dtype)
        run = _forward if self.derivative == "forward" else _reverse
        directions = torch.eye(latents[0].numel(), dtype=self.dtype, device=latents.device)
        parts = [run(self.call, latents, some) for some in directions.split(block)]
        for images, _ in parts:
            check_images(images, len(latents), self.shape)
        return parts[0][0], torch.cat([columns for _, columns in parts], dim=1)


def prepare(decoder: Decoder, latents: Tensor, dtype: torch.dtype | None) -> Prepared:
    """Check latents and decoder, and find out how the decoder can be differentiated.

    Args:
        decoder: any callable; a module is left as it was, buffers and mode included.
        latents: (N, ...).
        dtype: of the decoder's arithmetic; None for float64 where the decoder is a module, whose weights are
            converted on the side, and for the dtype of the latents where it is another callable.

    Raises:
        TypeError: if the decoder cannot be called, or latents or images are no floating point tensors.
        ValueError: if the decoder is coupled over the batch or not deterministic, its images are not
            (N, C, H, W), not finite or no larger than the latent, or it has no derivative.
    """
    if not callable(decoder):
        raise TypeError(f"expected a decoder that can be called, got {type(decoder).__name__}; pass z -> x")
    check_latents(latents)
    chosen = dtype or (torch.float64 if _has_weights(decoder) else latents.dtype)
    call = _with_weights_in(decoder, chosen)
    first = latents[:1].detach().to(chosen)
    with torch.random.fork_rng(_devices(latents)), torch.no_grad():
        image = _check_alone(call, first)
        shape = (int(image.shape[1]), int(image.shape[2]), int(image.shape[3]))
        _check_size(first[0].numel(), shape)
        derivative, size = _probe(call, first)
    return Prepared(call, chosen, shape, derivative, size)


def check_latents(latents: object) -> None:
    """Check that latents are a finite floating point tensor (N, ...) with at least one value an image.

    Raises:
        TypeError: if they are no floating point tensor.
        ValueError: if they have another shape or hold NaN or infinity.
    """
    if not isinstance(latents, Tensor):
        raise TypeError(
            f"expected latents as one tensor (N, k), got {type(latents).__name__}; images of different sizes "
            "have tangent spaces of different sizes: call once for each size"
        )
    if not latents.is_floating_point():
        raise TypeError(f"expected floating point latents, got {latents.dtype}; convert with z.float()")
    if latents.dim() < 2 or latents.numel() == 0:
        raise ValueError(
            f"expected latents of shape (N, k), got {tuple(latents.shape)}; add the batch dimension of a "
            "single latent with z[None]"
        )
    finite = torch.isfinite(latents.detach()).flatten(1).all(dim=1)
    if not bool(finite.all()):
        bad = (~finite).nonzero().flatten().tolist()
        raise ValueError(f"expected finite latents, got NaN or infinity in {bad[:10]}; look at the encoder")


def check_images(images: object, count: int, shape: tuple[int, int, int] | None = None) -> Tensor:
    """Check what a decoder returned, and return it.

    Raises:
        TypeError: if it is no floating point tensor.
        ValueError: if it is not (count, C, H, W), of another size than `shape`, or not finite.
    """
    if not isinstance(images, Tensor):
        raise TypeError(
            f"expected the decoder to return one tensor (N, C, H, W), got {type(images).__name__}; images of "
            "different sizes, or several outputs, need a decoder that picks one"
        )
    if not images.is_floating_point():
        raise TypeError(f"expected floating point images from the decoder, got {images.dtype}; do not round")
    if images.dim() != 4 or len(images) != count:
        raise ValueError(
            f"expected images of shape ({count}, C, H, W) from the decoder, got {tuple(images.shape)}; "
            "reshape its output"
        )
    if shape is not None and tuple(images.shape[1:]) != shape:
        raise ValueError(
            f"expected images of one size, got {shape} and {tuple(images.shape[1:])}; decode each size alone"
        )
    finite = torch.isfinite(images.detach()).flatten(1).all(dim=1)
    if not bool(finite.all()):
        bad = (~finite).nonzero().flatten().tolist()
        raise ValueError(
            f"expected finite images from the decoder, got NaN or infinity in {bad[:10]} of a batch of "
            f"{count}; look at these latents and at the weights"
        )
    return images


def warn_outside_prior(latents: Tensor) -> None:
    """Warn of latents where a standard normal prior has next to nothing: beyond its 1 - 1e-6 quantile.

    The squared norm of a standard normal vector has a chi-square distribution with k degrees of freedom.
    """
    from scipy.stats import chi2

    flat = latents.detach().flatten(1).double()
    limit = float(chi2.isf(1e-6, flat.shape[1]))
    outside = (flat.square().sum(1) > limit).nonzero().flatten().tolist()
    if outside:
        norm = float(flat[outside].norm(dim=1).max())
        warnings.warn(
            f"expected latents that the standard normal prior gives (norm to {math.sqrt(limit):.3g}), got "
            f"norm {norm:.3g}; {len(outside)} outside: {outside[:10]}. The decoder was not trained there; "
            'prior="none" says that it has no such prior',
            stacklevel=4,
        )


def _has_weights(decoder: object) -> bool:
    return isinstance(decoder, nn.Module) and not isinstance(decoder, torch.jit.ScriptModule)


def _devices(latents: Tensor) -> list[torch.device]:
    return [latents.device] if latents.device.type == "cuda" else []


def _with_weights_in(decoder: Any, dtype: torch.dtype) -> Decoder:
    """The decoder with copies of its buffers and converted weights; a plain callable as it is."""
    if not _has_weights(decoder):
        found: Decoder = decoder
        return found
    state = {name: _converted(value, dtype) for name, value in decoder.named_parameters()}
    state |= {name: _converted(value.clone(), dtype) for name, value in decoder.named_buffers()}

    def call(latents: Tensor) -> Tensor:
        images: Tensor = functional_call(decoder, state, (latents,))
        return images

    return call


def _converted(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.detach().to(dtype) if value.is_floating_point() else value.detach()


def _called(call: Decoder, latents: Tensor) -> Tensor:
    try:
        return check_images(call(latents), len(latents))
    except RuntimeError as error:
        if "dtype" not in str(error):
            raise
        raise ValueError(
            f"expected a decoder that takes {latents.dtype} latents, got: {error}; pass latents in the dtype "
            "of its weights, or the module itself, whose weights are converted"
        ) from error


def _check_alone(call: Decoder, first: Tensor) -> Tensor:
    """Check that an image depends on its own latent and on nothing else; returns it (1, C, H, W).

    The same latent is decoded twice with the same neighbor, and once with another, in the other place.
    """
    pair = torch.cat([first, first + 0.5])
    image, again = _called(call, pair)[:1], _called(call, pair)[:1]
    gap, scale = (image - again).abs().max().item(), max(1e-30, image.abs().max().item())
    eps = torch.finfo(image.dtype).eps
    if gap > _REPEATED * eps * scale:
        raise ValueError(
            f"expected a deterministic decoder, got images that differ by {gap:.3g} between two runs on the "
            "same latents; switch off dropout, noise or sampling (decoder.eval(), a seed for each image)"
        )
    other = _called(call, torch.cat([first - 0.5, first]))[1:]
    check_images(other, 1, (image.shape[1], image.shape[2], image.shape[3]))
    gap = (image - other).abs().max().item()
    if gap > _COUPLED * eps * scale:
        raise ValueError(
            f"expected a decoder that treats images one by one, got an image that changes by {gap:.3g} with "
            "the other image of its batch; call decoder.eval(): batch normalization in training couples them"
        )
    return image


def _check_size(directions: int, shape: tuple[int, int, int]) -> None:
    dimension = math.prod(shape)
    if directions >= dimension:
        raise ValueError(
            f"expected fewer latent values than the {dimension} values of an image, got k = {directions}; "
            "where k >= d every direction is tangent and the fraction is always 1: take a narrower bottleneck"
        )


def _probe(call: Decoder, first: Tensor) -> tuple[Derivative, int]:
    """How the decoder can be differentiated, and the bytes that this takes for one image and direction."""
    direction = torch.eye(first.numel(), dtype=first.dtype, device=first.device)[:1]
    try:
        with _Allocations() as counter:
            _forward(call, first, direction)
        found: Derivative = "forward"
    except (NotImplementedError, RuntimeError) as error:
        with _Allocations() as counter:
            _check_reverse(call, first, direction, error)
        found = "reverse"
    run = _forward if found == "forward" else _reverse
    _, along = run(call, first, torch.ones_like(direction))
    if not bool(along.any()) and not torch.equal(call(first), call(first + 0.5)):
        raise ValueError(
            "expected a decoder with a derivative, got 0 for images that change with the latent; "
            "look for detach, NumPy or rounding in it (finite differences are not taken: their "
            "error is larger than the small directions)"
        )
    return found, max(1, counter.total)


def _check_reverse(call: Decoder, first: Tensor, direction: Tensor, reason: Exception) -> None:
    try:
        _reverse(call, first, direction)
    except (NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"expected a decoder that can be differentiated, got neither forward mode ({reason}) nor a "
            f"backward pass that can be differentiated again ({error}); give its operations a jvp"
        ) from error


def _forward(call: Decoder, latents: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Images (n, C, H, W) and derivatives (n, m, C, H, W) along directions (m, k), by dual numbers.

    The values themselves are computed once and not once for each direction: only the tangents are batched.
    """
    tangents = directions.view(len(directions), 1, *latents.shape[1:])
    tangents = tangents.expand(-1, *latents.shape)

    def along(tangent: Tensor) -> Any:
        return jvp(call, (latents,), (tangent,))

    unbatched: Any = (None, 1)
    with torch.no_grad():
        images, columns = vmap(along, out_dims=unbatched)(tangents)
    return images, columns


def _reverse(call: Decoder, latents: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """The same by two backward passes: g(u) = J^T u is linear in u, and its derivative along v is J v."""
    with torch.enable_grad():
        points = latents.detach().requires_grad_()
        images = check_images(call(points), len(latents))
        if not images.requires_grad:
            zeros = torch.zeros(len(latents), len(directions), *images.shape[1:]).to(images)
            return images.detach(), zeros
        carried = torch.zeros_like(images, requires_grad=True)
        (pulled,) = torch.autograd.grad(images, points, carried, create_graph=True)
        columns = [
            torch.autograd.grad(
                pulled, carried, one.view_as(latents[0]).expand_as(latents), retain_graph=True
            )[0]
            for one in directions
        ]
    return images.detach(), torch.stack(columns, dim=1).detach()


class _Allocations(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make, views aside: no less than live at one time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in given:
                self.total += leaf.nbytes
        return found
