"""Networks: where they come from, what they take, what identifies them."""

from veridical.models.checkpoints import load_weights, read_state_dict
from veridical.models.importable import find_importable
from veridical.models.load import load_model, model_specs
from veridical.models.loaded import LoadedModel, state_digest
from veridical.models.outputs import Output
from veridical.models.preprocessing import Preprocessing

__all__ = [
    "LoadedModel",
    "Output",
    "Preprocessing",
    "find_importable",
    "load_model",
    "load_weights",
    "model_specs",
    "read_state_dict",
    "state_digest",
]
