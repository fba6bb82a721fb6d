"""From a recipe's predictor part to the network that stands between an encoder and its targets."""

from __future__ import annotations

from torch import nn

from openjepa.config.schema import (
    LinearPredictorConfig,
    ModelConfig,
    NarrowPredictorConfig,
    NoPredictorConfig,
    PixelPredictorConfig,
    PredictorConfig,
    ProjectorConfig,
)
from openjepa.models.pixel_decoder import PixelDecoder
from openjepa.models.predictor import NarrowPredictor
from openjepa.models.projector import Projector
from openjepa.models.token_head import TokenHead
from openjepa.models.vit import VisionTransformer


def build_predictor(config: PredictorConfig, encoder: VisionTransformer, model: ModelConfig) -> nn.Module:
    """The predictor a recipe describes, for its ``encoder`` (whose width, heads and grid it takes).

    Raises:
        ConfigError: widths and heads do not fit.
    """
    match config:
        case NarrowPredictorConfig():
            return NarrowPredictor(
                embed_dim=encoder.embed_dim,
                grid=encoder.grid,
                dim=config.dim,
                depth=config.depth,
                heads=config.heads or encoder.heads,
                mlp_ratio=config.mlp_ratio,
                position_order=model.position_order,
                init=model.init,
            )
        case LinearPredictorConfig() | NoPredictorConfig():
            return TokenHead(encoder.embed_dim, linear=config.kind == "linear")
        case ProjectorConfig():
            return Projector(
                embed_dim=encoder.embed_dim,
                hidden=config.hidden,
                dim=config.dim,
                norm=config.norm,
                prediction_hidden=config.prediction_hidden,
            )
        case PixelPredictorConfig():
            return PixelDecoder(
                embed_dim=encoder.embed_dim,
                grid=encoder.grid,
                patch_values=encoder.channels * encoder.patch_size[0] * encoder.patch_size[1],
                dim=config.dim,
                depth=config.depth,
                heads=config.heads or encoder.heads,
                mlp_ratio=config.mlp_ratio,
                position_order=model.position_order,
                init=model.init,
            )
