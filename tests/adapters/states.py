"""Everything about a model that a method must leave alone, as a value."""

import torch
from torch import nn

HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
    "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_state_dict_hooks",
)  # fmt: skip


def fingerprint(model: nn.Module) -> list[object]:
    parts: list[object] = []
    for name, module in model.named_modules():
        hooks = {kind: list(getattr(module, kind)) for kind in HOOKS}
        parts.append((name, id(module), module.training, sorted(vars(module)), list(module._modules), hooks))
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        grad = None if tensor.grad is None else (id(tensor.grad), content(tensor.grad))
        parts.append((name, id(tensor), tensor.data_ptr(), tensor.requires_grad, content(tensor), grad))
    return parts


def content(tensor: torch.Tensor) -> bytes:
    return tensor.detach().numpy().tobytes()
