"""Does a map lie in the tangent space of the data? See Bordt et al. 2023."""

from veridical.manifold.alignment import (
    TangentSplit,
    fraction_by_k,
    pixel_scores,
    tangent_fraction,
    tangent_split,
)
from veridical.manifold.baseline import RandomFraction, random_p_values
from veridical.manifold.decoding import Decoder
from veridical.manifold.measure import Alignment, AlignmentSettings, AlignmentSummary, measure_alignment
from veridical.manifold.networks import TCVAE, Resized, TCVAEDecoder, TCVAEEncoder, load_tcvae
from veridical.manifold.recipe import AlignmentRecipe, ImageSet, Reported, load_recipe
from veridical.manifold.storage import (
    StoredTangents,
    open_tangents,
    principal_angles,
    store_tangents,
)
from veridical.manifold.tangent import (
    TangentSettings,
    TangentSpaces,
    orthonormal_rows,
    tangent_chunks,
    tangent_space,
    tangent_spaces,
)

__all__ = [
    "TCVAE",
    "Alignment",
    "AlignmentRecipe",
    "AlignmentSettings",
    "AlignmentSummary",
    "Decoder",
    "ImageSet",
    "RandomFraction",
    "Reported",
    "Resized",
    "StoredTangents",
    "TCVAEDecoder",
    "TCVAEEncoder",
    "TangentSettings",
    "TangentSpaces",
    "TangentSplit",
    "fraction_by_k",
    "load_recipe",
    "load_tcvae",
    "measure_alignment",
    "open_tangents",
    "orthonormal_rows",
    "pixel_scores",
    "principal_angles",
    "random_p_values",
    "store_tangents",
    "tangent_chunks",
    "tangent_fraction",
    "tangent_space",
    "tangent_spaces",
    "tangent_split",
]
