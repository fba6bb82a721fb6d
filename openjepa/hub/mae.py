"""Published MAE weights in the Hugging Face layout (``ViTMAEForPreTraining``): names, configuration, and the check of what
is not copied.

Reading them needs no ``transformers``: a directory with ``config.json`` and ``model.safetensors`` is enough.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from openjepa.config.schema import (
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    PixelPredictorConfig,
    RandomMask,
    Recipe,
    TargetConfig,
)
from openjepa.errors import CheckpointError
from openjepa.hub.keymaps import Drop, Dropped, KeyMap, Merge, Rename, Rule, register_map
from openjepa.hub.strict import load_strict
from openjepa.hub.tensorfile import read_tensors
from openjepa.methods import MaskedPixel, build_method

_POSITIONS = "fixed sincos table: recomputed from the grid, never loaded"
_TABLES = {"online.pos_embed": "encoder", "predictor.predictor_pos_embed": "decoder"}


def _blocks(theirs: str, ours: str) -> tuple[Rule, ...]:
    """One stack of blocks: three projections become one, rows ordered query, key, value."""
    source, target = f"{theirs}.{{i:int}}", f"{ours}.{{i}}"
    return (
        Merge(
            tuple(f"{source}.attention.attention.{name}.{{p}}" for name in ("query", "key", "value")),
            f"{target}.attn.qkv.{{p}}",
        ),
        Rename(f"{source}.attention.output.dense.{{p}}", f"{target}.attn.proj.{{p}}"),
        Rename(f"{source}.layernorm_before.{{p}}", f"{target}.norm1.{{p}}"),
        Rename(f"{source}.layernorm_after.{{p}}", f"{target}.norm2.{{p}}"),
        Rename(f"{source}.intermediate.dense.{{p}}", f"{target}.mlp.fc1.{{p}}"),
        Rename(f"{source}.output.dense.{{p}}", f"{target}.mlp.fc2.{{p}}"),
    )


MAE_HF = register_map(
    KeyMap(
        "mae-hf",
        "ViTMAEForPreTraining of Hugging Face transformers: encoder and pixel decoder",
        (
            Drop("vit.embeddings.position_embeddings", _POSITIONS, ours="online.pos_embed"),
            Drop("decoder.decoder_pos_embed", _POSITIONS, ours="predictor.predictor_pos_embed"),
            Rename("vit.embeddings.cls_token", "online.cls_token"),
            Rename("vit.embeddings.patch_embeddings.projection.{p}", "online.patch_embed.proj.{p}"),
            *_blocks("vit.encoder.layer", "online.blocks"),
            Rename("vit.layernorm.{p}", "online.norm.{p}"),
            Rename("decoder.decoder_embed.{p}", "predictor.predictor_embed.{p}"),
            Rename("decoder.mask_token", "predictor.mask_token"),
            *_blocks("decoder.decoder_layers", "predictor.predictor_blocks"),
            *_blocks("decoder.decoder_encoder.layer", "predictor.predictor_blocks"),  # as transformers 5 saves it
            Rename("decoder.decoder_norm.{p}", "predictor.predictor_norm.{p}"),
            Rename("decoder.decoder_pred.{p}", "predictor.predictor_proj.{p}"),
        ),
    )
)


def open_mae(folder: str | Path) -> MaskedPixel:
    """A published MAE as our method, in evaluation mode: its encoder for features, the whole for its loss.

    The epsilon of its layer norms is set on the modules; a recipe does not hold it.

    Raises:
        CheckpointError: a file is missing, it is no MAE, a weight does not fit, or its position tables are not the
            published sincos ones.
    """
    folder = Path(folder)
    config = _config(folder)
    recipe = _recipe(config, folder)
    weights = folder / "model.safetensors"
    if not weights.is_file():
        weights = folder / "pytorch_model.bin"
    mapped = MAE_HF.apply(read_tensors(weights))
    with torch.random.fork_rng(devices=[]):
        method = build_method(recipe)
    assert isinstance(method, MaskedPixel)
    load_strict(method, mapped.tensors)
    _check_positions(method, mapped.dropped, folder)
    for module in method.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = float(config.get("layer_norm_eps", 1e-12))
    return method.eval()


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{folder}' has no config.json that can be read ({error})") from error
    if not isinstance(found, dict) or found.get("model_type") != "vit_mae":
        kind = found.get("model_type") if isinstance(found, dict) else None
        raise CheckpointError(f"'{folder}' is no MAE: its config.json says model_type {kind!r}, not 'vit_mae'")
    return found


def _recipe(config: Mapping[str, Any], folder: Path) -> Recipe:
    """Our recipe of the configuration; what a file leaves out is what transformers takes then."""

    def get(name: str, default: Any) -> Any:
        return config.get(name, default)

    dim, decoder = get("hidden_size", 768), get("decoder_hidden_size", 512)
    channels, ratio = get("num_channels", 3), get("mask_ratio", 0.75)
    unlike = {"hidden_act": "gelu", "qkv_bias": True, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    for name, wanted in unlike.items():
        if get(name, wanted) != wanted:
            raise CheckpointError(f"'{folder}': {name} is {config[name]!r}, and our encoder has {wanted!r}")
    try:
        return Recipe(
            name="mae-hf",
            system="mae",
            method="masked_pixel",
            data=DataConfig(image_size=get("image_size", 224), channels=channels, mean=None, std=None),
            mask=RandomMask(ratio=(ratio, ratio)),
            model=ModelConfig(
                arch=None,
                patch_size=get("patch_size", 16),
                dim=dim,
                depth=get("num_hidden_layers", 12),
                heads=get("num_attention_heads", 12),
                mlp_ratio=get("intermediate_size", 3072) / dim,
                class_token=True,
                init="mae",
            ),
            predictor=PixelPredictorConfig(
                dim=decoder,
                depth=get("decoder_num_hidden_layers", 8),
                heads=get("decoder_num_attention_heads", 16),
                mlp_ratio=get("decoder_intermediate_size", 2048) / decoder,
            ),
            target=TargetConfig(kind="pixels", transform="layer_norm" if get("norm_pix_loss", False) else "none"),
            objective=ObjectiveConfig(kind="l2"),
        )
    except (ValidationError, TypeError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise CheckpointError(f"'{folder}': config.json describes no MAE we can build ({what})") from error


def _check_positions(method: MaskedPixel, dropped: Mapping[str, Dropped], folder: Path) -> None:
    """The tables of the file must be ours, behind a zero row for the class token: else features would silently differ."""
    ours: dict[str, Tensor] = dict(method.named_buffers())
    for name, whose in _TABLES.items():
        if name not in dropped:
            continue
        theirs = dropped[name].tensor.float()
        same = theirs.shape[1] == ours[name].shape[1] + 1 and torch.allclose(theirs[:, 1:], ours[name], atol=1e-5)
        if not same or bool(theirs[:, 0].any()):
            raise CheckpointError(f"'{folder}': the {whose}'s position table is not the fixed sincos one of MAE")
