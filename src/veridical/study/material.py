"""Arrays of images, maps and tangent spaces, read and paired for the three tasks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

Arrays = dict[str, NDArray[Any]]
NO_MAPS = ("images", "basis", "labels", "predictions")
FRACTION = ".fraction"
CLASS_QUANTILE, PER_CLASS = 0.9, 10


@dataclass(frozen=True, eq=False)
class MapPair:
    """Two maps (C, H, W) of one image, A and B, before they are rendered.

    Attributes:
        image: its index.
        maps: (A, B).
        names: what A and B are.
        fractions: of A and B in the tangent space; NaN where not given.
        shown: the image (C, H, W), or None.
        whole: the map whose parts A and B are, or None.
    """

    image: int
    maps: tuple[NDArray[Any], NDArray[Any]]
    names: tuple[str, str]
    fractions: tuple[float, float]
    shown: NDArray[Any] | None = None
    whole: NDArray[Any] | None = None


def read_source(path: Path) -> Arrays:
    """The arrays of a `.safetensors` file, or of a folder of `.npy` files by their names.

    Maps are finite (N, C, H, W). `images` are (N, 1 or 3, H, W), uint8 or in [0, 1]; `basis` is
    (N, k, C, H, W); `labels`, `predictions` and `NAME.fraction` are (N,).

    Raises:
        ValueError: there is no such source, it cannot be read, or an array has another form.
    """
    try:
        if path.is_dir():
            arrays = {one.stem: np.load(one, allow_pickle=False) for one in sorted(path.glob("*.npy"))}
        else:
            arrays = dict(load_file(path))
    except FileNotFoundError as error:
        raise ValueError(
            f"expected a .safetensors file or a folder, got no {path}; look at the name"
        ) from error
    except (SafetensorError, OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise ValueError(
            f"expected arrays in {path}, got something else ({error}); save a .safetensors file, or .npy "
            "files in a folder"
        ) from error
    names = map_names(arrays)
    if not names:
        raise ValueError(f"expected maps in {path}, got only {sorted(arrays)}; add arrays (N, C, H, W)")
    for name, array in arrays.items():
        _check(f"{path}: {name}", name, array, arrays[names[0]].shape)
    return arrays


def map_names(arrays: Arrays) -> list[str]:
    """The names of the maps, sorted."""
    return sorted(name for name in arrays if name not in NO_MAPS and not name.endswith(FRACTION))


def _check(where: str, name: str, array: NDArray[Any], maps: tuple[int, ...]) -> None:
    wrong = f"expected {{}}, got shape {array.shape} in {where}; all arrays have one row an image"
    if array.dtype.kind not in "buif" or not bool(np.isfinite(array).all()):
        raise ValueError(f"expected finite numbers, got others in {where}; leave such images out")
    if len(maps) != 4 or 0 in maps:
        raise ValueError(wrong.format("maps (N, C, H, W)"))
    if name == "basis":
        fits, form = array.ndim == 5 and (array.shape[0], *array.shape[2:]) == maps, "(N, k, C, H, W)"
    elif name == "images":
        fits = array.ndim == 4 and (array.shape[0], *array.shape[2:]) == (maps[0], *maps[2:])
        fits, form = fits and array.shape[1] in (1, 3), "(N, 1 or 3, H, W)"
    elif name in NO_MAPS or name.endswith(FRACTION):
        fits, form = array.shape == maps[:1], f"({maps[0]},)"
    else:
        fits, form = array.shape == maps, str(maps)
    if not fits:
        raise ValueError(wrong.format(form))
    if name == "images" and array.dtype != np.uint8 and (array.min() < 0 or array.max() > 1):
        raise ValueError(
            f"expected images in [0, 1] or uint8, got others in {where}; undo their normalization"
        )


def parts_pairs(arrays: Arrays, images: int, seed: int) -> list[MapPair]:
    """Task 1: A is the part of a map orthogonal to the tangent space, B the part in it.

    From the arrays `tangent` and `orthogonal`, or from `map` and `basis`. With `labels`, images are chosen as
    in Bordt et al.'s code: of each class, 10 random ones of those whose map has a fraction of at least
    the class's 0.9 quantile (and whose `predictions`, where given, are right). Otherwise the first ones.

    Raises:
        ValueError: arrays are missing, or no image can be chosen.
    """
    if "labels" not in arrays:
        arrays = _first(arrays, images)
    if "tangent" in arrays and "orthogonal" in arrays:
        tangent, orthogonal = (np.asarray(arrays[name], np.float64) for name in ("tangent", "orthogonal"))
    elif "map" in arrays and "basis" in arrays:
        tangent, orthogonal = _split(arrays["map"], arrays["basis"])
    else:
        raise ValueError(
            f"expected `tangent` and `orthogonal`, or `map` and `basis`, got {sorted(arrays)}; name them so"
        )
    whole = tangent + orthogonal
    fractions = _norms(tangent) / np.maximum(_norms(whole), np.finfo(np.float64).tiny)
    chosen = _choose(arrays, fractions, seed) if "labels" in arrays else list(range(len(whole)))
    return [
        MapPair(
            at,
            (orthogonal[at], tangent[at]),
            ("orthogonal part", "tangent part"),
            (0.0, 1.0),
            whole=whole[at],
        )
        for at in chosen[:images]
    ]


def fractions_pairs(arrays: Arrays, images: int) -> list[MapPair]:
    """Task 2: of two maps of one image, A has the lower fraction in the tangent space.

    The maps of an image are put in the order of their fractions (from `basis`, or given as `NAME.fraction`),
    and neighbors are compared. Of three maps, the two lowest are thus in group A and the two highest in B.
    Neighbors of equal fraction are left out.

    Raises:
        ValueError: there are fewer than two maps, no fractions, or no two that differ.
    """
    arrays = _first(arrays, images)
    names = map_names(arrays)
    if len(names) < 2:
        raise ValueError(f"expected two or more maps, got {names}; add the maps of another method")
    fractions = np.stack([_fractions(arrays, name) for name in names])
    if np.isnan(fractions).any():
        raise ValueError(
            f"expected fractions of all maps, got none of some; add `basis` or `{names[0]}{FRACTION}`"
        )
    pairs = []
    for at in range(fractions.shape[1]):
        order = np.argsort(fractions[:, at], kind="stable")
        for low, high in zip(order[:-1], order[1:], strict=True):
            if fractions[low, at] < fractions[high, at]:
                both = (names[low], names[high])
                values = (float(fractions[low, at]), float(fractions[high, at]))
                pairs.append(MapPair(at, (arrays[both[0]][at], arrays[both[1]][at]), both, values))
    if not pairs:
        raise ValueError("expected maps of different fractions, got only equal ones; use other methods")
    return pairs


def object_pairs(arrays: Arrays, images: int, compare: tuple[str, str]) -> list[MapPair]:
    """Task 3: maps of two methods beside their image, A the first and B the second method.

    Raises:
        ValueError: `images` or a map is missing.
    """
    missing = [name for name in (*compare, "images") if name not in arrays]
    if missing:
        raise ValueError(f"expected {missing[0]!r}, got only {sorted(arrays)}; add it or compare other maps")
    arrays = _first(arrays, images)
    first, second = (_fractions(arrays, name) for name in compare)
    return [
        MapPair(
            at,
            (arrays[compare[0]][at], arrays[compare[1]][at]),
            compare,
            (float(first[at]), float(second[at])),
            shown=arrays["images"][at],
        )
        for at in range(len(first))
    ]


def _first(arrays: Arrays, images: int) -> Arrays:
    return {name: array[:images] for name, array in arrays.items()}


def _choose(arrays: Arrays, fractions: NDArray[np.float64], seed: int) -> list[int]:
    labels = arrays["labels"]
    right = labels == arrays["predictions"] if "predictions" in arrays else np.ones(len(labels), bool)
    generator = np.random.default_rng(seed)
    chosen: list[int] = []
    for label in np.unique(labels):
        of_class = np.flatnonzero((labels == label) & right)
        if not of_class.size:
            continue
        threshold = np.quantile(fractions[of_class], CLASS_QUANTILE)
        high = of_class[fractions[of_class] >= threshold]
        chosen += sorted(generator.permutation(high)[:PER_CLASS].tolist())
    if not chosen:
        raise ValueError("expected images whose prediction is the label, got none; look at `predictions`")
    return chosen


def _fractions(arrays: Arrays, name: str) -> NDArray[np.float64]:
    """Fractions (N,) of the maps of a name: given, from the basis, or NaN."""
    if name + FRACTION in arrays:
        given = np.asarray(arrays[name + FRACTION], np.float64)
        if given.min() < 0 or given.max() > 1:
            raise ValueError(f"expected fractions in [0, 1] in {name}{FRACTION}; give ratios of norms")
        return given
    if "basis" not in arrays:
        return np.full(len(arrays[name]), np.nan)
    tangent, orthogonal = _split(arrays[name], arrays["basis"])
    shares: NDArray[np.float64] = _norms(tangent) / np.maximum(
        np.hypot(_norms(tangent), _norms(orthogonal)), np.finfo(np.float64).tiny
    )
    return shares


def _split(maps: NDArray[Any], basis: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tangent and orthogonal parts; the only step that needs torch."""
    import torch

    from veridical.manifold import tangent_split

    split = tangent_split(*(torch.from_numpy(np.asarray(one, np.float64)) for one in (maps, basis)))
    return split.tangent.numpy(), split.orthogonal.numpy()


def _norms(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    norms: NDArray[np.float64] = np.linalg.norm(maps.reshape(len(maps), -1), axis=1)
    return norms
