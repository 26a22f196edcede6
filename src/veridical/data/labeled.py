"""Labeled images of one size in memory."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """Images of one size in memory, and the class of each.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: LongTensor (N,), places in `classes`.
        classes: names of the classes; those of folders in the order of the alphabet, whole numbers by value.
        source: the path that they came from.
        skipped: (name, reason) of everything that was there and could not be used.
        resized: how many of the images had another size.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    source: str
    skipped: tuple[tuple[str, str], ...] = ()
    resized: int = 0

    def __len__(self) -> int:
        """How many images could be used."""
        return len(self.images)

    @cached_property
    def sha256(self) -> str:
        """Digest of images, labels and names of classes, in hexadecimal."""
        found = hashlib.sha256(repr((self.classes, tuple(self.images.shape))).encode())
        for one in (self.images, self.labels):
            found.update(one.contiguous().numpy().data)
        return found.hexdigest()

    @property
    def counts(self) -> dict[str, int]:
        """How many images each class has."""
        found = torch.bincount(self.labels, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, found, strict=True))

    def subset(self, count: int, seed: int = 0) -> "LabeledImages":
        """`count` of the images, drawn without replacement.

        A larger subset of the same seed holds the smaller one.

        Raises:
            ValueError: if there are not that many, or count < 1.
        """
        if not 1 <= count <= len(self):
            raise ValueError(f"expected a subset of 1 to {len(self)} images, got {count}; ask for fewer")
        return self._take(self._order(seed)[:count])

    def split(self, share: float, seed: int = 0) -> tuple["LabeledImages", "LabeledImages"]:
        """Two parts without a common image.

        Args:
            share: of the images that go into the second part, rounded, at least one.
            seed: of the draw.

        Raises:
            ValueError: if the share leaves one of them empty.
        """
        count = max(1, round(share * len(self)))
        if not 0 < share < 1 or count >= len(self):
            raise ValueError(f"expected a share in (0, 1) of {len(self)} images, got {share}; 0.1 is usual")
        order = self._order(seed)
        return self._take(order[count:]), self._take(order[:count])

    def _order(self, seed: int) -> Tensor:
        return torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))

    def _take(self, places: Tensor) -> "LabeledImages":
        places = places.sort().values
        return replace(self, images=self.images[places], labels=self.labels[places])
