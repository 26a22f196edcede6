"""Photographs: read with suspicion, hashed, never dropped silently."""

from veridical.data._arrays import Part
from veridical.data.folder import load_folder
from veridical.data.images import Images, load_image
from veridical.data.labeled import LabeledImages, load_labeled, parts_of
from veridical.data.maps import load_map
from veridical.data.samples import sample_photographs

__all__ = [
    "Images",
    "LabeledImages",
    "Part",
    "load_folder",
    "load_image",
    "load_labeled",
    "load_map",
    "parts_of",
    "sample_photographs",
]
