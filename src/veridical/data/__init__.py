"""Photographs: read with suspicion, hashed, never dropped silently."""

from veridical.data.folder import load_folder
from veridical.data.images import Images, load_image
from veridical.data.samples import sample_photographs

__all__ = ["Images", "load_folder", "load_image", "sample_photographs"]
