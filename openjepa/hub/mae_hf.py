"""MAE in the Hugging Face layout, both ways: ``ViTMAEForPreTraining`` and ``ViTMAEModel``. No ``transformers`` needed.

Reading: our encoder with a class token, and the pixel decoder where the file has one. The decoder's table of positions must be
the published sincos one, since our predictors have no learned positions; the encoder's may be any.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from openjepa.hub.as_method import as_method
from openjepa.hub.hf_directory import Draft, HfDirectory, describing, finish, read_hf_directory
from openjepa.hub.hf_pixels import PROCESSOR, image_processor_of, kept_of, pixels_of
from openjepa.hub.hf_vit import (
    TABLE,
    Published,
    check_image_encoder,
    encoder_config,
    hidden_of,
    image_encoder,
    order_of,
    place_table,
    state_of,
    their_table,
    vit_blocks,
    write_published,
)
from openjepa.hub.keymaps import Drop, KeyMap, Rename, register_map
from openjepa.hub.model_directory import LoadedModel, Which, split_parts
from openjepa.methods import MaskedPixel
from openjepa.models import PixelDecoder, VisionTransformer

KIND = "vit_mae"
DECODER_TABLE = "predictor.predictor_pos_embed"
USUAL = {"eval_crop": 224 / 256, "interpolation": "bicubic"}  # MAE's evaluation: short side 256, centre 224
_REASON = "fixed sincos table of the decoder: computed, and compared with the file's"
_BARE = "mae-model-hf"

MAE_HF = register_map(
    KeyMap(
        "mae-hf",
        "ViTMAEForPreTraining of Hugging Face transformers: encoder and pixel decoder",
        (
            *image_encoder("vit.", class_token=True),
            Drop("decoder.decoder_pos_embed", _REASON, ours=DECODER_TABLE),
            Rename("decoder.decoder_embed.{p}", "predictor.predictor_embed.{p}"),
            Rename("decoder.mask_token", "predictor.mask_token"),
            *vit_blocks("decoder.decoder_layers", "predictor.predictor_blocks"),
            *vit_blocks("decoder.decoder_encoder.layer", "predictor.predictor_blocks"),  # as transformers 5 saves it
            Rename("decoder.decoder_norm.{p}", "predictor.predictor_norm.{p}"),
            Rename("decoder.decoder_pred.{p}", "predictor.predictor_proj.{p}"),
        ),
    )
)
MAE_MODEL_HF = register_map(
    KeyMap(_BARE, "ViTMAEModel of Hugging Face transformers: the encoder alone", image_encoder("", class_token=True))
)


def open_mae_model(folder: str | Path, which: Which = "deployed") -> LoadedModel:
    """A published MAE: its encoder, and its decoder as predictor where the file has one. Every tensor must match.

    Raises:
        CheckpointError: a file is missing, it is no MAE, a weight does not fit, or the decoder's position table is not
            the published sincos one.
        ConfigError: ``which`` is ``target``: MAE has one encoder.
    """
    directory = read_hf_directory(folder, KIND, "MAE")
    return finish(directory, draft_mae(directory), which)


def open_mae(folder: str | Path) -> MaskedPixel:
    """The same as our method, for its loss and to train on. Raises CheckpointError also where the file has no decoder."""
    method = as_method(open_mae_model(folder))
    assert isinstance(method, MaskedPixel)
    return method


def map_of(directory: HfDirectory) -> KeyMap:
    """The names of the whole, or of the bare encoder."""
    return MAE_HF if any(key.startswith("vit.") for key in directory.tensors) else MAE_MODEL_HF


def draft_mae(directory: HfDirectory) -> Draft:
    """The directory in our words. Raises CheckpointError for what our networks do not have."""
    with describing(directory, "MAE"):
        return _draft(directory)


def _draft(directory: HfDirectory) -> Draft:
    """The same, with whatever errors a configuration makes."""
    directory.need(
        {"hidden_act": "gelu", "qkv_bias": True, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    )
    keymap = map_of(directory)
    mapped = keymap.apply(directory.tensors)
    parts = split_parts(mapped.tensors)
    tables = {key: mapped.dropped[key].tensor for key in (TABLE, DECODER_TABLE) if key in mapped.dropped}
    token = parts.get("online", {}).get("cls_token")
    if TABLE not in tables or token is None:
        missing = "class token" if TABLE in tables else "position table"
        raise CheckpointError(f"'{directory.path}' has no {missing}: it is damaged or cut")
    (high, wide), patch = directory.image_size, directory.patch_size
    grid = high // patch, wide // patch
    placed = place_table(tables[TABLE], grid, token, directory.path)
    parts["online"].update(placed.tensors)
    model, notes = dict(placed.model), placed.notes
    if DECODER_TABLE in tables:
        _check_decoder(tables[DECODER_TABLE], grid, model, directory.path)
    elif "predictor" not in parts:
        notes = (*notes, "no decoder in this file")
    channels = int(directory.get("num_channels", 3))
    pixels, said = pixels_of(directory, channels, USUAL)
    data = DataConfig(image_size=(high, wide) if high != wide else high, channels=channels, **pixels)
    recipe = Recipe(data=data, **_recipe_parts(directory, patch, model))
    return Draft(keymap.name, recipe, parts, (*said, *notes))


def _recipe_parts(directory: HfDirectory, patch: int, positions: dict[str, Any]) -> dict[str, Any]:
    """Everything of the recipe but data."""
    share = directory.get("mask_ratio", 0.75)
    return {
        "name": "mae-hf",
        "system": "mae",
        "method": "masked_pixel",
        "mask": RandomMask(ratio=(share, share)),
        "model": ModelConfig(
            arch=None,
            patch_size=patch,
            dim=directory.get("hidden_size", 768),
            depth=directory.get("num_hidden_layers", 12),
            heads=directory.get("num_attention_heads", 12),
            mlp_ratio=directory.ratio("intermediate_size", "hidden_size", (3072, 768)),
            norm_eps=directory.get("layer_norm_eps", 1e-12),
            class_token=True,
            init="mae",
            **positions,
        ),
        "predictor": PixelPredictorConfig(
            dim=directory.get("decoder_hidden_size", 512),
            depth=directory.get("decoder_num_hidden_layers", 8),
            heads=directory.get("decoder_num_attention_heads", 16),
            mlp_ratio=directory.ratio("decoder_intermediate_size", "decoder_hidden_size", (2048, 512)),
        ),
        "target": TargetConfig(
            kind="pixels", transform="layer_norm" if directory.get("norm_pix_loss", False) else "none"
        ),
        "objective": ObjectiveConfig(kind="l2"),
    }


def _check_decoder(table: Tensor, grid: tuple[int, int], model: dict[str, Any], where: Path) -> None:
    """The decoder's table must be the one our decoder computes; a learned encoder leaves the order to it."""
    wrong = CheckpointError(f"'{where}': the decoder's position table is not the fixed sincos one of MAE")
    if table.is_meta:
        return
    if table.ndim != 3 or table.shape[1] != grid[0] * grid[1] + 1 or bool(table[:, 0].any()):
        raise wrong
    order = order_of(table[0, 1:], grid)
    if order is None or model.setdefault("position_order", order) != order:
        raise wrong


def save_mae_model(folder: str | Path, loaded: LoadedModel) -> Path:
    """Write a directory that ``ViTMAEForPreTraining.from_pretrained`` opens, or ``ViTMAEModel`` where there is no decoder.

    The encoder is the one of ``loaded`` that was asked for; any table of positions goes. An older directory is replaced.

    Raises:
        CheckpointError: transformers' MAE has no such model: images, class token, a table of positions, a pixel decoder.
        RunError: it cannot be written.
    """
    return write_published(folder, publish_mae(loaded))


def publish_mae(loaded: LoadedModel) -> Published:
    """What :func:`save_mae_model` writes. Raises CheckpointError as there."""
    encoder, decoder = loaded.encoder, loaded.predictor
    check_image_encoder(encoder, "transformers' MAE", class_token=True)
    state, extras = state_of(encoder, "online"), {TABLE: their_table(encoder, 1)}
    config = {"model_type": KIND, "architectures": ["ViTMAEModel"], **encoder_config(encoder), **kept_of(loaded.config)}
    keymap = MAE_MODEL_HF
    if isinstance(decoder, PixelDecoder):
        keymap = MAE_HF
        state |= state_of(decoder, "predictor")
        extras[DECODER_TABLE] = _decoder_table(decoder)
        config |= _decoder_config(loaded, encoder, decoder)
    tensors = keymap.inverse().apply(state, extras).tensors
    return Published(config, tensors, (PROCESSOR, image_processor_of(loaded.config)))


def _decoder_table(decoder: PixelDecoder) -> Tensor:
    """The table with a zero row in front, for the class token."""
    assert decoder.predictor_pos_embed is not None
    return nn.functional.pad(decoder.predictor_pos_embed, (0, 0, 1, 0))


def _decoder_config(loaded: LoadedModel, encoder: VisionTransformer, decoder: PixelDecoder) -> dict[str, Any]:
    """What the configuration says of the decoder and of the loss."""
    if decoder.predictor_norm.eps != encoder.norm.eps:
        raise CheckpointError("transformers' MAE cannot hold this model: encoder and decoder share an epsilon there")
    mask = loaded.config.mask
    return {
        "architectures": ["ViTMAEForPreTraining"],
        "decoder_hidden_size": embedding_of(decoder).out_features,
        "decoder_num_hidden_layers": len(decoder.predictor_blocks),
        "decoder_num_attention_heads": heads_of(decoder),
        "decoder_intermediate_size": hidden_of(decoder.predictor_blocks[0]),
        "mask_ratio": mask.ratio[1] if isinstance(mask, RandomMask) else 0.75,
        "norm_pix_loss": loaded.config.target.transform == "layer_norm",
    }


def embedding_of(decoder: PixelDecoder) -> nn.Linear:
    """The layer between encoder and decoder."""
    layer = decoder.predictor_embed
    assert isinstance(layer, nn.Linear), "a pixel decoder reads one level"
    return layer


def heads_of(decoder: PixelDecoder) -> int:
    """Attention heads of a decoder."""
    heads = decoder.predictor_blocks[0].get_submodule("attn").heads
    assert isinstance(heads, int)
    return heads
