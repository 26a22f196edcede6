"""Images that were found and are not read yet: which are taken, and what comes of reading them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from veridical.data._files import Read
from veridical.data._pixels import MODES, as_pixels
from veridical.data.images import Images, Picture
from veridical.data.labeled import LabeledImages
from veridical.data.later import ReadLater, in_rgb

MAX_BROKEN = 100
SHOWN = 3
UNLABELED = "all"


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Names and labels of images, and a function that reads one of them.

    Nothing is decoded before `photographs` or `arrays` is called, and then only what is asked for.

    Attributes:
        place: where they come from, as the user wrote it.
        names: a unique name for each image.
        read: from a place in `names` to the image and its digest; raises ValueError or OSError.
        labels: LongTensor (N,) of places in `classes`; None where the source has no labels.
        classes: names of the classes; () where there are none.
        ignored: (name, reason) of what is there and is no image.
        order: LongTensor of places in `names` in the order of reading; None for all of them as they are.
        wanted: stop after so many usable images.
        one_size: whether the images are stored as one array.
    """

    place: str
    names: tuple[str, ...]
    read: Read
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()
    order: Tensor | None = None
    wanted: int | None = None
    one_size: bool = False

    def __len__(self) -> int:
        """How many images there are to choose from."""
        return len(self.names) if self.order is None else len(self.order)

    def first(self, count: int) -> "ImageSource":
        """Only the first `count` usable images, or as many as there are.

        Raises:
            ValueError: count < 1.
        """
        if count < 1:
            raise ValueError(f"expected a limit of at least 1 image, got {count}; None takes all")
        return replace(self, wanted=count)

    def subset(self, count: int, seed: int = 0) -> "ImageSource":
        """`count` of the images, drawn without replacement; see `draw_order`.

        A larger subset of the same seed holds the smaller one. A broken image is replaced by the next one
        that is drawn.

        Raises:
            ValueError: there are not that many, or count < 1.
        """
        if not 1 <= count <= len(self):
            raise ValueError(f"expected a subset of 1 to {len(self)} images, got {count}; ask for fewer")
        places = self._places()
        labels = None if self.labels is None else self.labels[places]
        return replace(self, order=places[draw_order(len(self), labels, seed)], wanted=count)

    def split(self, share: float, seed: int = 0) -> tuple["ImageSource", "ImageSource"]:
        """Two parts without a common image; the second has `share` of the images, at least one.

        What the source ignored stays with the first.

        Raises:
            ValueError: if the share leaves one of them empty.
        """
        count = max(1, round(share * len(self)))
        if not 0 < share < 1 or count >= len(self):
            raise ValueError(f"expected a share in (0, 1) of {len(self)} images, got {share}; 0.1 is usual")
        drawn = self._places()[torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))]
        first, second = (part.sort().values for part in (drawn[count:], drawn[:count]))
        return replace(self, order=first), replace(self, order=second, ignored=())

    def photographs(self, max_broken: int = MAX_BROKEN, *, later: bool = False) -> Images:
        """Read the images as they are, in RGB, in the order of the source.

        Args:
            max_broken: more files than this that cannot be used are an error.
            later: decode each once to see that it can be used, keep none, and read them again when they are
                asked for: the memory does not grow with their number.

        Returns:
            At least one image; what could not be used is in `skipped`, with what the source ignored.

        Raises:
            ValueError: no image can be used, or too many cannot.
        """
        broken: list[tuple[str, str]] = []
        usable = (
            (place, None if later else in_rgb(image), digest)
            for place, image, digest in self._usable(max_broken, broken)
        )
        found = sorted(usable, key=lambda one: one[0])
        if not found:
            raise ValueError(self._nothing(broken))
        places, images, digests = zip(*found, strict=True)
        return Images(
            names=tuple(self.names[place] for place in places),
            images=ReadLater(self.read, places, digests) if later else images,
            sha256=digests,
            skipped=self._skipped(broken),
            labels=() if self.labels is None else tuple(self.labels[list(places)].tolist()),
            classes=self.classes,
            source=self.place,
            available=len(self.names),
        )

    def arrays(
        self, side: int | None = None, channels: int = 3, max_broken: int = MAX_BROKEN
    ) -> LabeledImages:
        """Read the images into one array, in the order of the source.

        Args:
            side: height and width; images of another size are scaled so that they fill it, and what sticks
                out is cut off on both sides. None keeps the size, which must be the same for all.
            channels: 3 for RGB, 1 for gray.
            max_broken: more files than this that cannot be used are an error.

        Returns:
            The images with their labels; those of a source without labels are all of one class, "all".

        Raises:
            ValueError: no image can be used, or none of a class where all are read; too many cannot, sizes
                differ, or an option is wrong.
        """
        if channels not in MODES:
            raise ValueError(f"expected 1 or 3 channels, got {channels}; images are gray or RGB")
        if side is not None and side < 1:
            raise ValueError(f"expected a side of at least one pixel, got {side}; None keeps the size")
        broken: list[tuple[str, str]] = []
        places: list[int] = []
        images: Tensor | None = None
        resized = 0
        for place, image, _ in self._usable(max_broken, broken):
            pixels, changed = as_pixels(image, side, channels)
            # One array for all: a list of as many tensors would need the memory twice.
            images = torch.empty((self._most, *pixels.shape), dtype=torch.uint8) if images is None else images
            _check_size(images[0], pixels)
            images[len(places)] = pixels
            places.append(place)
            resized += changed
        labels = self._labels_of(places, broken)
        if images is None:
            raise ValueError(self._nothing(broken))
        order = torch.tensor(places).argsort()
        whole = len(places) == len(images) and self.wanted is None
        chosen = images if whole else images[order]
        classes = self.classes or (UNLABELED,)
        return LabeledImages(chosen, labels[order], classes, self.place, self._skipped(broken), resized)

    @property
    def _most(self) -> int:
        """How many images there can be."""
        return len(self) if self.wanted is None else min(self.wanted, len(self))

    def _places(self) -> Tensor:
        return torch.arange(len(self.names)) if self.order is None else self.order

    def _usable(self, max_broken: int, broken: list[tuple[str, str]]) -> Iterator[tuple[int, Picture, str]]:
        """Place, image and digest of the images that are wanted; the broken ones go into the list."""
        found = 0
        for place in self._places().tolist():
            try:
                image, digest = self.read(place)
            except (ValueError, OSError) as error:
                broken.append((self.names[place], str(error)))
                if len(broken) > max_broken:
                    raise ValueError(self._too_many(broken, found)) from error
                continue
            yield place, image, digest
            found += 1
            if found == self.wanted:
                return

    def _labels_of(self, places: list[int], broken: list[tuple[str, str]]) -> Tensor:
        if self.labels is None:
            return torch.zeros(len(places), dtype=torch.long)
        labels = self.labels[places]
        if places and self.order is None and self.wanted is None:
            counts = torch.bincount(labels, minlength=len(self.classes))
            empty = [self.classes[index] for index in (counts == 0).nonzero().flatten()[:SHOWN].tolist()]
            if empty:
                raise ValueError(
                    f"expected a usable image of every class in {self.place}, got none of {', '.join(empty)} "
                    f"({_few(self._skipped(broken))}); mend the files, remove the class, or number the "
                    "classes without gaps"
                )
        return labels

    def _skipped(self, broken: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        return tuple(sorted([*self.ignored, *broken]))

    def _nothing(self, broken: list[tuple[str, str]]) -> str:
        skipped = self._skipped(broken)
        return (
            f"expected at least one usable image in {self.place}, got none of {len(skipped)} entries "
            f"({_few(skipped)})"
        )

    def _too_many(self, broken: list[tuple[str, str]], found: int) -> str:
        return (
            f"expected at most {len(broken) - 1} files of {self.place} that cannot be used, got "
            f"{len(broken)} beside {found} that can ({_few(tuple(broken))}); mend them or allow more "
            "(--max-broken)"
        )


def draw_order(count: int, labels: Tensor | None, seed: int) -> Tensor:
    """An order by chance of which every beginning has the classes in proportion to their size.

    Of a class with n images the j-th that is drawn, from 0, stands at (j + u) / n with u uniform in [0, 1)
    for each class. So the first c images hold about c n / N of a class, and where all classes have one size
    they are spread over as many classes as can be. The first few draws favor large classes a little more
    than their size does: with 6 and 2 images the first is of the larger class 5 times in 6.

    Args:
        count: how many there are.
        labels: LongTensor (count,) of classes; None draws without regard to classes.
        seed: of the draw.

    Returns:
        LongTensor (count,) of places.

    Source:
        Our own; a form of systematic sampling with a random start in each stratum.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=generator)
    if labels is None or not count:
        return order
    grouped = order[labels[order].argsort(stable=True)]
    owners = labels[grouped]
    sizes = torch.bincount(owners)
    ranks = torch.arange(count) - (sizes.cumsum(0) - sizes)[owners]
    starts = torch.rand(len(sizes), generator=generator, dtype=torch.float64)
    return grouped[((ranks + starts[owners]) / sizes[owners]).argsort(stable=True)]


def _check_size(one: Tensor, other: Tensor) -> None:
    if one.shape != other.shape:
        sizes = sorted({tuple(one.shape[1:]), tuple(other.shape[1:])})
        shown = ", ".join(f"{height} x {width}" for height, width in sizes)
        raise ValueError(f"expected images of one size, got 2 sizes ({shown}); give a side")


def _few(skipped: tuple[tuple[str, str], ...]) -> str:
    shown = "; ".join(f"{name}: {reason}" for name, reason in skipped[:SHOWN])
    return f"{shown}; and {len(skipped) - SHOWN} more" if len(skipped) > SHOWN else shown or "empty"
