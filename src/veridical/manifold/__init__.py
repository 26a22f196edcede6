"""Does a map lie in the tangent space of the data? See Bordt et al. 2023."""

from veridical.manifold.alignment import (
    TangentSplit,
    fraction_by_k,
    pixel_scores,
    tangent_fraction,
    tangent_split,
)
from veridical.manifold.attributions import KnownSpaces, TangentPart, TangentScores
from veridical.manifold.baseline import RandomFraction, random_p_values
from veridical.manifold.decoding import Decoder
from veridical.manifold.fitting import FitMoment, fit_manifold
from veridical.manifold.fitting_quality import Quality, measure_quality
from veridical.manifold.fitting_settings import FitRecipe, FitSettings, fit_recipe, fit_recipes
from veridical.manifold.fitting_store import FittedManifold, load_manifold, save_manifold
from veridical.manifold.generative import (
    DataSetRecipe,
    DataSetSettings,
    data_set_recipe,
    data_set_recipes,
    generate_data_set,
    labeller_settings,
    reconstruct_data_set,
    store_data_tangents,
)
from veridical.manifold.generative_labeller import Bordt2023Labeller, reconstructions
from veridical.manifold.generative_store import DataSet, open_data_set
from veridical.manifold.losses import decompose, normal_kl, stratified_weights
from veridical.manifold.measure import Alignment, AlignmentSettings, AlignmentSummary, measure_alignment
from veridical.manifold.models import (
    ConvolutionalAutoencoder,
    ManifoldModel,
    ModelSettings,
    ResidualAutoencoder,
)
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
    "Bordt2023Labeller",
    "ConvolutionalAutoencoder",
    "DataSet",
    "DataSetRecipe",
    "DataSetSettings",
    "Decoder",
    "FitMoment",
    "FitRecipe",
    "FitSettings",
    "FittedManifold",
    "ImageSet",
    "KnownSpaces",
    "ManifoldModel",
    "ModelSettings",
    "Quality",
    "RandomFraction",
    "Reported",
    "ResidualAutoencoder",
    "Resized",
    "StoredTangents",
    "TCVAEDecoder",
    "TCVAEEncoder",
    "TangentPart",
    "TangentScores",
    "TangentSettings",
    "TangentSpaces",
    "TangentSplit",
    "data_set_recipe",
    "data_set_recipes",
    "decompose",
    "fit_manifold",
    "fit_recipe",
    "fit_recipes",
    "fraction_by_k",
    "generate_data_set",
    "labeller_settings",
    "load_manifold",
    "load_recipe",
    "load_tcvae",
    "measure_alignment",
    "measure_quality",
    "normal_kl",
    "open_data_set",
    "open_tangents",
    "orthonormal_rows",
    "pixel_scores",
    "principal_angles",
    "random_p_values",
    "reconstruct_data_set",
    "reconstructions",
    "save_manifold",
    "store_data_tangents",
    "store_tangents",
    "stratified_weights",
    "tangent_chunks",
    "tangent_fraction",
    "tangent_space",
    "tangent_spaces",
    "tangent_split",
]
