"""A folder of photographs: images directly inside, or one folder a class."""

from pathlib import Path

from veridical.data._files import FileReader, by_name, labels_of, not_an_image, visible
from veridical.data.images import MAX_PIXELS, Images
from veridical.data.source import ImageSource


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
    found = flat_folder(root, max_pixels)
    return (found if limit is None else found.first(limit)).photographs()


def flat_folder(root: Path, max_pixels: int = MAX_PIXELS) -> ImageSource:
    """The images directly inside a folder, without labels.

    Raises:
        ValueError: the folder is empty.
    """
    entries = visible(root)
    if not entries:
        raise ValueError(f"expected a folder of images, got {root}, which is empty; put photographs into it")
    names: list[str] = []
    ignored: list[tuple[str, str]] = []
    for name, is_folder in entries:
        reason = "a folder; only files directly inside are read" if is_folder else not_an_image(name)
        if reason:
            ignored.append((name, reason))
        else:
            names.append(name)
    return ImageSource(str(root), tuple(names), FileReader(root, names, max_pixels), ignored=tuple(ignored))


def class_folders(root: Path) -> ImageSource:
    """The images in the folders directly inside a folder, labeled with the names of these."""
    names: list[str] = []
    owners: list[str] = []
    folders: set[str] = set()
    ignored: list[tuple[str, str]] = []
    for above, is_folder in visible(root):
        if not is_folder:
            ignored.append((above, "a file beside the folders of the classes"))
            continue
        for file, deeper in visible(root / above):
            folders.add(above)
            name = f"{above}/{file}"
            reason = "a folder; only files directly inside a class are read" if deeper else not_an_image(file)
            if reason:
                ignored.append((name, reason))
            else:
                names.append(name)
                owners.append(above)
    classes = by_name(folders)
    return ImageSource(
        str(root), tuple(names), FileReader(root, names), labels_of(owners, classes), classes, tuple(ignored)
    )


def holds_images(root: Path) -> bool:
    """Whether an image file is directly inside a folder."""
    return any(not is_folder and not not_an_image(name) for name, is_folder in visible(root))
