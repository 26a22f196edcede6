"""Record the operations that a forward pass of an unmodified module performs.

A `TorchFunctionMode` sees every operation with its arguments; the model runs its own code on its own
weights and real autograd runs beneath. In-place operations are replaced by their out-of-place form, and
later uses of the changed tensor are redirected to the result, so that every recorded value stays as it was.
"""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from veridical.checks import (
    check_gradients,
    check_inputs,
    check_logits,
    edits_input,
    evaluation_mode,
    find_logits,
)
from veridical.rules.decompose import decomposed
from veridical.rules.operations import GATES, OVERWRITING, RECOMPUTED, Operation, kind_of, rebuilt, swapped


@dataclass(eq=False)
class Trace:
    """A recorded forward pass.

    Attributes:
        model: the module that was recorded.
        inputs: the image batch (N, C, H, W) that the operations depend on.
        logits: the model's output (N, K).
        operations: in the order of execution, those that depend on the image.
        differentiable: whether what is computed from the trace is differentiable in `inputs`.
        lean: whether it serves once: a propagation takes the operations away, to free their memory.
        apart: whether starting vectors go down one by one, so that what one gives does not depend, to the
            last bit, on the others.
    """

    model: nn.Module
    inputs: Tensor
    logits: Tensor
    operations: list[Operation]
    differentiable: bool
    lean: bool = False
    apart: bool = False

    @property
    def names(self) -> list[str]:
        """The operations' names in the order of execution."""
        return [operation.name for operation in self.operations]

    def operation(self, name: str) -> Operation:
        """The operation of that name.

        Raises:
            ValueError: if there is none; the message lists the names.
        """
        for operation in self.operations:
            if operation.name == name:
                return operation
        raise ValueError(f"expected the name of an operation, got {name!r}; known: {', '.join(self.names)}")


def record(model: nn.Module, inputs: Tensor, *, lean: bool = False) -> Trace:
    """Run the model once, in evaluation mode, and record its operations.

    Args:
        model: any module that maps images to logits (N, K); it is left exactly as it was.
        inputs: float (N, C, H, W). Where `inputs.requires_grad`, whatever is computed from the trace is
            differentiable with respect to `inputs`.
        lean: for one propagation by rules that are `lean`, in about the memory of a plain backward pass: what
            the model overwrites in place is not kept. Without effect where `inputs.requires_grad`.

    Raises:
        TypeError: if inputs or logits are of the wrong type.
        ValueError: if inputs or logits have a wrong shape or value, if the model edits its input in place,
            edits a tensor in place that it uses in its old form, or hides its operations.
    """
    check_inputs(inputs)
    check_gradients(inputs)
    differentiable = inputs.requires_grad
    image = inputs if differentiable else inputs.detach().requires_grad_()
    lean = lean and not differentiable
    recorder = _Recorder(model, image, lean)
    with torch.enable_grad(), evaluation_mode(model):
        with recorder:
            output = model(image)
        output = recorder.resolve(find_logits(output))
        recorder.hand_back()
    logits = check_logits(output, len(inputs))
    if id(logits) not in recorder.active:
        raise ValueError(
            "expected logits that follow from the image by visible, differentiable operations, got none; "
            "explain the eager module (not a compiled or scripted one) and call it without torch.no_grad()"
        )
    return Trace(model, image, logits, recorder.operations, differentiable, lean)


class _Recorder(TorchFunctionMode):
    """Notes every operation on a tensor that depends on the image."""

    def __init__(self, model: nn.Module, image: Tensor, lean: bool) -> None:
        super().__init__()
        self._lean = lean
        self._makers: dict[int, Operation] = {}
        self._consumers: dict[int, int] = {}
        self.operations: list[Operation] = []
        self.active: dict[int, Tensor] = {id(image): image}  # also keeps tensors alive: ids stay unique
        self._on_image = {id(image)}
        self._gates: set[int] = set()
        self._image = image
        self._names = {id(module): name for name, module in model.named_modules()}
        self._parents = {id(module) for module in model.modules() if next(module.children(), None)}
        self._uses: dict[str, int] = {}
        self._replaced: dict[int, tuple[Tensor, Tensor]] = {}
        self._stale: set[int] = set()
        self._lost: set[int] = set()
        self._constants: dict[int, Tensor] = {}  # kept alive, as `active` is

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self._replaced:
            args, kwargs = self.resolve(args), self.resolve(kwargs)
        sources = self._sources((args, kwargs))
        base = _base_name(func)
        if not sources:
            return func(*args, **kwargs)
        parts = decomposed(func, base, args, kwargs, lambda item: id(item) in self.active)
        if parts is not None:
            with self:  # the mode is off in here; its parts are noted one by one
                return parts()
        inplace = _inplace_form(func, base, args, kwargs)
        if inplace is None:
            return self._note(func, base, args, kwargs, sources)
        function, base, args, kwargs, overwrite = inplace
        changed = args[0] if args else kwargs["input"]
        if changed is self._image:
            raise ValueError(edits_input(f"{base}, called from {self._caller()[0] or 'the model itself'},"))
        if self._lean and self._dispensable(changed, base):
            result = self._note(function, base, args, kwargs, sources, overwrite)
            self._lost.update(id(tensor) for tensor in (changed, self.operations[-1].inputs[0]))
            self._replaced[id(changed)] = (changed, result)
            return result
        result = self._note(function, base, args, kwargs, sources)
        if result is changed:  # dropout in evaluation mode returns its input
            return result
        self._replaced[id(changed)] = (changed, result)
        if _place(changed) != _place(result):  # else unsqueeze_ and its like: another shape, the same numbers
            self._stale.add(_place(changed))
        return result

    def hand_back(self) -> None:
        """Let the tensors that the model overwrote show their last value: the user's hooks may hold them."""
        for changed, _ in self._replaced.values():
            if id(changed) in self._lost:
                changed.data = self._latest(changed).detach().reshape(changed.shape).to(changed.dtype)

    def _latest(self, tensor: Tensor) -> Tensor:
        while id(tensor) in self._replaced:
            tensor = self._replaced[id(tensor)][1]
        return tensor

    def _dispensable(self, changed: Tensor, base: str) -> bool:
        """Whether a value about to be overwritten is read by nothing else and can be computed again."""
        maker = self._makers.get(id(changed))
        if maker is None or maker.kind not in RECOMPUTED or base not in OVERWRITING:
            return False
        return self._consumers.get(id(changed), 0) == 0

    def resolve(self, value: Any) -> Any:
        """Replace tensors that were changed in place by their new value, at any depth."""
        if isinstance(value, Tensor):
            value = self._latest(value)
            if self._stale and _place(value) in self._stale:
                raise ValueError(
                    "expected a tensor to be used in one form only, got one that shares memory with another "
                    f"changed in place, used in {self._caller()[0] or 'the model itself'}; "
                    "use the out-of-place form"
                )
            return value
        if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
            return rebuilt(value, [self.resolve(part) for part in value])
        if isinstance(value, dict):
            return {key: self.resolve(part) for key, part in value.items()}
        return value

    def _sources(self, item: Any) -> list[Tensor]:
        """The tensors among arguments, at any depth, that depend on the image."""
        if isinstance(item, Tensor):
            if id(item) in self.active:
                return [item]
            if item.grad_fn is not None and id(item) not in self._constants:
                self._check_constant(item)
            return []
        if isinstance(item, dict):
            item = item.values()
        elif not isinstance(item, list | tuple):
            return []
        return [tensor for part in item for tensor in self._sources(part)]

    def _check_constant(self, tensor: Tensor) -> None:
        """Check that a tensor that no recorded operation computed does not depend on the image after all."""
        seen: set[Any] = set()
        nodes: list[Any] = [tensor.grad_fn]
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if node is self._image.grad_fn or getattr(node, "variable", None) is self._image:
                raise ValueError(
                    f"expected operations that are visible, got a result of {type(tensor.grad_fn).__name__} "
                    f"in {self._caller()[0] or 'the model itself'} that depends on the image; explain the "
                    "eager module, without scripted parts, autograd functions of its own or reentrant "
                    "checkpoints"
                )
            nodes.extend(following for following, _ in node.next_functions)
        self._constants[id(tensor)] = tensor

    def _note(  # noqa: PLR0913 - a call, its name and how to run it
        self,
        func: Callable[..., Any],
        base: str,
        args: Any,
        kwargs: dict[str, Any],
        found: list[Tensor],
        run: Callable[..., Any] | None = None,
    ) -> Any:
        """Run the call, or `run` which does the same in place, and note it."""
        sources = tuple({id(tensor): tensor for tensor in found}.values())
        inputs = sources
        if len(sources) > 1:
            # Aliases: one input may be computed from another; a local derivative must not follow that.
            aliases = {id(tensor): tensor.view_as(tensor) for tensor in sources}
            args, kwargs = swapped(args, aliases), swapped(kwargs, aliases)
            inputs = tuple(aliases.values())
        result = (run or func)(*args, **kwargs)
        outputs = [
            t for t in (result if isinstance(result, list | tuple) else [result]) if isinstance(t, Tensor)
        ]
        self._count_views(sources, [tensor for tensor in outputs if not tensor.requires_grad])
        outputs = [tensor for tensor in outputs if tensor.requires_grad]
        if not outputs or any(out is tensor for out in outputs for tensor in sources):
            return result
        first = args[0] if args else kwargs.get("input")
        kind = kind_of(base, len(found), first=any(first is tensor for tensor in inputs))
        on_image, gates = self._mark(outputs, base, kind, sources)
        module, leaf = self._caller()
        counts = tuple(sum(item is tensor for item in found) for tensor in sources)
        name = self._unique(module if leaf and module else f"{module}:{base}")
        makers = tuple(self._makers.get(id(tensor)) for tensor in sources)
        operation = Operation(
            name, kind, module, base, func, args, kwargs, sources, inputs, counts, tuple(outputs), on_image,
            gates, makers, self._lost,
        )  # fmt: skip
        self.operations.append(operation)
        self._makers.update((id(tensor), operation) for tensor in outputs)
        return result

    def _count_views(self, sources: tuple[Tensor, ...], results: list[Tensor]) -> None:
        """Note that results without a gradient, such as `detach()`, still read the memory of the sources."""
        places = {_place(tensor) for tensor in results}
        for tensor in sources:
            if _place(tensor) in places:
                self._consumers[id(tensor)] = self._consumers.get(id(tensor), 0) + 1

    def _mark(
        self, outputs: list[Tensor], base: str, kind: str, sources: tuple[Tensor, ...]
    ) -> tuple[bool, tuple[bool, ...]]:
        """Note the outputs, and what they are: still the image in another shape, or a gate."""
        on_image = all(id(tensor) in self._on_image for tensor in sources)
        gates = tuple(id(tensor) in self._gates for tensor in sources)
        for tensor in sources:
            self._consumers[id(tensor)] = self._consumers.get(id(tensor), 0) + 1
        for tensor in outputs:
            self.active[id(tensor)] = tensor
            if on_image and kind in ("structure", "shift", "scale"):
                self._on_image.add(id(tensor))
            if base in GATES or (kind in ("structure", "scale") and all(gates)):
                self._gates.add(id(tensor))
        return on_image, gates

    def _unique(self, name: str) -> str:
        self._uses[name] = self._uses.get(name, 0) + 1
        return name if self._uses[name] == 1 else f"{name}#{self._uses[name]}"

    def _caller(self) -> tuple[str, bool]:
        """The nearest module of the model on the call stack, and whether it is a leaf."""
        frame = sys._getframe(2)
        while frame is not None:
            owner = frame.f_locals.get("self") if "self" in frame.f_code.co_varnames else None
            if owner is not None and id(owner) in self._names:
                return self._names[id(owner)], id(owner) not in self._parents
            frame = frame.f_back  # type: ignore[assignment]
        return "", False


def _place(tensor: Tensor) -> int:
    """Where a tensor's memory begins; the same for all views of it."""
    return tensor.untyped_storage().data_ptr()


@cache
def _base_name(func: Callable[..., Any]) -> str:
    """The function's plain name: "add" for `torch.Tensor.add_`, "T" for the property `torch.Tensor.T`."""
    parts = (resolve_name(func) or getattr(func, "__name__", "unknown")).split(".")
    return str(parts[-2] if parts[-1] == "__get__" else parts[-1])


@cache
def _signature(func: Callable[..., Any]) -> inspect.Signature | None:
    try:
        signature = inspect.signature(func)
    except (TypeError, ValueError):
        return None
    return signature if "inplace" in signature.parameters else None


def _inplace_form(
    func: Callable[..., Any], base: str, args: Any, kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], str, Any, dict[str, Any], Callable[..., Any]] | None:
    """What replaces a call that edits its first argument; None where it does not.

    Returns:
        The out-of-place function, its name and arguments, and a function of the same arguments that
        overwrites the memory of the first.
    """
    signature = _signature(func)
    if signature is not None:
        bound = signature.bind(*args, **kwargs)
        if not bound.arguments.get("inplace", False):
            return None
        values = dict(bound.arguments) | {"inplace": False}
        first = next(iter(signature.parameters))

        def overwrite(item: Tensor, **options: Any) -> Any:
            return func(_same_memory(item), **(options | {"inplace": True}))

        return func, base, (values.pop(first),), values, overwrite
    if base == "requires_grad_":
        return None
    if base == "__setitem__" or kwargs.get("out") is not None:
        raise ValueError(
            f"expected operations that return their result, got {base} that writes into a tensor; "
            "build the tensor with torch.cat or torch.stack instead"
        )
    dunder = base.startswith("__i") and base.endswith("__") and base not in ("__init__", "__invert__")
    if not dunder and (not base.endswith("_") or base.endswith("__")):
        return None
    plain = f"__{base[3:]}" if dunder else base[:-1]
    function = getattr(torch.Tensor, plain, None) or getattr(torch.nn.functional, plain, None)
    if function is None:
        raise ValueError(
            f"expected an operation with an out-of-place form, got {base}; use one that returns its result"
        )

    def overwritten(item: Tensor, *others: Any, **options: Any) -> Any:
        return func(_same_memory(item), *others, **options)

    return function, plain.strip("_") if dunder else plain, args, kwargs, overwritten


def _same_memory(tensor: Tensor) -> Tensor:
    """A tensor with the same memory that follows from `tensor` in the graph, but is no view of it."""
    alias: Tensor = torch.ops.aten._unsafe_view(tensor, tensor.shape)
    return alias
