"""VideoMAE in the Hugging Face layout, both ways: ``VideoMAEForPreTraining`` and ``VideoMAEModel``. No ``transformers`` needed.

Its attention has no bias of the keys (zeros here, see :mod:`openjepa.hub.key_bias`), its positions are one table over the
counted tokens that no file holds (``model.positions=sinusoid``), the layer between encoder and decoder has no bias.
Fine-tuned classifiers (``use_mean_pooling``) end without the encoder's norm, which ours always has: they are refused.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openjepa.config.schema import (
    ClipConfig,
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    PixelPredictorConfig,
    RandomTubeMask,
    Recipe,
    TargetConfig,
)
from openjepa.errors import CheckpointError
from openjepa.hub.as_method import as_method
from openjepa.hub.hf_directory import Draft, HfDirectory, describing, finish, read_hf_directory, set_epsilon
from openjepa.hub.hf_pixels import PROCESSOR, clip_of, kept_of, pixels_of, video_processor_of
from openjepa.hub.hf_vit import Published, encoder_config, hidden_of, state_of, vit_blocks, write_published
from openjepa.hub.key_bias import AddBias, MergeBias
from openjepa.hub.keymaps import Drop, KeyMap, Rename, Rule, register_map
from openjepa.hub.mae_hf import embedding_of, heads_of
from openjepa.hub.model_directory import LoadedModel, Which, split_parts
from openjepa.methods import MaskedPixel
from openjepa.models import PixelDecoder, VisionTransformer

_log = logging.getLogger(__name__)
KIND = "videomae"
STRIDE = 4  # frames of the published Kinetics training; Something-Something takes every second
RATIO = 0.9  # of the published tube masks; config.json says nothing of it
DECODER_EPS = 1e-5  # of the one norm in front of the decoder's head; all others have the configuration's
USUAL = {"eval_crop": 1.0, "interpolation": "bilinear"}  # short side to the crop, centre
_COUNTED = "counted positions are computed, never loaded"


def _blocks(theirs: str, ours: str) -> tuple[Rule, ...]:
    source = f"{theirs}.{{i:int}}.attention.attention"
    target = f"{ours}.{{i:int}}.attn.qkv.bias"
    published = MergeBias(f"{source}.q_bias", f"{source}.v_bias", target)
    newer = MergeBias(f"{source}.query.bias", f"{source}.value.bias", target)  # transformers 5 in memory
    return vit_blocks(theirs, ours, (published, newer))


def _encoder(prefix: str) -> tuple[Rule, ...]:
    return (
        Drop(f"{prefix}embeddings.position_embeddings", _COUNTED),
        Rename(f"{prefix}embeddings.patch_embeddings.projection.{{p}}", "online.patch_embed.proj.{p}"),
        *_blocks(f"{prefix}encoder.layer", "online.blocks"),
        Rename(f"{prefix}layernorm.{{p}}", "online.norm.{p}"),
    )


VIDEOMAE_HF = register_map(
    KeyMap(
        "videomae-hf",
        "VideoMAEForPreTraining of Hugging Face transformers: encoder and pixel decoder",
        (
            *_encoder("videomae."),
            Drop("position_embeddings", _COUNTED),
            AddBias("encoder_to_decoder.weight", "predictor.predictor_embed.weight", "predictor.predictor_embed.bias"),
            Rename("mask_token", "predictor.mask_token"),
            *_blocks("decoder.decoder_layers", "predictor.predictor_blocks"),
            Rename("decoder.norm.{p}", "predictor.predictor_norm.{p}"),
            Rename("decoder.head.{p}", "predictor.predictor_proj.{p}"),
        ),
    )
)
VIDEOMAE_MODEL_HF = register_map(
    KeyMap("videomae-model-hf", "VideoMAEModel of Hugging Face transformers: the encoder alone", _encoder(""))
)


def open_videomae_model(folder: str | Path, which: Which = "deployed") -> LoadedModel:
    """A published VideoMAE: its encoder, and its decoder as predictor where the file has one. Every tensor must match.

    Raises:
        CheckpointError: a file is missing, it is no VideoMAE, a weight does not fit, or it is a fine-tuned classifier,
            whose encoder has no final norm.
        ConfigError: ``which`` is ``target``: VideoMAE has one encoder.
    """
    directory = read_hf_directory(folder, KIND, "VideoMAE")
    return finish_videomae(directory, which)


def finish_videomae(directory: HfDirectory, which: Which) -> LoadedModel:
    """The model, with the decoder's own epsilon in its last norm."""
    return set_epsilon(finish(directory, draft_videomae(directory), which), "predictor_norm", DECODER_EPS)


def open_videomae(folder: str | Path) -> MaskedPixel:
    """The same as our method, for its loss and to train on. Raises CheckpointError also where the file has no decoder."""
    method = as_method(open_videomae_model(folder))
    assert isinstance(method, MaskedPixel)
    return method


def map_of(directory: HfDirectory) -> KeyMap:
    """The names of the whole, or of the bare encoder."""
    whole = any(key.startswith("videomae.") for key in directory.tensors)
    return VIDEOMAE_HF if whole else VIDEOMAE_MODEL_HF


def draft_videomae(directory: HfDirectory) -> Draft:
    """The directory in our words. Raises CheckpointError for what our networks do not have."""
    with describing(directory, "VideoMAE"):
        return _draft(directory)


def _draft(directory: HfDirectory) -> Draft:
    """The same, with whatever errors a configuration makes."""
    directory.need({"hidden_act": "gelu", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    keymap = map_of(directory)
    mapped = keymap.apply(directory.tensors)
    parts = split_parts(mapped.tensors)
    if directory.get("use_mean_pooling", True) and "norm.weight" not in parts.get("online", {}):
        raise CheckpointError(
            f"'{directory.path}' is a fine-tuned VideoMAE (use_mean_pooling): its tokens end without a norm, which our "
            "encoder has: take the weights it was tuned from (VideoMAEForPreTraining)"
        )
    notes: tuple[str, ...] = ()
    if not directory.get("qv_bias", directory.get("qkv_bias", True)):
        _add_zero_biases(parts)
        notes = ("its attention has no biases: zeros here",)
    (high, wide), channels = directory.image_size, int(directory.get("num_channels", 3))
    pixels, said = pixels_of(directory, channels, USUAL)
    clip = ClipConfig(frames=directory.get("num_frames", 16), **clip_of(directory.config, {"stride": STRIDE}))
    data = DataConfig(image_size=(high, wide) if high != wide else high, channels=channels, clip=clip, **pixels)
    if "predictor" not in parts:
        notes = (*notes, "no decoder in this file")
    elif not directory.get("norm_pix_loss", True):
        notes = (*notes, "its decoder predicts pixels between 0 and 1; our loss compares normalised ones")
    recipe = Recipe(data=data, **_recipe_parts(directory))
    return Draft(keymap.name, recipe, parts, (*said, *notes))


def _recipe_parts(directory: HfDirectory) -> dict[str, Any]:
    """Everything of the recipe but data."""
    return {
        "name": "videomae-hf",
        "system": "videomae",
        "method": "masked_pixel",
        "mask": RandomTubeMask(ratio=RATIO),
        "model": ModelConfig(
            arch=None,
            patch_size=directory.patch_size,
            tubelet_size=directory.get("tubelet_size", 2),
            dim=directory.get("hidden_size", 768),
            depth=directory.get("num_hidden_layers", 12),
            heads=directory.get("num_attention_heads", 12),
            mlp_ratio=directory.ratio("intermediate_size", "hidden_size", (3072, 768)),
            norm_eps=directory.get("layer_norm_eps", 1e-12),
            positions="sinusoid",
            init="mae",
        ),
        "predictor": PixelPredictorConfig(
            dim=directory.get("decoder_hidden_size", 384),
            depth=directory.get("decoder_num_hidden_layers", 4),
            heads=directory.get("decoder_num_attention_heads", 6),
            mlp_ratio=directory.ratio("decoder_intermediate_size", "decoder_hidden_size", (1536, 384)),
        ),
        "target": TargetConfig(
            kind="pixels", transform="layer_norm" if directory.get("norm_pix_loss", True) else "none"
        ),
        "objective": ObjectiveConfig(kind="l2"),
    }


def _add_zero_biases(parts: dict[str, dict[str, torch.Tensor]]) -> None:
    """Attention without biases has zeros."""
    for tensors in parts.values():
        for key in [key for key in tensors if key.endswith("attn.qkv.weight")]:
            tensors.setdefault(key.replace("weight", "bias"), tensors[key].new_zeros(len(tensors[key])))


def save_videomae_model(folder: str | Path, loaded: LoadedModel) -> Path:
    """Write a directory that ``VideoMAEForPreTraining.from_pretrained`` opens, or ``VideoMAEModel`` where there is no decoder.

    A decoder with a bias in front of it, as our training gives it, is left out with a warning: theirs has none. An older
    directory is replaced. The decoder's last norm has epsilon 1e-5 there, whatever ours has.

    Raises:
        CheckpointError: transformers' VideoMAE has no such model: square clips, counted positions. RunError: it cannot be
            written.
    """
    return write_published(folder, publish_videomae(loaded))


def publish_videomae(loaded: LoadedModel) -> Published:
    """What :func:`save_videomae_model` writes. Raises CheckpointError as there."""
    encoder, decoder = loaded.encoder, loaded.predictor
    _check(encoder)
    state, keymap = state_of(encoder, "online"), VIDEOMAE_MODEL_HF
    config = _config(loaded, encoder)
    if isinstance(decoder, PixelDecoder) and _fits(decoder):
        keymap = VIDEOMAE_HF
        state |= state_of(decoder, "predictor")
        config |= _decoder_config(loaded, decoder)
    written = keymap.inverse().apply(state)
    if any(bool(drop.tensor.any()) for drop in written.dropped.values() if not drop.tensor.is_meta):
        _log.info("biases of the keys are left out: softmax does not see them, and VideoMAE has none")
    return Published(config, written.tensors, (PROCESSOR, video_processor_of(loaded.config)))


def _fits(decoder: PixelDecoder) -> bool:
    """Whether theirs computes the same: it has no bias between encoder and decoder, and ours learns one."""
    bias = embedding_of(decoder).bias
    if bias.is_meta or not bool(bias.any()):
        return True
    _log.warning(
        "transformers' VideoMAE has no bias between encoder and decoder, this one has: only the encoder is written"
    )
    return False


def _check(encoder: VisionTransformer) -> None:
    """Raise CheckpointError, in one line, for an encoder transformers' VideoMAE does not have."""
    wrong = ""
    if not encoder.video:
        wrong = "it takes clips, and this encoder images"
    elif encoder.positions.kind != "sinusoid":
        wrong = f"its positions are counted (model.positions=sinusoid), not {encoder.positions.kind}, and no file holds them"
    elif encoder.num_prefix_tokens:
        wrong = "it has no class token"
    elif encoder.image_size[0] != encoder.image_size[1]:
        wrong = f"its clips are square, not {encoder.image_size[0]}×{encoder.image_size[1]}"
    if wrong:
        raise CheckpointError(f"transformers' VideoMAE cannot hold this model: {wrong}")


def _config(loaded: LoadedModel, encoder: VisionTransformer) -> dict[str, Any]:
    about = encoder_config(encoder)
    about["qv_bias"] = about["qkv_bias"]  # transformers 5 reads the first, older ones the second
    return {
        "model_type": KIND,
        "architectures": ["VideoMAEModel"],
        **about,
        "num_frames": encoder.frames,
        "tubelet_size": encoder.tubelet_size,
        "use_mean_pooling": False,
        **kept_of(loaded.config),
    }


def _decoder_config(loaded: LoadedModel, decoder: PixelDecoder) -> dict[str, Any]:
    """What the configuration says of the decoder and of the loss."""
    inner = {norm.eps for norm in decoder.predictor_blocks.modules() if isinstance(norm, nn.LayerNorm)}
    if inner != {loaded.encoder.norm.eps}:
        raise CheckpointError(
            "transformers' VideoMAE cannot hold this model: encoder and decoder share an epsilon there"
        )
    return {
        "architectures": ["VideoMAEForPreTraining"],
        "decoder_hidden_size": embedding_of(decoder).out_features,
        "decoder_num_hidden_layers": len(decoder.predictor_blocks),
        "decoder_num_attention_heads": heads_of(decoder),
        "decoder_intermediate_size": hidden_of(decoder.predictor_blocks[0]),
        "norm_pix_loss": loaded.config.target.transform == "layer_norm",
    }
