"""What identifies a network: the digest of its weights."""

import hashlib

import torch
from torch import Tensor, nn


def state_digest(model: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of the state dict of a model, in its order."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(f"{name}|{value!r}\n".encode())
    return digest.hexdigest()
