"""Tokenizers, positions, transformers, predictors and their EMA. Models know no method, device, loop or logger."""

from openjepa.models.action_predictor import ActionCausalPredictor
from openjepa.models.build import build_predictor
from openjepa.models.ema import make_target, update_ema
from openjepa.models.pixel_decoder import PixelDecoder
from openjepa.models.point_predictor import PointPredictor
from openjepa.models.points import PointTransformer, pack_groups
from openjepa.models.predictor import NarrowPredictor
from openjepa.models.projector import BatchNorm, Projector
from openjepa.models.sizes import SIZES, Size, size_named
from openjepa.models.token_head import TokenHead
from openjepa.models.vit import VisionTransformer, build_encoder

__all__ = [
    "SIZES",
    "ActionCausalPredictor",
    "BatchNorm",
    "NarrowPredictor",
    "PixelDecoder",
    "PointPredictor",
    "PointTransformer",
    "Projector",
    "Size",
    "TokenHead",
    "VisionTransformer",
    "build_encoder",
    "build_predictor",
    "make_target",
    "pack_groups",
    "size_named",
    "update_ema",
]
