"""The tangent space as an attribution, of the images at which it is known.

Bordt et al. 2023 hold the tangent space itself against explanation methods in their remove-and-retrain
experiment (published code): a pixel counts as much as it can move alone within the manifold.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from veridical.checks import check_choice, check_inputs, check_method, check_relevance
from veridical.manifold.alignment import check_pair, pixel_scores, tangent_split
from veridical.manifold.measure import Bases
from veridical.values import Explainer, Target, explainer_name

Part = Literal["tangent", "orthogonal"]

_CHUNK = 256


@dataclass(frozen=True, eq=False, repr=False)
class KnownSpaces:
    """Images with their tangent spaces, found again by the images' values.

    An image is known if all of its values are those of one of `images`, both rounded to float32. Of equal
    images the first one's space is taken.

    Attributes:
        images: float (N, C, H, W).
        basis: (N, k, C, H, W), the space at each of them: a tensor or `StoredTangents`.
    """

    images: Tensor
    basis: Bases

    def __post_init__(self) -> None:
        """Check that each image has a space.

        Raises:
            TypeError: if images or basis are no floating point tensors.
            ValueError: if their numbers or shapes differ, or images are not finite.
        """
        check_inputs(self.images)
        if len(self.basis) != len(self.images):
            raise ValueError(
                f"expected one basis an image, got {len(self.basis)} for {len(self.images)} images; select "
                "the same ones"
            )
        check_pair(self.images[:1], self.basis[:1])

    def rows(self, inputs: Tensor) -> list[int]:
        """Which of the images each input (n, C, H, W) is.

        Raises:
            TypeError: if inputs are no floating point tensor.
            ValueError: if one is none of the images.
        """
        check_inputs(inputs)
        found = [self._places.get(key, -1) for key in _keys(inputs)]
        unknown = [place for place, row in enumerate(found) if row < 0]
        if unknown:
            raise ValueError(
                f"expected images whose tangent space is known, got {len(unknown)} of {len(found)} that are "
                f"none of the {len(self.images)} (first: {unknown[0]}); a space belongs to an image on the "
                "manifold, unchanged: pass those, or compute the spaces of these too"
            )
        return found

    def spaces(self, inputs: Tensor) -> Tensor:
        """The basis (n, k, C, H, W) of each input, as it is stored.

        Raises:
            TypeError: see `rows`.
            ValueError: see `rows`.
        """
        rows = self.rows(inputs)
        if rows == list(range(rows[0], rows[0] + len(rows))):
            return self.basis[rows[0] : rows[0] + len(rows)]
        return torch.cat([self.basis[row : row + 1] for row in rows])

    @cached_property
    def scores(self) -> Tensor:
        """The squared fraction of every single value, float32 (N, C, H, W); see `pixel_scores`."""
        parts = range(0, len(self.images), _CHUNK)
        return torch.cat([pixel_scores(self.basis[at : at + _CHUNK]).float().cpu() for at in parts])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of images and spaces, in hexadecimal."""
        found = hashlib.sha256(b"".join(_keys(self.images)))
        for at in range(0, len(self.images), _CHUNK):
            found.update(self.basis[at : at + _CHUNK].cpu().contiguous().view(torch.uint8).numpy().data)
        return found.hexdigest()

    def __repr__(self) -> str:
        """How many, and the start of the digest: the same in every process."""
        return f"KnownSpaces({len(self.images)}, sha256={self.digest[:12]})"

    @cached_property
    def _places(self) -> dict[bytes, int]:
        keys = _keys(self.images)
        return {key: row for row, key in reversed(list(enumerate(keys)))}


@dataclass(frozen=True)
class TangentScores:
    """How far each value of an image can move alone within the manifold, as an explanation method.

    The relevance of value i is the squared fraction of its unit vector in the tangent space; it knows the
    manifold and neither the network nor the class. The scores of an image sum to the rank of its space.

    Source: Bordt et al. 2023, published code of the remove-and-retrain experiment.

    Args:
        known: the images that can be explained.
    """

    known: KnownSpaces
    name = "tangent-scores"
    differentiable = False

    def __call__(self, model: nn.Module, inputs: Tensor, target: Target = None) -> Tensor:
        """Relevance in [0, 1] of the shape and dtype of `inputs`.

        Args:
            model: not looked at.
            inputs: float (N, C, H, W), known images.
            target: not looked at.

        Raises:
            ValueError: see `KnownSpaces.rows`.
        """
        return self.known.scores[self.known.rows(inputs)].to(inputs)


@dataclass(frozen=True)
class TangentPart:
    """The part of another method's map in the tangent space, or the part orthogonal to it.

    Source: Bordt et al. 2023, section 4.1.

    Args:
        explainer: the method.
        known: the images that can be explained.
        part: "tangent" or "orthogonal"; the two sum to the map.
    """

    explainer: Explainer
    known: KnownSpaces
    part: Part = "tangent"
    differentiable = False

    def __post_init__(self) -> None:
        """Check method and part.

        Raises:
            TypeError: if the method cannot be called.
            ValueError: if there is no such part.
        """
        check_method(self.explainer, explainer_name(self.explainer))
        check_choice("part", self.part, get_args(Part))

    @property
    def name(self) -> str:
        """The method's name and the part."""
        return f"{explainer_name(self.explainer)}-{self.part}"

    def __call__(self, model: nn.Module, inputs: Tensor, target: Target = None) -> Tensor:
        """Relevance of the shape and dtype of `inputs`, without gradient.

        Args:
            model: maps images to logits (N, K).
            inputs: float (N, C, H, W), known images.
            target: the explained class.

        Raises:
            ValueError: see `KnownSpaces.rows`.
        """
        spaces = self.known.spaces(inputs)
        found = self.explainer(model, inputs, target)
        relevance = check_relevance(found, inputs, explainer_name(self.explainer)).detach()
        split = tangent_split(relevance.to(spaces.device), spaces)
        return (split.tangent if self.part == "tangent" else split.orthogonal).to(inputs)


def _keys(images: Tensor) -> list[bytes]:
    """SHA-256 of the values of each image in float32."""
    values = images.detach().float().cpu().flatten(1).contiguous().numpy()
    return [hashlib.sha256(one.data).digest() for one in values]
