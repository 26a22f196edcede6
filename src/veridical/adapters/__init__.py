"""Methods of other packages as methods of this one, and the other way round."""

from veridical.adapters.captum import CaptumMethod, from_captum
from veridical.adapters.quantus import Channels, QuantusFunction, as_quantus
from veridical.adapters.zennit import ZennitMethod, from_zennit

__all__ = [
    "CaptumMethod",
    "Channels",
    "QuantusFunction",
    "ZennitMethod",
    "as_quantus",
    "from_captum",
    "from_zennit",
]
