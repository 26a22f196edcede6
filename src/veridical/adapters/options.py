"""Options for other packages: which function takes which, and as values that can be compared and printed."""

import hashlib
import importlib
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

Options = tuple[tuple[str, Any], ...]
"""Names and frozen values, sorted by name."""


class Accepted(NamedTuple):
    """The names of the parameters of a function, and whether it takes any other."""

    names: frozenset[str]
    anything: bool

    def chosen(self, options: Mapping[str, Any], others: Collection[str] = ()) -> dict[str, Any]:
        """The options that the function takes by name, and those that nobody names if it takes anything."""
        loose = {name for name in options if name not in others} if self.anything else set()
        return {name: value for name, value in options.items() if name in self.names | loose}


def accepted(function: Callable[..., Any], reserved: Collection[str] = (), skip: int = 0) -> Accepted:
    """What a function takes by keyword.

    Args:
        function: a function, bound method or class.
        reserved: names that are not for options.
        skip: so many leading parameters are not for options either.
    """
    parameters = list(inspect.signature(function).parameters.values())[skip:]
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = {one.name for one in parameters if one.kind in kinds} - set(reserved)
    return Accepted(frozenset(names), any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters))


def check_known(owner: str, options: Iterable[str], takers: Iterable[Accepted]) -> None:
    """Check that somebody takes every option.

    Raises:
        TypeError: if nobody takes one; the message lists those that there are.
    """
    found = list(takers)
    known = frozenset[str]().union(*(taker.names for taker in found))
    unknown = sorted(set(options) - known)
    if unknown and not any(taker.anything for taker in found):
        listed = ", ".join(sorted(known)) or "none"
        raise TypeError(f"expected options of {owner}, got {', '.join(unknown)}; known: {listed}")


@dataclass(frozen=True, repr=False)
class _Constant:
    """A tensor as a value: equal to another one with the same content."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    digest: str
    tensor: Tensor = field(compare=False)

    def __repr__(self) -> str:
        return f"tensor(shape={self.shape}, dtype={self.dtype}, sha256={self.digest[:12]})"


@dataclass(frozen=True, repr=False)
class _Listed:
    """A list as a value."""

    items: tuple[Any, ...]

    def __repr__(self) -> str:
        return f"[{', '.join(map(shown, self.items))}]"


def freeze(options: Mapping[str, Any]) -> Options:
    """Options as a value: tensors by their content, lists by their items.

    Raises:
        TypeError: if a value cannot be hashed.
    """
    return tuple((name, _frozen(name, options[name])) for name in sorted(options))


def _frozen(name: str, value: Any) -> Any:
    if isinstance(value, Tensor):
        kept = value.detach().clone()
        content = kept.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        digest = hashlib.sha256(content).hexdigest()
        return _Constant(tuple(kept.shape), kept.dtype, digest, kept)
    if isinstance(value, list):
        return _Listed(tuple(_frozen(name, item) for item in value))
    if type(value) is tuple:
        return tuple(_frozen(name, item) for item in value)
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"expected a value that can be hashed for {name}, got {type(value).__name__}; give numbers, "
            "text, tuples, lists, tensors or functions"
        ) from None
    return value


def thaw(options: Options) -> dict[str, Any]:
    """The options as they were given."""
    return {name: _thawed(value) for name, value in options}


def _thawed(value: Any) -> Any:
    if isinstance(value, _Constant):
        return value.tensor.clone()
    if isinstance(value, _Listed):
        return [_thawed(item) for item in value.items]
    return tuple(_thawed(item) for item in value) if type(value) is tuple else value


def shown(value: Any) -> str:
    """A value as text that is the same in every process: without addresses."""
    if type(value) is tuple:
        inner = ", ".join(map(shown, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    named = isinstance(value, type) or callable(value)
    name = getattr(value, "__qualname__", None) if named else None
    text = str(name) if name else repr(value)
    return re.sub(r" object at 0x[0-9a-f]+", "", text)


def plain_name(value: Any) -> str:
    """The name of a class, function or object in letters that the name of a method may have."""
    name = getattr(value, "__qualname__", None) or type(value).__qualname__
    return re.sub(r"[^A-Za-z0-9._]", "", str(name).rsplit("<locals>.", 1)[-1]) or type(value).__name__


def find_package(name: str, module: str, install: str) -> Any:
    """Import a module of an optional package.

    Args:
        name: of the package, for the message.
        module: to import.
        install: what to install.

    Raises:
        ImportError: if it cannot be imported; the message says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"expected {name} to be installed, got {error}; install it with pip install --no-deps {install}"
        ) from error
    except (RuntimeError, OSError, AttributeError) as error:
        raise ImportError(
            f"expected {name} and what it imports to fit the installed torch, got {type(error).__name__}: "
            f"{error}; install torch and torchvision from the same index"
        ) from error
