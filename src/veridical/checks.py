"""Every precondition that the package checks at its doors, in one place and with one form of message."""

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor, nn

from veridical.names import nearest_names as nearest_names
from veridical.values import Explainer, Target, explainer_name, is_differentiable


def check_inputs(inputs: Tensor) -> None:
    """Check that `inputs` is a non-empty, finite floating point batch (N, C, H, W).

    Raises:
        TypeError: if it is no tensor or not floating point.
        ValueError: if it has another shape, is empty, or holds NaN or infinity.
    """
    if not isinstance(inputs, Tensor):
        raise TypeError(f"expected inputs as a torch tensor (N, C, H, W), got {type(inputs).__name__}")
    if not inputs.is_floating_point():
        raise TypeError(f"expected floating point inputs, got {inputs.dtype}; convert with inputs.float()")
    if inputs.dim() != 4:
        raise ValueError(
            f"expected inputs of shape (N, C, H, W), got {tuple(inputs.shape)}; "
            "add the batch dimension of a single image with inputs[None]"
        )
    if inputs.numel() == 0:
        raise ValueError(f"expected at least one image and one pixel, got shape {tuple(inputs.shape)}")
    finite = torch.isfinite(inputs.detach()).flatten(1).all(dim=1)
    if not bool(finite.all()):
        bad = (~finite).nonzero().flatten().tolist()
        raise ValueError(
            f"expected finite inputs, got NaN or infinity in image(s) {bad[:10]}; look at their preprocessing"
        )


def check_gradients(inputs: Tensor) -> None:
    """Check that gradients with respect to `inputs` can be taken.

    Raises:
        ValueError: if they cannot, under `torch.inference_mode()`.
    """
    if torch.is_inference_mode_enabled() or inputs.is_inference():
        raise ValueError(
            "expected images whose gradient can be taken, got a call, or images made, under "
            "torch.inference_mode(); use torch.no_grad() there, or clone the images outside of it"
        )


def check_logits(output: object, batch: int) -> Tensor:
    """The logits in a model's output, checked to be a floating point tensor (N, K) with N = `batch`.

    Args:
        output: the logits themselves, or what holds them, see `find_logits`.
        batch: N.

    Raises:
        TypeError: if they are no tensor.
        ValueError: if they have another shape or hold NaN or infinity.
    """
    logits = find_logits(output)
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"expected the model to return logits as a tensor (N, K), got {type(logits).__name__}; "
            "wrap the model in a module that returns the logits, or name them `logits`"
        )
    if logits.dim() != 2 or logits.shape[0] != batch:
        raise ValueError(
            f"expected logits of shape ({batch}, K), got {tuple(logits.shape)}; "
            "wrap the model in a module that returns one row of class scores for each image"
        )
    if not bool(torch.isfinite(logits.detach()).all()):
        raise ValueError("expected finite logits, got NaN or infinity; look at the weights and at the inputs")
    return logits


def find_logits(output: object) -> object:
    """What in a model's output the logits are.

    The output itself where it is a tensor; its attribute or key `logits`; the first row or table of floating
    point numbers of a tuple or list; the only one of a dictionary or dataclass. Otherwise the output.
    """
    if isinstance(output, Tensor):
        return output
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if found is not None:
        return found
    several = isinstance(output, list | tuple)
    parts: list[object] = list(output) if isinstance(output, list | tuple) else []
    if isinstance(output, Mapping):
        parts = list(output.values())
    elif is_dataclass(output) and not isinstance(output, type) and not several:
        parts = [getattr(output, field.name) for field in fields(output)]
    numbers = [one for one in parts if isinstance(one, Tensor) and one.is_floating_point()]
    tables = [one for one in numbers if one.dim() in (1, 2)]
    return tables[0] if len(tables) == 1 or (tables and several) else output


def resolve_target(logits: Tensor, target: Target) -> Tensor:
    """The explained class of every image as LongTensor (N,); the predicted class where `target` is None.

    Raises:
        TypeError: if the target is of another type.
        ValueError: if it has another shape or a class that does not exist.
    """
    count, classes = logits.shape
    if target is None:
        return logits.detach().argmax(dim=1)
    if isinstance(target, Tensor):
        if target.is_floating_point() or target.dtype == torch.bool:
            raise TypeError(f"expected integer targets, got {target.dtype}; convert with target.long()")
        if target.shape != (count,):
            raise ValueError(f"expected targets of shape ({count},), got {tuple(target.shape)}")
        resolved = target.detach().to(device=logits.device, dtype=torch.long)
    elif isinstance(target, int) and not isinstance(target, bool):
        resolved = torch.full((count,), target, dtype=torch.long, device=logits.device)
    else:
        raise TypeError(f"expected target as int, LongTensor (N,) or None, got {type(target).__name__}")
    outside = (resolved < 0) | (resolved >= classes)
    if bool(outside.any()):
        value = int(resolved[outside][0])
        raise ValueError(
            f"expected a target in 0..{classes - 1}, got {value}; the model has {classes} classes"
        )
    return resolved


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Run a model in evaluation mode; every submodule's own mode is put back afterwards, with a warning."""
    training = [module for module in model.modules() if module.training]
    if training:
        warnings.warn(
            "the model is in training mode; it is explained in evaluation mode and put back afterwards. "
            "Call model.eval() to say that you mean it.",
            stacklevel=3,
        )
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def check_deterministic(model: nn.Module, inputs: Tensor) -> None:
    """Check that the model gives the same logits twice for the same inputs, and leaves the inputs alone.

    Raises:
        ValueError: if the two outputs differ, or the model edits its input in place.
    """
    given = inputs.detach().clone()
    with torch.no_grad(), evaluation_mode(model), torch.random.fork_rng():
        first = check_logits(model(given), len(inputs))
        if not torch.equal(given, inputs):
            raise ValueError(edits_input(type(model).__name__))
        second = check_logits(model(given), len(inputs))
    if not torch.equal(first, second):
        difference = (first - second).abs().max().item()
        raise ValueError(
            f"expected a deterministic model, got logits that differ by {difference:.3g} between two runs on "
            "the same inputs; switch off dropout, noise or sampling in evaluation mode"
        )


def check_relevance(relevance: object, inputs: Tensor, name: str, *, finite: bool = True) -> Tensor:
    """Check that what a method returned is relevance for `inputs`, and return it.

    Args:
        relevance: what came.
        inputs: (N, C, H, W).
        name: of the method, for the message.
        finite: whether NaN and infinity are refused too.

    Raises:
        TypeError: if it is no floating point tensor.
        ValueError: if it has another shape, or holds NaN or infinity.
    """
    if not isinstance(relevance, Tensor):
        raise TypeError(
            f"expected relevance as a torch tensor from {name}, got {type(relevance).__name__}; "
            "return one value for each input value"
        )
    if not relevance.is_floating_point():
        raise TypeError(f"expected floating point relevance from {name}, got {relevance.dtype}")
    if relevance.shape != inputs.shape:
        raise ValueError(
            f"expected relevance of shape {tuple(inputs.shape)} from {name}, got {tuple(relevance.shape)}; "
            "return the shape of the inputs, one value for each input value"
        )
    if finite and not bool((good := torch.isfinite(relevance.detach()).flatten(1).all(dim=1)).all()):
        bad = (~good).nonzero().flatten().tolist()
        raise ValueError(
            f"expected finite relevance from {name}, got NaN or infinity in image(s) {bad[:10]} of the "
            "batch; look for a division by zero or an overflow in it"
        )
    return relevance


def check_method(method: object, name: str = "") -> None:
    """Check that something can be an explanation method: a callable that is no class.

    Args:
        method: what was given.
        name: under which, for the message.

    Raises:
        TypeError: if it is none; the message says how to make one.
    """
    where = f" for {name!r}" if name else ""
    if isinstance(method, type):
        raise TypeError(
            f"expected an explanation method, got the class {method.__name__}{where}; make one of it: "
            "veridical.from_captum(...) for Captum's, veridical.from_zennit(...) for Zennit's"
        )
    if not callable(method):
        raise TypeError(
            f"expected an explanation method that can be called, got {method!r}{where}; "
            "make a built-in one with veridical.method(name)"
        )


def check_differentiable(explainer: Explainer) -> None:
    """Check that a method does not say of itself that its relevance carries no derivative.

    Raises:
        ValueError: if it does.
    """
    if not is_differentiable(explainer):
        name = explainer_name(explainer)
        raise ValueError(
            f"expected a differentiable method, got {name}; {NO_DERIVATIVE}, or let calls alone estimate the "
            'gradient: gradient="estimated", on the command line --gradient estimated'
        )


NO_DERIVATIVE = (
    "the relevance that it returns carries no derivative with respect to the image, which the optimization "
    "follows: take a built-in method of the same definition"
)


def edits_input(what: str) -> str:
    """The message for a model that changes its own input."""
    return (
        f"expected a model that leaves its input alone, got {what} in place on the input; "
        "use the out-of-place form or clone the input first"
    )


def check_choice(name: str, value: object, known: Collection[str]) -> None:
    """Check that an option has one of its known values.

    Raises:
        ValueError: if it has not; the message lists them.
    """
    if value not in known:
        raise ValueError(f"expected {name} to be one of {', '.join(known)}, got {value!r}")


def check_count(name: str, value: object, least: int) -> None:
    """Check a whole number.

    Raises:
        TypeError: if it is none.
        ValueError: if it is below `least`.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"expected {name} as a whole number, got {value!r}; write it without a point")
    if value < least:
        raise ValueError(f"expected {name} of at least {least}, got {value}; raise it")
