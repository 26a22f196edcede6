"""Each operation of a recorded pass beside the same operation in the pass of a reference."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from veridical.rules.operations import Operation
from veridical.rules.ruleset import Application
from veridical.rules.trace import Trace, record


@dataclass(frozen=True, eq=False)
class Pairing:
    """Each operation of a recorded pass beside the same operation in the pass of the reference.

    Attributes:
        operations: name to the operation in the pass of the reference.
        tensors: id of a tensor of the recorded pass to its reference (N, ...), or (1, ...) for all images.
        producers: id of a tensor of the recorded pass to the operation that made it; empty for a lean pass.
    """

    operations: dict[str, Operation] = field(default_factory=dict)
    tensors: dict[int, Tensor] = field(default_factory=dict)
    producers: dict[int, Operation] = field(default_factory=dict)

    def reference(self, operation: Operation) -> Operation:
        """The same operation in the pass of the reference."""
        return self.operations[operation.name]

    def difference(self, tensor: Tensor) -> Tensor:
        """A tensor of the recorded pass minus its reference, (N, ...)."""
        return tensor - self.tensors[id(tensor)]

    def before(self, at: Application) -> Tensor:
        """The input of an affine map minus its reference."""
        return at.x - self.operations[at.name].values[0]


def pair(trace: Trace, images: Tensor) -> Pairing:
    """Run the reference images through the model of a trace, once, and pair the operations.

    Args:
        trace: a recorded pass of N images.
        images: (N, C, H, W), or (1, C, H, W) as the reference of all.

    Raises:
        ValueError: if the model performs other operations on the reference than on the images.
    """
    there = record(trace.model, images, lean=trace.lean)
    if not _matches(trace, there) and len(images) < len(trace.inputs):
        there = record(trace.model, images.expand(trace.inputs.shape).contiguous(), lean=trace.lean)
    if not _matches(trace, there):
        other = next(
            (a for a, b in zip(trace.names, there.names, strict=False) if a != b),
            f"{len(trace.names)} and {len(there.names)} operations, or other shapes",
        )
        raise ValueError(
            f"expected the same operations on the images and on the reference, got a difference: {other}; "
            "the model's control flow depends on its data: choose a reference that takes the same path"
        )
    tensors, producers = {id(trace.inputs): there.inputs}, {}
    for operation, twin in zip(trace.operations, there.operations, strict=True):
        for tensor, other_tensor in zip(operation.outputs, twin.outputs, strict=True):
            tensors[id(tensor)] = other_tensor
            if not trace.lean:
                producers[id(tensor)] = operation
    return Pairing({twin.name: twin for twin in there.operations}, tensors, producers)


def _matches(trace: Trace, there: Trace) -> bool:
    """Whether the operations have the same names, and shapes that differ in the number of images at most."""
    count, alone = len(trace.inputs), len(there.inputs)

    def fits(shape: torch.Size, other: torch.Size) -> bool:
        if alone == count:
            return shape == other
        return len(shape) > 0 and shape[0] == count and other == torch.Size([1, *shape[1:]])

    return trace.names == there.names and all(
        len(a.outputs) == len(b.outputs)
        and all(fits(x.shape, y.shape) for x, y in zip(a.outputs, b.outputs, strict=True))
        for a, b in zip(trace.operations, there.operations, strict=True)
    )
