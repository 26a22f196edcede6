"""Photographs: read with suspicion, hashed, never dropped silently."""

from veridical.data.classes import class_numbers
from veridical.data.folder import load_folder
from veridical.data.images import Images, load_image
from veridical.data.labeled import LabeledImages
from veridical.data.maps import load_map
from veridical.data.opening import FORMS, load_images, load_labeled, open_images, open_labeled, parts_of
from veridical.data.samples import sample_photographs
from veridical.data.source import MAX_BROKEN, ImageSource

__all__ = [
    "FORMS",
    "MAX_BROKEN",
    "ImageSource",
    "Images",
    "LabeledImages",
    "class_numbers",
    "load_folder",
    "load_image",
    "load_images",
    "load_labeled",
    "load_map",
    "open_images",
    "open_labeled",
    "parts_of",
    "sample_photographs",
]
