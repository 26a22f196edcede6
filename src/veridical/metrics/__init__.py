"""How alike two maps are, and how sure one can be of a summary.

Pure functions: two batches of maps in, one value per sample out; no model, no randomness but in the
bootstrap, which has its own generator. More is better for `ssim`, `pearson`, `spearman`, `cosine` and
`map_similarity`; less is better for `mse`. NaN means "not measured".
"""

from veridical.metrics.boxes import Box, box, share_interval
from veridical.metrics.correlation import cosine, mse, pearson, spearman
from veridical.metrics.intervals import Interval, bootstrap_interval
from veridical.metrics.protocols import (
    PROTOCOLS,
    MapSimilarity,
    SimilarityProtocol,
    map_similarity,
    protocol,
)
from veridical.metrics.structural import ssim

__all__ = [
    "PROTOCOLS",
    "Box",
    "Interval",
    "MapSimilarity",
    "SimilarityProtocol",
    "bootstrap_interval",
    "box",
    "cosine",
    "map_similarity",
    "mse",
    "pearson",
    "protocol",
    "share_interval",
    "spearman",
    "ssim",
]
