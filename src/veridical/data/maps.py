"""A map from a file: a picture, or an array."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from veridical.data.images import MAX_PIXELS, decode, read_file

ARRAYS = (".npy", ".safetensors")


def load_map(path: str | Path) -> NDArray[np.float64]:
    """Read a map; what its values mean is for the caller to check.

    `.npy` (pickled objects are refused) and `.safetensors` (with one array) keep their values; every other
    file is decoded as a picture, whose brightness, 0.299 R + 0.587 G + 0.114 B, from 0 to 255 is the map.

    Args:
        path: of the file.

    Returns:
        Float64 (H, W). An array (1, H, W) is one as well.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, holds several arrays, or one of another shape or type.
    """
    file = Path(path)
    content = read_file(file)
    suffix = file.suffix.lower()
    if suffix not in ARRAYS:
        return np.asarray(decode(content, str(path)).convert("L"), dtype=np.float64)
    try:
        values = _numpy(content) if suffix == ".npy" else _one_of(load_safetensors(content))
    except (SafetensorError, ValueError, EOFError, SyntaxError, MemoryError, KeyError, TypeError) as error:
        raise ValueError(f"expected one map in {path}, got none ({error}); save one array (H, W)") from error
    return _checked(values, str(path))


def _numpy(content: bytes) -> NDArray[Any]:
    found: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return found


def _one_of(arrays: dict[str, NDArray[Any]]) -> NDArray[Any]:
    if len(arrays) != 1:
        raise ValueError(f"{len(arrays)} arrays: {', '.join(sorted(arrays)[:10])}")
    return next(iter(arrays.values()))


def _checked(values: NDArray[Any], name: str) -> NDArray[np.float64]:
    shape = values.shape
    if values.ndim == 3 and shape[0] == 1:
        values = values[0]
    if values.ndim != 2 or values.size == 0 or values.size > MAX_PIXELS:
        raise ValueError(
            f"expected a map (H, W) of at most {MAX_PIXELS} pixels in {name}, got shape {shape}; "
            "sum the absolute values of relevance over its channels and save one map"
        )
    if values.dtype.kind not in "buif":
        raise ValueError(f"expected real numbers in {name}, got {values.dtype}; convert the map")
    return values.astype(np.float64)
