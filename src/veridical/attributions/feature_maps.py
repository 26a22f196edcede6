"""Where a network holds feature maps: operations whose outputs still say where in the image a feature is.

An output is a grid of feature vectors in one of three orders: (N, C, H, W); channels last, (N, H, W, C); or
tokens, (N, front + H W, C), with class and register tokens in front.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from veridical.checks import nearest_names
from veridical.rules import Operation, Trace

Order = Literal["channels first", "channels last", "tokens"]
Shape = tuple[int, int, int]
"""Height, width and channels."""

_POOLING = ("max_pool", "average_pool")
_CHANNELS_FIRST = frozenset(
    "conv2d max_pool2d avg_pool2d adaptive_max_pool2d adaptive_avg_pool2d batch_norm group_norm "
    "instance_norm local_response_norm interpolate pixel_shuffle pixel_unshuffle channel_shuffle".split()
)
_REARRANGING = frozenset(
    "view view_as reshape flatten unflatten transpose swapaxes movedim t T mT squeeze unsqueeze stack".split()
)
_PERMUTED: dict[tuple[Order, tuple[int, ...]], Order] = {
    ("channels first", (0, 2, 3, 1)): "channels last",
    ("channels last", (0, 3, 1, 2)): "channels first",
}
_READ: dict[Order, Callable[[Sequence[int]], Shape]] = {
    "channels first": lambda shape: (shape[2], shape[3], shape[1]),
    "channels last": lambda shape: (shape[1], shape[2], shape[3]),
}
"""The shape of the maps in a 4-D output."""
_MOST_IN_FRONT = 8  # class, distillation and register tokens


@dataclass(frozen=True)
class Layout:
    """How an output holds a grid of feature vectors.

    Attributes:
        order: of its axes.
        grid: height and width.
        front: number of tokens in front of those of the grid.
    """

    order: Order
    grid: tuple[int, int]
    front: int = 0

    @property
    def is_spatial(self) -> bool:
        """Whether the grid has more than one place."""
        return self.grid[0] * self.grid[1] > 1

    def maps(self, values: Tensor) -> Tensor:
        """The values (..., *axes of one image) as feature maps (..., C, H, W)."""
        if self.order == "channels first":
            return values
        if self.order == "tokens":
            values = values[..., self.front :, :].unflatten(-2, self.grid)
        return values.movedim(-1, -3)


def layouts(trace: Trace) -> dict[str, Layout]:
    """The layout of each operation's output, by the operation's name; without those that have none."""
    orders: dict[int, Order] = {id(trace.inputs): "channels first"}
    shapes: dict[Shape, None] = {}  # of the maps so far, the latest last
    found = {}
    for operation in trace.operations:
        shape = operation.output.shape
        if not shape or shape[0] != len(trace.inputs):
            continue
        layout = _of_tokens(shape[1], shapes) if len(shape) == 3 else None
        order = _order(operation, orders, shapes) if len(shape) == 4 else None
        if order is not None:
            layout = Layout(order, _READ[order](shape)[:2])
            orders[id(operation.output)] = order
        if layout is None:
            continue
        found[operation.name] = layout
        if layout.front == 0:
            latest = (*layout.grid, shape[1] if order == "channels first" else shape[-1])
            shapes.pop(latest, None)
            shapes[latest] = None
    return found


def _order(operation: Operation, orders: dict[int, Order], shapes: Iterable[Shape]) -> Order | None:
    """The order of a 4-D output: by what the function needs, from the input's order, or by a known shape."""
    if operation.base in _CHANNELS_FIRST:
        return "channels first"
    before = next((orders[id(tensor)] for tensor in operation.sources if id(tensor) in orders), None)
    if operation.base == "permute" and before is not None:
        return _PERMUTED.get((before, _dims(operation)))
    if operation.base in _REARRANGING or operation.base == "permute":
        fits = [order for order, read in _READ.items() if _known(read(operation.output.shape), shapes)]
        return fits[0] if len(fits) == 1 else None
    if operation.kind == "linear":
        return before if before == "channels last" else None
    return None if operation.kind == "matmul" else before


def _dims(operation: Operation) -> tuple[int, ...]:
    dims = operation.kwargs.get("dims", operation.args[1:])
    if len(dims) == 1:
        dims = dims[0]
    return tuple(dim % 4 for dim in dims)


def _known(shape: Shape, shapes: Iterable[Shape]) -> bool:
    """Whether a map was of this shape, or of one whose k x k patches became single places (patch merging)."""
    height, width, channels = shape
    return any(
        h % height == 0
        and w % width == 0
        and h * width == w * height
        and h * w * c == height * width * channels
        for h, w, c in shapes
    )


def _of_tokens(count: int, shapes: Iterable[Shape]) -> Layout | None:
    """The grid with as many places as there are tokens, but for a few in front; of several the latest."""
    fits = [
        Layout("tokens", (height, width), count - height * width)
        for height, width, _ in shapes
        if height * width > 1 and 0 <= count - height * width <= _MOST_IN_FRONT
    ]
    return min(reversed(fits), key=lambda layout: layout.front, default=None)


def default_layer(trace: Trace) -> str:
    """The operation whose feature maps are the last ones before the network forgets the places.

    The last operation with an image-shaped output of more than one place that is not pooling. Where only
    tokens follow it, as in a vision transformer: the last normalization before the last softmax, because
    behind the last attention the class depends on the class token alone; without a softmax the last one.

    Raises:
        ValueError: if there is none.
    """
    known = {name: layout for name, layout in layouts(trace).items() if layout.is_spatial}
    images = [
        place
        for place, operation in enumerate(trace.operations)
        if operation.name in known
        and known[operation.name].order != "tokens"
        and operation.kind not in _POOLING
        and not (operation.on_image and operation.kind in ("structure", "shift", "scale"))
    ]
    if not images:
        raise ValueError(
            "expected a network with feature maps larger than 1 x 1, got none; give larger images, name a "
            "layer, or use a method that needs no layer"
        )
    after = trace.operations[images[-1] + 1 :]
    attention = [place for place, operation in enumerate(after) if operation.kind == "softmax"]
    normalizations = [
        operation.name
        for operation in after[: attention[-1] if attention else None]
        if operation.kind == "normalization" and operation.name in known
    ]
    return normalizations[-1] if normalizations else trace.operations[images[-1]].name


def find_layer(trace: Trace, name: str | None) -> tuple[Operation, Layout]:
    """An operation and the layout of its output.

    Args:
        trace: a recorded forward pass.
        name: of a module, for the last operation performed inside it, or of an operation of the trace; "#1"
            behind a name says the first of several uses. None for `default_layer`.

    Raises:
        ValueError: if there is no such name, or the output is no grid of more than one place.
    """
    operation = _named(trace, default_layer(trace) if name is None else name)
    layout = layouts(trace).get(operation.name)
    if layout is None or not layout.is_spatial:
        spatial = [known for known, layout in layouts(trace).items() if layout.is_spatial]
        near = nearest_names(operation.name, spatial) if spatial else "the network has none"
        raise ValueError(
            f"expected a layer with feature maps larger than 1 x 1, got {operation.describe()} with an "
            f"output of shape {tuple(operation.output.shape)}; {near}"
        )
    return operation, layout


def _named(trace: Trace, name: str) -> Operation:
    exact = {operation.name: operation for operation in trace.operations}
    inside = [
        operation
        for operation in trace.operations
        if operation.module and f"{operation.module}.".startswith(f"{name}.")
    ]
    if name in exact and ("#" in name or not inside):
        return exact[name]
    if inside:
        return inside[-1]
    if name.endswith("#1") and name[:-2] in exact:
        return exact[name[:-2]]
    modules = {operation.module for operation in trace.operations if operation.module}
    near = nearest_names(name, modules | set(exact))
    raise ValueError(f"expected the name of a module or of an operation, got {name!r}; {near}")
