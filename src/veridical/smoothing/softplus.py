"""Softplus in place of ReLU, on an unmodified module.

``softplus_beta(x) = log(1 + exp(beta x)) / beta`` tends to ``max(x, 0)`` as beta grows; the largest gap is
``log(2) / beta``, at 0. Dombrowski et al. 2019, sections 3 and 4. ReLU6 becomes
``softplus_beta(x) - softplus_beta(x - 6)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from veridical.checks import check_inputs, check_logits, evaluation_mode, resolve_target
from veridical.smoothing.activations import rectification
from veridical.smoothing.schedule import check_beta
from veridical.values import Explainer, Target, explainer_name, is_differentiable


class SmoothedModel(nn.Module):
    """`model` with every ReLU computed as ``softplus_beta``, without touching `model`.

    The forward pass runs under a `torch.overrides.TorchFunctionMode`, which finds the module, the
    function, the method, the in-place variants, ReLU6, and clamps and hardtanhs from 0. Parameters,
    buffers and submodules are those of `model`. Modes further out see the softplus calls. Other piecewise
    linear functions (leaky ReLU, hardswish, max pooling, `torch.maximum`) stay as they are.

    Args:
        model: a module that maps images (N, C, H, W) to logits (N, K).
        beta: the sharpness, a number or a tensor of one; softplus is exactly linear above ``beta * x = 20``,
            torch's convention.

    Raises:
        ValueError: where beta is not positive; in `forward`, where the model has no ReLU to smooth, or
            changes a view in place and then uses the tensor behind that view.
        TypeError: where `model` is a scripted module, whose operations cannot be seen.
    """

    def __init__(self, model: nn.Module, beta: float | Tensor) -> None:
        """Wrap `model`; nothing runs yet."""
        super().__init__()
        if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
            raise TypeError(
                "expected an eager module, got TorchScript, whose ReLUs cannot be seen; "
                "load the original module"
            )
        self.model = model
        self.beta = check_beta(beta)
        self.training = model.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns with its ReLUs smoothed."""
        mode = _Softplus(self.beta)
        with mode:
            result = self.model(*args, **kwargs)
        if mode.count == 0:
            raise ValueError(
                f"expected a model with a ReLU or ReLU6 to smooth, got {type(self.model).__name__}, whose "
                "forward pass has none; leave the smoothing off for this model"
            )
        return mode.resolve(result)

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """Those of `model` under the names that they have there: patterns and layers are found by name."""
        yield from self.model.named_modules(memo, prefix, remove_duplicate)

    def extra_repr(self) -> str:
        """The beta, for the representation of the module."""
        return f"beta={self.beta:g}"


class _Softplus(TorchFunctionMode):
    """Replaces rectifications, and remembers what in-place ones would have written.

    Writing the softplus into the tensor would need a copy that autograd tracks; instead the tensor is
    mapped to the result, and every later use of it is answered with the result.
    """

    def __init__(self, beta: float | Tensor) -> None:
        super().__init__()
        self.beta = beta
        self.count = 0
        self._written: dict[int, tuple[Tensor, Tensor]] = {}
        self._storages: set[int] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = self.resolve(args), self.resolve(kwargs or {})
        found = rectification(func, args, kwargs)
        if found is None:
            return func(*args, **kwargs)
        self.count += 1
        smooth = found.smooth(self.beta)
        if found.inplace:
            self._written[id(found.input)] = (found.input, smooth)
            self._storages.add(_storage(found.input))
        return smooth

    def resolve(self, value: Any) -> Any:
        """`value` with every overwritten tensor in it, however deep, replaced by what was written."""
        if not self._written:
            return value
        if isinstance(value, Tensor):
            return self._current(value)
        if isinstance(value, dict):
            return {key: self.resolve(item) for key, item in value.items()}
        if isinstance(value, tuple | list):
            items = [self.resolve(item) for item in value]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        return value

    def _current(self, tensor: Tensor) -> Tensor:
        found = self._written.get(id(tensor))
        if found is not None:
            return self._current(found[1])
        if _storage(tensor) in self._storages:
            raise ValueError(
                "expected no use of a tensor that an in-place ReLU has changed through a view, got one of "
                f"shape {tuple(tensor.shape)}; use the out-of-place ReLU there"
            )
        return tensor


def _storage(tensor: Tensor) -> int:
    """The address of the memory behind a tensor, asked without telling any mode."""
    with torch._C.DisableTorchFunction():
        return tensor.untyped_storage().data_ptr()


def rectifications(model: nn.Module, inputs: Tensor) -> int:
    """How many calls of one forward pass a `SmoothedModel` would replace.

    Args:
        model: the module to run once, in evaluation mode and without gradients.
        inputs: (N, C, H, W); the first image is used.
    """
    mode = _Softplus(1.0)
    with torch.no_grad(), evaluation_mode(model), mode:
        model(inputs[:1].detach().clone())
    return mode.count


@dataclass(frozen=True)
class BetaSmoothed:
    """`explainer` applied to the model with softplus_beta activations (Dombrowski et al. 2019, section 4).

    A target of None is the class that the **unmodified** model predicts.

    Args:
        explainer: the method to smooth.
        beta: the sharpness of the softplus; the paper used 0.8 for VGG-16.
    """

    explainer: Explainer
    beta: float = 0.8

    def __post_init__(self) -> None:
        check_beta(self.beta)

    @property
    def name(self) -> str:
        """The name of the smoothed method, with the wrapper."""
        return f"beta-smooth({explainer_name(self.explainer)}, beta={self.beta:g})"

    @property
    def differentiable(self) -> bool:
        """Whether the smoothed method is."""
        return is_differentiable(self.explainer)

    def __call__(self, model: nn.Module, inputs: Tensor, target: Target = None) -> Tensor:
        """Relevance (N, C, H, W) of the smoothed network, differentiable where `inputs` requires grad."""
        classes = predicted_target(model, inputs, target)
        return self.explainer(SmoothedModel(model, self.beta), inputs, classes)


def beta_smooth(explainer: Explainer, beta: float = 0.8) -> BetaSmoothed:
    """`explainer` on softplus_beta activations; see `BetaSmoothed`.

    Raises:
        ValueError: where beta is not positive and finite.
    """
    return BetaSmoothed(explainer, beta)


def predicted_target(model: nn.Module, inputs: Tensor, target: Target = None) -> Tensor:
    """`target` as a LongTensor (N,): one class for all, or each image's prediction where None.

    A class that is given costs no forward pass; whether it exists is for the explainer to check.

    Raises:
        TypeError: where inputs or target are of another type.
        ValueError: where the inputs are no finite batch of images.
    """
    check_inputs(inputs)
    if isinstance(target, Tensor):
        return target
    if isinstance(target, int) and not isinstance(target, bool):
        return torch.full((len(inputs),), target, dtype=torch.long, device=inputs.device)
    with torch.no_grad(), evaluation_mode(model):
        logits = check_logits(model(inputs.detach().clone()), len(inputs))
    return resolve_target(logits, target)
