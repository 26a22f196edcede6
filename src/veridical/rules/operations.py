"""What an operation of a forward pass is: its kind, its tensors, its local derivative."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_KINDS: dict[str, str] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), "convolution"),
    "linear": "linear",
    "batch_norm": "batch_norm",
    **dict.fromkeys(
        "relu relu6 hardtanh leaky_relu rrelu prelu elu celu selu gelu silu mish softplus softsign hardswish "
        "hardsigmoid sigmoid logsigmoid tanh tanhshrink hardshrink softshrink threshold smooth_relu6 clamp "
        "clamp_min clamp_max clip".split(),
        "activation",
    ),
    **dict.fromkeys(
        "layer_norm group_norm instance_norm rms_norm local_response_norm".split(), "normalization"
    ),
    "softmax": "softmax",
    **dict.fromkeys(("matmul", "__matmul__", "__rmatmul__", "bmm", "mm"), "matmul"),
    **dict.fromkeys(
        "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
        "amax".split(),
        "max_pool",
    ),
    **dict.fromkeys(
        "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
        "mean sum interpolate upsample fold".split(),
        "average_pool",
    ),
    **dict.fromkeys(
        "view view_as reshape flatten unflatten permute transpose swapaxes movedim t T mT contiguous "
        "squeeze unsqueeze clone __getitem__ narrow select chunk split unbind cat concat concatenate stack "
        "pad dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout "
        "to float double half bfloat16 type "
        "type_as cuda cpu expand roll masked_fill where flip pixel_shuffle pixel_unshuffle "
        "channel_shuffle unfold repeat repeat_interleave tile gather index_select take_along_dim swapdims "
        "moveaxis ravel hstack vstack dstack column_stack tensor_split split_with_sizes expand_as reshape_as "
        "broadcast_to rot90 fliplr flipud diagonal".split(),
        "structure",
    ),
    **dict.fromkeys(("add", "sub", "__radd__", "__rsub__", "rsub", "subtract"), "sum"),
    **dict.fromkeys(("mul", "div", "neg", "__rmul__", "true_divide", "multiply", "divide"), "product"),
}

DIVISIONS = frozenset({"div", "true_divide", "divide"})
"""Functions that divide their first argument by their second."""

GATES = frozenset({"softmax", "sigmoid", "hardsigmoid"})
"""Functions whose results weigh other values: attention weights and the gates of squeeze-and-excitation."""


def kind_of(base: str, active: int, *, first: bool = True) -> str:
    """The kind of an operation by its base name and by which of its inputs depend on the image.

    `sum` with one such input is a `shift`, `product` with one is a `scale`; a name without an entry is of
    the kind `unknown`. So are affine operations whose weights, and activations whose limits, depend on the
    image.

    Args:
        base: the function's plain name.
        active: how many of its inputs depend on the image.
        first: whether its first argument does.
    """
    kind = _KINDS.get(base, "unknown")
    if kind in ("convolution", "linear", "batch_norm", "activation") and (active > 1 or not first):
        return "unknown"
    if active == 1:
        return {"sum": "shift", "product": "scale"}.get(kind, kind)
    return kind


RECOMPUTED = frozenset({"convolution", "linear", "batch_norm", "sum"})
"""Kinds whose result a lean trace does not keep where the model overwrites it."""

OVERWRITING = frozenset(
    (
        "relu relu6 hardtanh leaky_relu elu celu selu silu mish hardswish hardsigmoid sigmoid tanh add sub"
    ).split()
)
"""Functions whose in-place form a lean trace runs in place: autograd saves what their derivative needs."""


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation that a forward pass performed.

    Attributes:
        name: unique in its trace: the dotted name of a module without children, else "module:function",
            with `#2`, `#3` for repeated use.
        kind: convolution, linear, batch_norm, activation, normalization, softmax, max_pool, average_pool,
            structure, sum, shift, scale, product, matmul or unknown.
        module: dotted name of the module whose code performed it ("" for the model itself).
        base: name of the function without its in-place underscore, such as "conv2d".
        function: the callable.
        args, kwargs: its arguments as called.
        sources: the distinct tensors that depend on the image, as produced by earlier operations.
        inputs: the same values as this operation saw them (aliases of `sources`).
        counts: how often each of `sources` occurs among the arguments.
        outputs: its floating point results.
        on_image: whether nothing but structural operations lies between the image and this operation.
        gates: for each of `sources`, whether it is a result of `GATES`, at most reshaped and scaled.
        makers: for each of `sources`, the operation that computed it; None for the image.
        lost: ids of the tensors whose numbers a lean trace did not keep.

    In a lean trace `inputs` and `outputs` may show what the model overwrote them with: rules read their
    numbers as `values` and `value`, and use `inputs` and `output` for shapes only.
    """

    name: str
    kind: str
    module: str
    base: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    sources: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...]
    counts: tuple[int, ...]
    outputs: tuple[Tensor, ...]
    on_image: bool
    gates: tuple[bool, ...]
    makers: "tuple[Operation | None, ...]"
    lost: Collection[int] = ()

    @property
    def output(self) -> Tensor:
        """The first (mostly the only) result."""
        return self.outputs[0]

    @property
    def value(self) -> Tensor:
        """The first result with its numbers, computed again where a lean trace did not keep them."""
        if self._kept(self.output):
            return self.output
        result: Tensor = self.replay(*self.values)
        return result

    @property
    def values(self) -> tuple[Tensor, ...]:
        """The inputs with their numbers, computed again where a lean trace did not keep them."""
        return tuple(
            tensor if maker is None or self._kept(tensor) else maker.value
            for tensor, maker in zip(self.inputs, self.makers, strict=True)
        )

    def _kept(self, tensor: Tensor) -> bool:
        return id(tensor) not in self.lost

    def describe(self) -> str:
        """The text that error messages use: "conv2d (features.0)"."""
        return f"{self.base} (called from {self.module or 'the model itself'}, named {self.name})"

    def adjoint(self, cotangents: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The exact vector-Jacobian product of this operation alone, for S cotangents at once.

        Args:
            cotangents: one (S, N, ...) tensor for each of `outputs`.

        Returns:
            One (S, N, ...) tensor for each of `inputs`. The forward's saved tensors are used again, so that
            nothing is recomputed, and the result is differentiable where gradients are enabled.
        """
        if self.kind == "activation" and len(cotangents[0]) > 1:
            slope = self.adjoint([torch.ones_like(self.output)[None]])[0]  # elementwise: one slope serves all
            return (cotangents[0] * slope,)
        create = torch.is_grad_enabled()
        several = cotangents[0].shape[0] > 1
        grads = torch.autograd.grad(
            self.outputs,
            self.inputs,
            [c if several else c.squeeze(0) for c in cotangents],  # whose derivative, unlike [0], is a view
            retain_graph=True,
            create_graph=create,
            is_grads_batched=several,
            allow_unused=True,
        )
        count = cotangents[0].shape[0]
        return tuple(
            tensor.new_zeros((count, *tensor.shape)) if grad is None else (grad if several else grad[None])
            for grad, tensor in zip(grads, self.inputs, strict=True)
        )

    def replay(self, *values: Tensor) -> Tensor:
        """The result of the operation with `values` in the place of its first inputs."""
        results = self.replayed(*values)
        if len(results) != 1:
            raise ValueError(f"expected an operation with one result, got {self.describe()}")
        return results[0]

    def replayed(self, *values: Tensor) -> list[Tensor]:
        """The results, each where `outputs` has it, with `values` in the place of the first inputs."""
        places = {id(tensor): value for tensor, value in zip(self.inputs, values, strict=False)}
        result = self.function(*swapped(self.args, places), **swapped(self.kwargs, places))
        results = result if isinstance(result, list | tuple) else [result]
        return [item for item in results if isinstance(item, Tensor) and item.is_floating_point()]


def multiplies(operation: Operation) -> bool:
    """Whether a factor or product does not divide by a value that depends on the image."""
    if operation.base not in DIVISIONS:
        return True
    below = operation.args[1] if len(operation.args) > 1 else operation.kwargs.get("other")
    return not any(below is tensor for tensor in operation.inputs)


def swapped(item: Any, places: Mapping[int, Tensor]) -> Any:
    """Arguments with the tensors in `places` (by id) put in, at any depth."""
    if isinstance(item, Tensor):
        return places.get(id(item), item)
    if isinstance(item, list | tuple) and not isinstance(item, torch.Size):
        return rebuilt(item, [swapped(part, places) for part in item])
    if isinstance(item, dict):
        return {key: swapped(part, places) for key, part in item.items()}
    return item


def rebuilt(item: list[Any] | tuple[Any, ...], parts: list[Any]) -> Any:
    """A sequence of the type of `item` with other members."""
    return type(item)(*parts) if hasattr(item, "_fields") else type(item)(parts)
