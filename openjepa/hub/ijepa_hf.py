"""I-JEPA in the Hugging Face layout, both ways: ``IJepaModel`` (official.md §6.5). No ``transformers`` needed.

A file holds one encoder (the published converter took the online one) and no predictor. ``IJepaForImageClassification`` is
read with its classifier, a linear layer on the mean of the tokens; written is the bare model.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from openjepa.config.schema import DataConfig, ModelConfig, NarrowPredictorConfig, Recipe
from openjepa.errors import CheckpointError
from openjepa.hub.hf_directory import Draft, HfDirectory, describing, finish, linear_probe, read_hf_directory
from openjepa.hub.hf_pixels import PROCESSOR, image_processor_of, kept_of, pixels_of
from openjepa.hub.hf_vit import (
    TABLE,
    Published,
    check_image_encoder,
    encoder_config,
    image_encoder,
    place_table,
    state_of,
    their_table,
    write_published,
)
from openjepa.hub.keymaps import Drop, KeyMap, Rename, Rule, register_map
from openjepa.hub.model_directory import LoadedModel, Which, split_parts

_log = logging.getLogger(__name__)
KIND = "ijepa"
USUAL = {"eval_crop": 224 / 256, "interpolation": "bilinear"}  # what the official video programs do (official.md §6.7)
_UNREAD: tuple[Rule, ...] = (
    Drop("{part}.pooler.{key:rest}", "pooler: patch features do not pass it"),
    Drop("pooler.{key:rest}", "pooler: patch features do not pass it"),
    Drop("embeddings.mask_token", "mask token: transformers' encoder shows all patches"),
    Drop("ijepa.embeddings.mask_token", "mask token: transformers' encoder shows all patches"),
)
IJEPA_HF = register_map(
    KeyMap(
        "ijepa-hf",
        "IJepaModel of Hugging Face transformers: the encoder",
        (*image_encoder("", class_token=False), *_UNREAD),
    )
)
IJEPA_CLASSIFIER_HF = register_map(
    KeyMap(
        "ijepa-classifier-hf",
        "IJepaForImageClassification of Hugging Face transformers: encoder and linear classifier",
        (*image_encoder("ijepa.", class_token=False), *_UNREAD, Rename("classifier.{p}", "probe.{p}")),
    )
)


def open_ijepa_model(folder: str | Path, which: Which = "deployed") -> LoadedModel:
    """Read ``IJepaModel``'s directory: ``config.json`` and the weights beside it; every tensor must match.

    Raises:
        CheckpointError: a file is missing, it is no I-JEPA, or a weight does not fit.
    """
    directory = read_hf_directory(folder, KIND, "I-JEPA")
    return finish(directory, draft_ijepa(directory), which)


def map_of(directory: HfDirectory) -> KeyMap:
    """The names of the bare model, or of the classifier around it."""
    return IJEPA_CLASSIFIER_HF if any(key.startswith("ijepa.") for key in directory.tensors) else IJEPA_HF


def draft_ijepa(directory: HfDirectory) -> Draft:
    """The directory in our words. Raises CheckpointError for what our encoder does not have."""
    with describing(directory, "I-JEPA"):
        return _draft(directory)


def _draft(directory: HfDirectory) -> Draft:
    """The same, with whatever errors a configuration makes."""
    directory.need(
        {"hidden_act": "gelu", "qkv_bias": True, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    )
    keymap = map_of(directory)
    mapped = keymap.apply(directory.tensors)
    table = mapped.dropped.pop(TABLE, None)
    if table is None:
        raise CheckpointError(f"'{directory.path}' has no position table: it is damaged or cut")
    (high, wide), patch = directory.image_size, directory.patch_size
    placed = place_table(table.tensor, (high // patch, wide // patch), None, directory.path)
    channels = int(directory.get("num_channels", 3))
    pixels, notes = pixels_of(directory, channels, USUAL)
    depth = int(directory.get("num_hidden_layers", 12))
    recipe = Recipe(
        name="ijepa-hf",
        system="ijepa",
        data=DataConfig(image_size=(high, wide) if high != wide else high, channels=channels, **pixels),
        model=_model(directory, patch, depth, placed.model),
        predictor=NarrowPredictorConfig(depth=16 if depth == 40 else 12),  # as published; the file has none
    )
    parts = split_parts(mapped.tensors)
    parts.setdefault("online", {}).update(placed.tensors)
    classifier = parts.pop("probe", {})
    probe = linear_probe(directory, classifier) if classifier else None
    left = sorted({f"left out: {drop.reason}" for drop in mapped.dropped.values()})
    return Draft(keymap.name, recipe, parts, (*notes, *placed.notes, *left, "no predictor in this file"), probe)


def _model(directory: HfDirectory, patch: int, depth: int, positions: dict[str, Any]) -> ModelConfig:
    return ModelConfig(
        arch=None,
        patch_size=patch,
        dim=directory.get("hidden_size", 768),
        depth=depth,
        heads=directory.get("num_attention_heads", 12),
        mlp_ratio=directory.ratio("intermediate_size", "hidden_size", (3072, 768)),
        norm_eps=directory.get("layer_norm_eps", 1e-12),  # transformers' default; the published files say 1e-6
        init="ijepa",
        **positions,
    )


def save_ijepa_model(folder: str | Path, loaded: LoadedModel) -> Path:
    """Write a directory that ``IJepaModel.from_pretrained`` opens: the encoder of ``loaded`` that was asked for.

    Its predictor is left out, with a line in the log. An older directory is replaced.

    Raises:
        CheckpointError: transformers' I-JEPA has no such encoder: images, a table of positions, no class token.
        RunError: it cannot be written.
    """
    return write_published(folder, publish_ijepa(loaded))


def publish_ijepa(loaded: LoadedModel) -> Published:
    """What :func:`save_ijepa_model` writes. Raises CheckpointError as there."""
    encoder = loaded.encoder
    check_image_encoder(encoder, "transformers' I-JEPA", class_token=False)
    if loaded.predictor is not None:
        _log.info("transformers' I-JEPA has no predictor: it is left out")
    tensors = IJEPA_HF.inverse().apply(state_of(encoder, "online"), {TABLE: their_table(encoder, 0)}).tensors
    config = {"model_type": KIND, "architectures": ["IJepaModel"], **encoder_config(encoder), **kept_of(loaded.config)}
    return Published(config, tensors, (PROCESSOR, image_processor_of(loaded.config)))
