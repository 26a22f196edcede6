"""Photographs: read with suspicion, hashed, never dropped silently."""

from veridical.data.folder import load_folder
from veridical.data.images import Images, load_image
from veridical.data.maps import load_map
from veridical.data.samples import sample_photographs

__all__ = ["Images", "load_folder", "load_image", "load_map", "sample_photographs"]
