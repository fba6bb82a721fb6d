"""The compositions: each names its parts in a recipe and knows no device, loop or logger."""

from openjepa.config.schema import Recipe
from openjepa.errors import ConfigError
from openjepa.methods.base import Method, Panel
from openjepa.methods.joint_embedding import JointEmbedding
from openjepa.methods.masked_latent import MaskedLatent
from openjepa.methods.masked_pixel import MaskedPixel

__all__ = ["JointEmbedding", "MaskedLatent", "MaskedPixel", "Method", "Panel", "build_method"]


def build_method(recipe: Recipe) -> Method:
    """The method a recipe describes, with freshly drawn weights (from torch's global generator: seed it first).

    Raises:
        ConfigError: a method that is not trained here.
    """
    if recipe.data.points is not None:
        raise ConfigError("recipes of point clouds describe published weights and are not trained here")
    match recipe.method:
        case "masked_latent":
            return MaskedLatent(recipe)
        case "joint_embedding":
            return JointEmbedding(recipe)
        case "masked_pixel":
            return MaskedPixel(recipe)
        case "world_model":
            raise ConfigError(
                "method world_model is that of published weights and is not trained here: openjepa.methods.world_model predicts "
                "with them"
            )
