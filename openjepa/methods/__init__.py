"""The compositions: each names its parts in a recipe and knows no device, loop or logger."""

from openjepa.config.schema import Recipe
from openjepa.methods.masked_latent import MaskedLatent, Panel

__all__ = ["MaskedLatent", "Panel", "build_method"]


def build_method(recipe: Recipe) -> MaskedLatent:
    """The method a recipe describes, with freshly drawn weights (from torch's global generator: seed it first)."""
    return MaskedLatent(recipe)
