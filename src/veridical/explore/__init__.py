"""The live view: a local page on which maps are looked at, smoothed and manipulated."""

from veridical.explore.live import Live, Subject
from veridical.explore.seen import MOST_IMAGES, Explored, left_out
from veridical.explore.server import ExploreServer
from veridical.explore.stored import StoredRun

__all__ = ["MOST_IMAGES", "ExploreServer", "Explored", "Live", "StoredRun", "Subject", "left_out"]
