"""Images with removed pixels, what a network says about them, and the curves of that."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from veridical.checks import check_choice, check_logits
from veridical.faithfulness._seeds import generator
from veridical.values import Target

Quantity = Literal["probability", "logit", "kept"]


@dataclass(frozen=True, eq=False)
class FlippingCurves:
    """What the network says as pixels are removed, none of them at first.

    Attributes:
        fractions: float64 (S + 1,), the share of removed pixels, 0 first.
        probability: float64 (..., N, S + 1) of the explained class.
        logit: float64 (..., N, S + 1) of the explained class.
        predicted: LongTensor (..., N, S + 1), the class that the network predicts.
    """

    fractions: Tensor
    probability: Tensor
    logit: Tensor
    predicted: Tensor

    @property
    def kept(self) -> Tensor:
        """Bool (..., N, S + 1), whether the prediction is still that for the whole image."""
        return self.predicted == self.predicted[..., :1]

    def area(self, quantity: Quantity = "probability") -> Tensor:
        """Area under each curve (..., N) by the trapezoidal rule, divided by the last fraction.

        So it is the mean height of the curve: in [0, 1] for `"probability"` and `"kept"`.
        """
        values = self._values(quantity)
        return torch.trapezoid(values, self.fractions, dim=-1) / self.fractions[-1]

    def area_over(self, quantity: Quantity = "probability") -> Tensor:
        """Area (..., N) between each curve and its first value: the mean loss.

        Samek et al. 2017 take the plain mean over the points of the curve, the first included.
        """
        return self._values(quantity)[..., 0] - self.area(quantity)

    def accuracy(self, target: Target) -> Tensor:
        """Share of the N images (..., S + 1) that are predicted as `target`, one class or LongTensor (N,)."""
        classes = target if isinstance(target, Tensor) else torch.tensor(target)
        return (self.predicted == classes.cpu().reshape(-1, 1)).double().mean(dim=-2)

    def _values(self, quantity: Quantity) -> Tensor:
        check_choice("quantity", quantity, get_args(Quantity))
        values: Tensor = getattr(self, quantity)
        return values.double()


@dataclass(frozen=True)
class FlippedImages:
    """What all orders share: the images, their baselines, the explained classes and the pixels removed."""

    model: nn.Module
    inputs: Tensor
    removed: Tensor
    target: Tensor
    counts: tuple[int, ...]
    batch: int

    @property
    def pixels(self) -> int:
        """Of one image."""
        return self.inputs.shape[2] * self.inputs.shape[3]

    def measure(self, ranks: Tensor, counts: tuple[int, ...]) -> Tensor:
        """Readings (O, N, len(counts), 3) for O orders.

        Args:
            ranks: (O, N, P) or (O, 1, P), the place of each pixel in each order.
            counts: how many of the first pixels are removed.
        """
        orders, images = len(ranks), len(self.inputs)
        cells = torch.cartesian_prod(torch.arange(orders), torch.arange(images), torch.tensor(counts))
        parts = [self._flip(ranks, *cell.unbind(1)) for cell in cells.split(self.batch)]
        return torch.cat(parts).reshape(orders, images, len(counts), 3)

    def _flip(self, ranks: Tensor, order: Tensor, image: Tensor, count: Tensor) -> Tensor:
        """One forward pass over one flipped image for each order, image and number of removed pixels."""
        device = self.inputs.device
        own = ranks[order, image if ranks.shape[1] > 1 else torch.zeros_like(image)].to(device)
        gone = (own < count.to(device)[:, None]).reshape(-1, 1, *self.inputs.shape[2:])
        image = image.to(device)
        flipped = torch.where(gone, self.removed[image], self.inputs[image])
        return read(check_logits(self.model(flipped), len(flipped)), self.target[image])


def read(logits: Tensor, target: Tensor) -> Tensor:
    """Probability and logit of the target, and the predicted class: float64 (N, 3), on the CPU."""
    logits = logits.double()
    own = logits.gather(1, target[:, None])[:, 0]
    probability = (own - logits.logsumexp(dim=1)).exp()
    return torch.stack([probability, own, logits.argmax(dim=1).double()], dim=1).cpu()


def check_reused(settings: object, chosen: object, *, same: bool) -> None:
    """Refuse a result that another one is to take a part of, where that part was measured otherwise.

    Args:
        settings: its settings, but for those that the part does not depend on.
        chosen: the settings now.
        same: whether classes and logits of the unchanged images are the same.

    Raises:
        ValueError: settings, or classes and logits, differ.
    """
    if settings != chosen:
        raise ValueError(f"expected to reuse a result for {chosen}, got {settings}; leave out reuse")
    if not same:
        raise ValueError(
            "expected to reuse a result for the same model, images and target, got other logits or classes; "
            "leave out reuse"
        )


def logits_of(model: nn.Module, images: Tensor, batch: int) -> Tensor:
    """Logits (N, K) of the unchanged images."""
    return torch.cat([check_logits(model(part.clone()), len(part)) for part in images.split(batch)])


def ranks_of(maps: Tensor, most_relevant_first: bool, seed: int) -> Tensor:
    """The place (N, P) of each pixel in the order of its map."""
    flat = maps.flatten(1)
    ties = torch.randperm(flat.shape[1], generator=generator(seed, 0)).to(flat.device)
    order = ties[torch.argsort(flat[:, ties], dim=1, descending=most_relevant_first, stable=True)]
    return order.argsort(dim=1).to(torch.int32)


def ends_of(shared: FlippedImages, start: Tensor) -> tuple[Tensor, Tensor]:
    """Readings (N, 1, 3) with no pixel removed, and with all of them, (N, 0, 3) where no step does that."""
    last = shared.counts[-1:] if shared.counts[-1] == shared.pixels else ()
    if not last:
        return start[:, None], start[:, None][:, :0]
    any_order = torch.arange(shared.pixels)[None, None]
    return start[:, None], shared.measure(any_order, last)[0]


def curves_of(shared: FlippedImages, ranks: Tensor, ends: tuple[Tensor, Tensor]) -> FlippingCurves:
    """Curves (O, N, S + 1) for the ranks of O orders."""
    first, last = (end.expand(len(ranks), *end.shape) for end in ends)
    between = shared.counts[1 : len(shared.counts) - last.shape[2]]
    readings = [first, shared.measure(ranks, between), last] if between else [first, last]
    probability, logit, predicted = torch.cat(readings, dim=2).unbind(dim=3)
    fractions = torch.tensor(shared.counts, dtype=torch.float64) / shared.pixels
    return FlippingCurves(fractions, probability, logit, predicted.long())


def pick(curves: FlippingCurves, place: int) -> FlippingCurves:
    """The curves (N, S + 1) of one of several orders."""
    return FlippingCurves(
        curves.fractions, curves.probability[place], curves.logit[place], curves.predicted[place]
    )
