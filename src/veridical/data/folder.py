"""A folder of photographs."""

from pathlib import Path

from PIL import Image

from veridical.data.images import MAX_PIXELS, Images, decode, digest, read_file

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SHOWN = 3


def load_folder(folder: str | Path, limit: int | None = None, *, max_pixels: int = MAX_PIXELS) -> Images:
    """Read the images directly inside a folder, in the order of their names.

    What cannot be used is never dropped silently: it comes back in `skipped` with its reason. Hidden files
    are not looked at.

    Args:
        folder: to read; its subfolders are not.
        limit: stop after this many usable images.
        max_pixels: see `load_image`.

    Returns:
        At least one image.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is no folder, it holds no image, none of its images can be used, or limit < 1.
    """
    root = Path(folder)
    if not root.exists():
        raise FileNotFoundError(f"expected a folder of images, got {root}; there is no such folder")
    if not root.is_dir():
        raise ValueError(f"expected a folder of images, got the file {root}; name the folder that holds it")
    if limit is not None and limit < 1:
        raise ValueError(f"expected a limit of at least 1 image, got {limit}; None takes all")
    entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    found, skipped = _read(entries, limit, max_pixels)
    if not found:
        raise ValueError(_nothing_usable(root, entries, skipped))
    names, images, digests = zip(*found, strict=True)
    return Images(names=names, images=images, sha256=digests, skipped=tuple(skipped))


def _read(
    entries: list[Path], limit: int | None, max_pixels: int
) -> tuple[list[tuple[str, Image.Image, str]], list[tuple[str, str]]]:
    found: list[tuple[str, Image.Image, str]] = []
    skipped: list[tuple[str, str]] = []
    for entry in entries:
        if limit is not None and len(found) == limit:
            break
        reason = _not_an_image(entry)
        if reason is not None:
            skipped.append((entry.name, reason))
            continue
        try:
            content = read_file(entry)
            found.append((entry.name, decode(content, entry.name, max_pixels), digest(content)))
        except (ValueError, OSError) as error:
            skipped.append((entry.name, str(error)))
    return found, skipped


def _not_an_image(entry: Path) -> str | None:
    if entry.is_dir():
        return "a folder; only files directly inside are read"
    if entry.suffix.lower() not in SUFFIXES:
        return f"suffix {entry.suffix!r}; expected one of {', '.join(SUFFIXES)}"
    return None


def _nothing_usable(root: Path, entries: list[Path], skipped: list[tuple[str, str]]) -> str:
    if not entries:
        return f"expected a folder of images, got {root}, which is empty; put photographs into it"
    shown = "; ".join(f"{name}: {reason}" for name, reason in skipped[:SHOWN])
    more = f"; and {len(skipped) - SHOWN} more" if len(skipped) > SHOWN else ""
    return f"expected at least one usable image in {root}, got none of {len(entries)} entries ({shown}{more})"
