"""From a recipe's predictor part to the network that stands between an encoder and its targets."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from openjepa.config.schema import (
    ActionPredictorConfig,
    LinearPredictorConfig,
    ModelConfig,
    NarrowPredictorConfig,
    NoPredictorConfig,
    PixelPredictorConfig,
    PredictorConfig,
    ProjectorConfig,
)
from openjepa.models.action_predictor import ActionCausalPredictor
from openjepa.models.pixel_decoder import PixelDecoder
from openjepa.models.point_predictor import PointPredictor
from openjepa.models.positions import Positions
from openjepa.models.predictor import NarrowPredictor
from openjepa.models.projector import Projector
from openjepa.models.token_head import TokenHead
from openjepa.models.transformer import Init, set_norm_eps
from openjepa.models.vit import VisionTransformer, positions_of


def build_predictor(config: PredictorConfig, encoder: VisionTransformer, model: ModelConfig) -> nn.Module:
    """The predictor a recipe describes, for its ``encoder`` (whose width, heads and grid it takes).

    Raises:
        ConfigError: widths and heads do not fit.
    """
    predictor = _bare_predictor(config, encoder, model)
    set_norm_eps(predictor, model.norm_eps)
    return predictor


def _bare_predictor(config: PredictorConfig, encoder: VisionTransformer, model: ModelConfig) -> nn.Module:
    """The network, with the usual epsilon in its norms."""
    fixed = positions_of(model)
    if fixed.kind == "learned":  # those of a predictor never are
        fixed = replace(fixed, kind="sincos2d")
    values = encoder.channels * encoder.patch_size[0] * encoder.patch_size[1]
    values *= encoder.tubelet_size if encoder.video else 1
    match config:
        case NarrowPredictorConfig() if fixed.kind == "coordinates":
            return PointPredictor(
                embed_dim=encoder.embed_dim,
                dim=config.dim,
                depth=config.depth,
                heads=config.heads or encoder.heads,
                mlp_ratio=config.mlp_ratio,
                init=model.init,
                out_dim=config.out_dim,
            )
        case NarrowPredictorConfig():
            return NarrowPredictor(
                embed_dim=encoder.embed_dim,
                grid=encoder.grid,
                dim=config.dim,
                depth=config.depth,
                heads=config.heads or encoder.heads,
                mlp_ratio=config.mlp_ratio,
                positions=fixed,
                init=model.init,
                mask_tokens=config.mask_tokens,
                zero_tokens=config.mask_token_init == "zero",
                levels=config.levels,
                out_dim=config.out_dim,
                context_head=config.context_head,
                modality_embeddings=model.modality_embeddings,
            )
        case ActionPredictorConfig():
            return _action_predictor(config, encoder, fixed, model.init)
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
                patch_values=values,
                dim=config.dim,
                depth=config.depth,
                heads=config.heads or encoder.heads,
                mlp_ratio=config.mlp_ratio,
                positions=fixed,
                init=model.init,
            )


def _action_predictor(
    config: ActionPredictorConfig, encoder: VisionTransformer, fixed: Positions, init: Init
) -> ActionCausalPredictor:
    """Rotary whatever the encoder's positions are, in the model's pairing."""
    return ActionCausalPredictor(
        embed_dim=encoder.embed_dim,
        plane=(encoder.grid[-2], encoder.grid[-1]),
        dim=config.dim,
        depth=config.depth,
        heads=config.heads or encoder.heads,
        mlp_ratio=config.mlp_ratio,
        action_dim=config.action_dim,
        state_dim=config.state_dim,
        extrinsics=config.extrinsics,
        frame_causal=config.frame_causal,
        pairing=fixed.pairing,
        init=init,
    )
