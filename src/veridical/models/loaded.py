"""A network with all that a run has to know of it."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from veridical.models.outputs import Output
from veridical.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class LoadedModel:
    """A network in evaluation mode and where it comes from.

    Attributes:
        module: maps images (N, C, H, W) to logits (N, K); in evaluation mode.
        name: short, for titles.
        source: where architecture and weights come from, with versions.
        sha256: digest of the state dict as it came, see `state_digest`.
        classes: a label for each logit, or None where nobody told us.
        preprocessing: from a photograph to the tensor that the module takes.
        output: what the logits mean: "classes" that exclude one another (softmax), "binary" where one logit
            became those of two classes, "labels" of which each has a sigmoid of its own.
    """

    module: nn.Module
    name: str
    source: str
    sha256: str
    classes: tuple[str, ...] | None
    preprocessing: Preprocessing
    output: Output = "classes"

    def label(self, index: int) -> str:
        """The label of a class; "class 283" where there is none.

        Args:
            index: of the logit, from 0.

        Returns:
            The label.
        """
        known = self.classes is not None and 0 <= index < len(self.classes)
        return self.classes[index] if self.classes is not None and known else f"class {index}"

    @property
    def parameters(self) -> int:
        """How many trained numbers the network has."""
        return sum(parameter.numel() for parameter in self.module.parameters())


def state_digest(module: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of the state dict, in its order.

    Two networks with this digest in common compute the same wherever their code is the same. The device
    makes no difference.

    Args:
        module: any module.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            digest.update(f"{name}|{value!r}\n".encode())
            continue
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
