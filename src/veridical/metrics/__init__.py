"""How alike two maps are, and how sure one can be of a summary.

Pure functions: two batches of maps in, one value per sample out; no model, no randomness but in the
bootstrap, which has its own generator. More is better for `ssim`, `pearson`, `spearman`, `cosine`,
`hog_similarity` and `map_similarity`; less is better for `mse` and `map_error`. NaN means "not measured".
"""

from veridical.metrics.boxes import Box, box, share_interval
from veridical.metrics.correlation import cosine, mse, pearson, spearman
from veridical.metrics.intervals import Interval, bootstrap_interval
from veridical.metrics.measures import MEASURES, check_measures, compare_maps
from veridical.metrics.orientations import HOGS, HogProtocol, hog_similarity
from veridical.metrics.protocols import (
    PROTOCOLS,
    MapSimilarity,
    SimilarityProtocol,
    map_error,
    map_similarity,
    protocol,
)
from veridical.metrics.structural import ssim

__all__ = [
    "HOGS",
    "MEASURES",
    "PROTOCOLS",
    "Box",
    "HogProtocol",
    "Interval",
    "MapSimilarity",
    "SimilarityProtocol",
    "bootstrap_interval",
    "box",
    "check_measures",
    "compare_maps",
    "cosine",
    "hog_similarity",
    "map_error",
    "map_similarity",
    "mse",
    "pearson",
    "protocol",
    "share_interval",
    "spearman",
    "ssim",
]
