"""``config.json`` of Hugging Face's V-JEPA 2 as our recipe, and of our method as transformers reads it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from torch import nn

from openjepa.config.schema import (
    ClipConfig,
    DataConfig,
    ModelConfig,
    NarrowPredictorConfig,
    ObjectiveConfig,
    Recipe,
    TubesMask,
)
from openjepa.data import Normalise
from openjepa.errors import CheckpointError
from openjepa.hub.hf_pixels import clip_of, kept_of
from openjepa.models.attentive import AttentiveClassifier
from openjepa.models.transformer import LAYER_NORM_EPS
from openjepa.models.vit import VisionTransformer

_log = logging.getLogger(__name__)

FPS = 4.0  # of the published training (official.md §5.3); config.json says nothing of it
SHORT_SIDE = 256 / 224  # what a clip is resized to before its centre is cut, over the crop
PROCESSOR = "video_preprocessor_config.json"


def recipe_of(config: Mapping[str, Any], name: str, processor: Mapping[str, Any] | None = None) -> Recipe:
    """Our recipe of a ``VJEPA2Config``; what a file leaves out is what transformers takes then.

    name: for messages. processor: settings of the video processor beside it. The recipe samples clips at :data:`FPS`
    (but for directories we wrote), hides tubes and averages by momentum, as published.

    Raises:
        CheckpointError: something our encoder does not have.
    """

    def get(key: str, default: Any) -> Any:
        value = config.get(key)
        return default if value is None else value

    pixels = processor or {}
    unlike = {"hidden_act": "gelu", "qkv_bias": True, "attention_probs_dropout_prob": 0.0, "attention_dropout": 0.0}
    for key, wanted in unlike.items():
        if get(key, wanted) != wanted:
            raise CheckpointError(f"'{name}': {key} is {config[key]!r}, and our encoder has {wanted!r}")
    try:
        return Recipe(
            name="vjepa2-hf",
            system="vjepa2",
            data=DataConfig(
                image_size=get("crop_size", 256),
                channels=get("in_chans", 3),
                mean=_triple(pixels.get("image_mean")),
                std=_triple(pixels.get("image_std")),
                eval_crop=_share(pixels, get("crop_size", 256)),
                clip=ClipConfig(frames=get("frames_per_clip", 64), **clip_of(config, {"fps": FPS})),
            ),
            mask=TubesMask(),
            model=ModelConfig(
                arch=None,
                patch_size=get("patch_size", 16),
                tubelet_size=get("tubelet_size", 2),
                dim=get("hidden_size", 1024),
                depth=get("num_hidden_layers", 24),
                heads=get("num_attention_heads", 16),
                mlp_ratio=get("mlp_ratio", 4.0),
                drop_path=get("drop_path_rate", 0.0),
                norm_eps=get("layer_norm_eps", LAYER_NORM_EPS),
                positions="rope3d",
                rope_pairing="tiled",
            ),
            predictor=NarrowPredictorConfig(
                dim=get("pred_hidden_size", 384),
                depth=get("pred_num_hidden_layers", 12),
                heads=get("pred_num_attention_heads", 12),
                mlp_ratio=get("pred_mlp_ratio", 4.0),
                mask_tokens=get("pred_num_mask_tokens", 10),
                mask_token_init="zero" if get("pred_zero_init_mask_tokens", True) else "normal",
            ),
            objective=ObjectiveConfig(kind="l1", reduction="pair"),
        )
    except (ValidationError, TypeError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise CheckpointError(f"'{name}': config.json describes no V-JEPA 2 we can build ({what})") from error


def config_of(
    recipe: Recipe, encoder: VisionTransformer, probe: AttentiveClassifier | None = None, classes: Sequence[str] = ()
) -> dict[str, Any]:
    """``config.json`` of an encoder with its predictor (and of a probe on it) as transformers reads it.

    Raises:
        CheckpointError: transformers has no such model; says what stands against it.
    """
    _check_exportable(recipe, encoder, probe, classes)
    assert isinstance(recipe.predictor, NarrowPredictorConfig)
    about: dict[str, Any] = {
        "model_type": "vjepa2",
        "architectures": ["VJEPA2Model" if probe is None else "VJEPA2ForVideoClassification"],
        "patch_size": encoder.patch_size[0],
        "crop_size": encoder.image_size[0],
        "frames_per_clip": encoder.frames,
        "tubelet_size": encoder.tubelet_size,
        "in_chans": encoder.channels,
        "hidden_size": encoder.embed_dim,
        "num_attention_heads": encoder.heads,
        "num_hidden_layers": encoder.depth,
        "mlp_ratio": _ratio(encoder.blocks[0]),
        "drop_path_rate": recipe.model.drop_path,
        "layer_norm_eps": encoder.norm.eps,
        "hidden_act": "gelu",
        "qkv_bias": True,
        "pred_hidden_size": recipe.predictor.dim,
        "pred_num_attention_heads": recipe.predictor.heads or encoder.heads,
        "pred_num_hidden_layers": recipe.predictor.depth,
        "pred_mlp_ratio": recipe.predictor.mlp_ratio,
        "pred_num_mask_tokens": recipe.predictor.mask_tokens,
        "pred_zero_init_mask_tokens": recipe.predictor.mask_token_init == "zero",
        "dtype": "float32",
    }
    if probe is not None:
        names = list(classes) or [f"LABEL_{number}" for number in range(probe.linear.out_features)]
        about["num_pooler_layers"] = len(probe.pooler.blocks)
        about["id2label"] = {str(number): name for number, name in enumerate(names)}
        about["label2id"] = {name: number for number, name in enumerate(names)}
    return {**about, **kept_of(recipe)}


def _check_exportable(
    recipe: Recipe, encoder: VisionTransformer, probe: AttentiveClassifier | None, classes: Sequence[str]
) -> None:
    """Raise CheckpointError for what transformers' V-JEPA 2 does not have."""
    wrong = ""
    if not encoder.video or encoder.positions.kind != "rope3d" or encoder.positions.pairing != "tiled":
        wrong = "model.positions rope3d with rope_pairing tiled, the published table, is all it knows"
    elif encoder.image_size[0] != encoder.image_size[1]:
        wrong = f"its clips are square, not {encoder.image_size[0]}×{encoder.image_size[1]}"
    elif not isinstance(recipe.predictor, NarrowPredictorConfig) or encoder.num_prefix_tokens:
        wrong = "it knows one predictor, the narrow one, and no class token"
    elif len(encoder.tap_blocks) > 1 or encoder.positions.plane is not None:  # their tensors alone would not tell
        wrong = "it has one final norm and counts rows and columns in whole patches: no model.taps, no model.rope_grid"
    elif probe is not None:
        heads = _cross(probe).xattn.heads
        if probe.pooler.form != "vjepa2" or probe.pooler.query_tokens.shape[1] != 1:
            wrong = "its probe has one query and the form vjepa2"
        elif heads != encoder.heads:
            wrong = f"its probe has as many heads as the encoder, {encoder.heads}, not {heads}"
        elif classes and len(classes) != probe.linear.out_features:
            wrong = f"{len(classes)} classes are named for {probe.linear.out_features} logits"
        elif _cross(probe).norm1.eps != encoder.norm.eps:
            _log.warning(
                "transformers computes the probe with layer norm epsilon %g instead of %g: logits differ a little",
                encoder.norm.eps,
                _cross(probe).norm1.eps,
            )
    if wrong:
        raise CheckpointError(f"transformers' V-JEPA 2 cannot hold this model: {wrong}")


def _cross(probe: AttentiveClassifier) -> Any:
    """The cross-attention block. Raises CheckpointError for a probe that is bare attention."""
    if not probe.pooler.complete_block:
        raise CheckpointError("transformers' V-JEPA 2 cannot hold this model: its probe is a complete block")
    return probe.pooler.cross_attention_block


def _ratio(block: nn.Module) -> float:
    """MLP width over width, as transformers multiplies it again."""
    fc1: Any = block.get_submodule("mlp.fc1")
    hidden, dim = fc1.weight.shape
    return next(ratio for ratio in (hidden / dim, (hidden + 0.5) / dim) if int(dim * ratio) == hidden)


def processor_of(recipe: Recipe) -> dict[str, Any]:
    """Preprocessing as ``VJEPA2VideoProcessor`` reads it."""
    normalise = Normalise.for_data(recipe.data)
    side = recipe.image_hw[0]
    return {
        "video_processor_type": "VJEPA2VideoProcessor",
        "do_resize": True,
        "size": {"shortest_edge": int(side / recipe.data.eval_crop + 1e-6)},
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "resample": 2 if recipe.data.interpolation == "bilinear" else 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [round(float(value), 6) for value in normalise.mean.flatten()],
        "image_std": [round(float(value), 6) for value in normalise.std.flatten()],
    }


def _triple(values: Any) -> tuple[float, ...] | None:
    """Mean or deviation of a processor, None where it has none."""
    return None if values is None else tuple(float(value) for value in values)


def _share(processor: Mapping[str, Any], crop: int) -> float:
    """Crop over resized short side; the usual share where the processor does not say."""
    size = processor.get("size") or {}
    short = size.get("shortest_edge") if isinstance(size, Mapping) else size
    return min(crop / (short or int(crop * SHORT_SIDE)), 1.0)
