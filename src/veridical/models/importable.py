"""Networks that a user's own callable builds: `package.module:callable`."""

import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from veridical.models.outputs import OUTPUTS, Output
from veridical.models.preprocessing import Preprocessing, preprocessing_of

SEED = 0
Built = tuple[nn.Module, Preprocessing | None, tuple[str, ...] | None, Output | None]


def build_importable(spec: str) -> Built:
    """Import a module, call the callable with no arguments, check what it returns.

    Reseeds torch's CPU generator before the call; `load_model` puts its state back. The current directory
    can be imported from, as with `python -m`.

    Args:
        spec: "package.module:callable"; the callable may be nested, "package.module:Class.method". It returns
            a module, or (module, Preprocessing), or (module, Preprocessing, labels). A module that exists
            already is taken as it is. A module alone may have attributes `preprocessing`, a mapping with
            fields of `Preprocessing`, and `classes`, its labels. Any module may have an attribute `output`:
            "labels" where each logit stands for a label of its own, with a sigmoid.

    Returns:
        Module, preprocessing or None, labels or None, what the module says of its output or None.

    Raises:
        ValueError: nothing of this name can be imported, or the callable itself fails.
        TypeError: it is not callable or returns something else.
    """
    with _current_directory_importable():
        found = _find(spec)
        if isinstance(found, nn.Module):
            return _unpacked(found, spec)
        if not callable(found):
            raise TypeError(
                f"expected {spec} to be a function that returns a module, got {type(found).__name__}; "
                "name one"
            )
        # The import may have drawn random numbers, and only the first one of a process does.
        torch.default_generator.manual_seed(SEED)
        try:
            result = found()
        except Exception as error:
            raise ValueError(
                f"expected {spec}() to return a torch.nn.Module, got {type(error).__name__}: {error}; "
                "it is called without arguments"
            ) from error
    return _unpacked(result, spec)


def find_importable(spec: str) -> Any:
    """What "package.module:name" stands for; the current directory can be imported from.

    Raises:
        ValueError: nothing of this name can be imported.
    """
    with _current_directory_importable():
        return _find(spec)


def _find(spec: str) -> Any:
    module_name, _, attribute = spec.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(
            f"expected an importable module, got {module_name!r} ({type(error).__name__}: {error}); "
            f"run from the folder that holds it ({Path.cwd()}) or install it"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = (
                [name for name in vars(found) if not name.startswith("_")]
                if hasattr(found, "__dict__")
                else []
            )
            raise ValueError(
                f"expected {attribute!r} in {module_name}, got no such name; it has {', '.join(known[:12])}"
            )
        found = getattr(found, part)
    return found


def _unpacked(result: Any, spec: str) -> Built:
    parts = result if isinstance(result, tuple) else (result,)
    fits = 1 <= len(parts) <= 3 and isinstance(parts[0], nn.Module)
    if not fits or (len(parts) > 1 and not isinstance(parts[1], Preprocessing)):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise TypeError(
            f"expected {spec}() to return a torch.nn.Module, (module, Preprocessing) or "
            f"(module, Preprocessing, labels), got ({kinds}); import Preprocessing from veridical.models"
        )
    if len(parts) == 1:
        return _described(parts[0], spec)
    output = getattr(parts[0], "output", None)
    return parts[0], parts[1], _labels(parts[2]) if len(parts) == 3 else None, _meaning(output, spec)


def _described(module: nn.Module, spec: str) -> Built:
    """The module, with what it says of itself."""
    own, labels = getattr(module, "preprocessing", None), getattr(module, "classes", None)
    found = preprocessing_of(own, f"{spec}().preprocessing") if isinstance(own, Mapping) else None
    output = _meaning(getattr(module, "output", None), spec)
    return module, found, _labels(labels) if isinstance(labels, list | tuple) else None, output


def _meaning(output: object, spec: str) -> Output | None:
    """What a module's attribute `output` says, where it is text: a module of that name is something else."""
    if not isinstance(output, str):
        return None
    if output not in OUTPUTS:
        raise ValueError(
            f"expected {spec}().output to be one of {', '.join(OUTPUTS)}, got {output!r}; mend the attribute"
        )
    return cast(Output, output)


def _labels(labels: Iterable[Any]) -> tuple[str, ...]:
    return tuple(str(label) for label in labels)


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    entry = str(Path.cwd())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)
