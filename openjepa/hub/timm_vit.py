"""timm's vision transformers as models of ours, and ours as theirs: the state dict both ways (names of timm's I-JEPA).

timm publishes I-JEPA as ``vit_huge_patch14_gap_224.in1k_ijepa`` and three more; names are the authors' own, with the table of
positions. Any other plain ViT of timm with the same names opens too. Reading and writing need no timm.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from openjepa.config.schema import DataConfig, ModelConfig, NarrowPredictorConfig, Recipe
from openjepa.data import Normalise
from openjepa.errors import CheckpointError, ConfigError
from openjepa.hub.hf_directory import (
    Draft,
    HfDirectory,
    beside,
    describing,
    finish,
    linear_probe,
    ratio_of,
    read_config,
    read_weights,
)
from openjepa.hub.hf_pixels import kept_of, pixels_of
from openjepa.hub.hf_vit import (
    TABLE,
    TABLE_REASON,
    Published,
    hidden_of,
    place_table,
    state_of,
    their_table,
    write_published,
)
from openjepa.hub.keymaps import Drop, KeyMap, Rename, register_map
from openjepa.hub.model_directory import LoadedModel, Which, split_parts
from openjepa.hub.tensorfile import read_tensors
from openjepa.models import SIZES, VisionTransformer
from openjepa.models.linear_head import Pooling
from openjepa.models.transformer import LAYER_NORM_EPS

USUAL = {"eval_crop": 224 / 256, "interpolation": "bilinear"}
NAMES = {  # patch, pixels and width of the sizes timm publishes as I-JEPA; all others are its base with other numbers
    (14, 224, 1280): "vit_huge_patch14_gap_224",
    (16, 448, 1280): "vit_huge_patch16_gap_448",
    (16, 224, 1408): "vit_giant_patch16_gap_224",
}
_OTHER = "vit_base_patch16_224"
_HEADS = {size.dim: size.heads for size in SIZES.values() if size.dim > 1}
_ARGUMENTS = {  # of timm's VisionTransformer that are read here, or change nothing of the features
    *("img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads", "mlp_ratio", "class_token", "fc_norm"),
    *(
        "no_embed_class",
        "global_pool",
        "num_classes",
        "qkv_bias",
        "dynamic_img_size",
        "dynamic_img_pad",
        "drop_path_rate",
    ),
}
TIMM_VIT = register_map(
    KeyMap(
        "timm-vit",
        "VisionTransformer of timm (its I-JEPA models): the encoder",
        (
            Drop("pos_embed", TABLE_REASON, ours=TABLE),
            Rename("head.{p}", "probe.{p}"),
            Rename("{key:rest}", "online.{key}"),
        ),
    )
)


def open_timm_model(path: str | Path, which: Which = "deployed", hints: Mapping[str, Any] | None = None) -> LoadedModel:
    """Read a directory of timm (``config.json`` and weights), or a lone weight file with its names.

    hints: ``heads`` and ``image_size``, where neither ``config.json`` nor a published width tells.

    Raises:
        CheckpointError: a file is missing, it is another kind of network, or a weight does not fit.
        ConfigError: the number of heads has to be told.
    """
    path = Path(path)
    if path.is_dir():
        directory = beside(path, read_config(path), read_weights(path))
    else:
        directory = HfDirectory(path, {}, read_tensors(path))
    return finish(directory, draft_timm(directory, hints or {}), which)


def is_timm_directory(path: Path) -> bool:
    """Whether a directory's ``config.json`` names an architecture as timm's do."""
    try:
        config = read_config(path)
    except CheckpointError:
        return False
    return isinstance(config.get("architecture"), str) and "pretrained_cfg" in config


def draft_timm(directory: HfDirectory, hints: Mapping[str, Any]) -> Draft:
    """The directory in our words. Raises CheckpointError or ConfigError as :func:`open_timm_model`."""
    with describing(directory, "vision transformer"):
        return _draft(directory, hints)


def _draft(directory: HfDirectory, hints: Mapping[str, Any]) -> Draft:
    """The same, with whatever errors a configuration makes."""
    arguments = _arguments(directory)
    mapped = TIMM_VIT.apply(directory.tensors)
    parts = split_parts(mapped.tensors)
    tensors = parts.get("online", {})
    table, stem = mapped.dropped.pop(TABLE, None), tensors.get("patch_embed.proj.weight")
    if table is None or stem is None or stem.ndim != 4 or "blocks.0.mlp.fc1.weight" not in tensors:
        raise CheckpointError(f"'{directory.path}' is no plain vision transformer of timm: it has other names")
    token = tensors.get("cls_token")
    high, wide = _image_size(directory, hints, table.tensor, stem, arguments)
    patch = stem.shape[-1]
    placed = place_table(table.tensor, (high // patch, wide // patch), token, directory.path)
    pixels, notes = _pixels(directory, stem.shape[1])
    recipe = Recipe(
        name="timm-vit",
        system="ijepa",
        data=DataConfig(image_size=(high, wide) if high != wide else high, channels=stem.shape[1], **pixels),
        model=_model(directory, tensors, hints, arguments, placed.model),
        predictor=NarrowPredictorConfig(depth=12),  # the file has none
    )
    head = parts.get("probe", {})
    pooling: Pooling = "class" if _pooling(directory, arguments, token) == "token" else "mean"
    probe = linear_probe(directory, head, pooling) if head else None
    online = {"online": {**tensors, **placed.tensors}}
    return Draft(TIMM_VIT.name, recipe, online, (*notes, *placed.notes, "no predictor in this file"), probe)


def _arguments(directory: HfDirectory) -> Mapping[str, Any]:
    """Arguments of the network in timm. Raises CheckpointError for what our encoder cannot have."""
    name, found = str(directory.get("architecture", "")), directory.get("model_args", {})
    odd = [key for key, value in found.items() if key not in _ARGUMENTS and value not in (None, False, 0, "")]
    if odd or "quickgelu" in name:
        raise CheckpointError(
            f"'{directory.path}': our encoder has no {odd[0] if odd else 'quickgelu'} (timm's {name})"
        )
    return dict(found)


def _pooling(directory: HfDirectory, arguments: Mapping[str, Any], token: Tensor | None) -> str:
    """What timm's classifier reads: ``token``, or ``avg`` of the patches."""
    usual = "token" if token is not None else "avg"
    return str(arguments.get("global_pool") or directory.get("global_pool", usual))


def _image_size(
    directory: HfDirectory, hints: Mapping[str, Any], table: Tensor, stem: Tensor, arguments: Mapping[str, Any]
) -> tuple[int, int]:
    """Pixels: told, of the configuration, or of a square grid with so many places."""
    cfg = directory.get("pretrained_cfg", {})
    size = hints.get("image_size") or arguments.get("img_size") or list(cfg.get("input_size", ()))[1:]
    if size:
        return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
    for prefix in (0, 1):
        side = round((table.shape[1] - prefix) ** 0.5)
        if side * side + prefix == table.shape[1]:
            return side * int(stem.shape[-2]), side * int(stem.shape[-1])
    raise ConfigError(f"'{directory.path}' does not tell the size of its images: give hints={{'image_size': …}}")


def _model(
    directory: HfDirectory,
    tensors: Mapping[str, Tensor],
    hints: Mapping[str, Any],
    arguments: Mapping[str, Any],
    positions: Mapping[str, Any],
) -> ModelConfig:
    """Architecture: from shapes, but for heads."""
    dim, patch = tensors["patch_embed.proj.weight"].shape[0], tensors["patch_embed.proj.weight"].shape[-1]
    heads = hints.get("heads") or arguments.get("num_heads") or _HEADS.get(dim)
    if heads is None:
        raise ConfigError(
            f"'{directory.path}' does not tell how many attention heads {dim} channels have: give hints={{'heads': …}}"
        )
    numbers = {int(key.split(".")[1]) for key in tensors if key.startswith("blocks.")}
    return ModelConfig(
        arch=None,
        patch_size=patch,
        dim=dim,
        depth=len(numbers),
        heads=heads,
        mlp_ratio=ratio_of(tensors["blocks.0.mlp.fc1.weight"].shape[0], dim),
        class_token="cls_token" in tensors,
        init="ijepa",
        **positions,
    )


def _pixels(directory: HfDirectory, channels: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Preprocessing: timm's own settings where there are some."""
    cfg = directory.get("pretrained_cfg", {})
    if not cfg or isinstance(directory.config.get("openjepa"), Mapping):
        return pixels_of(directory, channels, USUAL)
    found = dict(USUAL)
    if cfg.get("interpolation") in ("bilinear", "bicubic"):
        found["interpolation"] = cfg["interpolation"]
    found["eval_crop"] = float(cfg.get("crop_pct", found["eval_crop"]))
    for name in ("mean", "std"):
        if len(cfg.get(name, ())) == channels:
            found[name] = tuple(cfg[name])
    return found, (
        f"preprocessing as in timm's settings: short side to crop/{found['eval_crop']:g}, {found['interpolation']}",
    )


def save_timm_model(folder: str | Path, loaded: LoadedModel) -> Path:
    """Write a directory that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` opens; its weights are a timm state dict.

    ``forward_features`` there gives our patch tokens, behind the class token where there is one. The predictor is left out.

    Raises:
        CheckpointError: timm's ViT is no such encoder: images, a table of positions, epsilon 1e-6. RunError: it cannot be
            written.
    """
    return write_published(folder, publish_timm(loaded))


def publish_timm(loaded: LoadedModel) -> Published:
    """What :func:`save_timm_model` writes: timm's configuration and its state dict. Raises CheckpointError as there."""
    encoder = loaded.encoder
    _check(encoder)
    tensors = TIMM_VIT.inverse().apply(state_of(encoder, "online"), {TABLE: their_table(encoder, 0)}).tensors
    return Published(_config(loaded, encoder), tensors)


def _check(encoder: VisionTransformer) -> None:
    wrong = ""
    if encoder.video:
        wrong = "it takes images, and this encoder clips"
    elif encoder.positions.rotary:
        wrong = "its positions are a table, and these are rotary"
    elif encoder.norm.eps != LAYER_NORM_EPS:
        wrong = f"its layer norms have epsilon 1e-6, not {encoder.norm.eps:g}"
    if wrong:
        raise CheckpointError(f"timm's vision transformer cannot hold this model: {wrong}")


def _config(loaded: LoadedModel, encoder: VisionTransformer) -> dict[str, Any]:
    """What timm reads: an architecture, arguments that make it ours, preprocessing."""
    (high, wide), patch = encoder.image_size, encoder.patch_size[0]
    size = high if high == wide else [high, wide]
    data = loaded.config.data
    statistics = Normalise.for_data(data)
    return {
        "architecture": NAMES.get((patch, high, encoder.embed_dim), _OTHER) if high == wide else _OTHER,
        "num_classes": 0,
        "num_features": encoder.embed_dim,
        "model_args": {
            "img_size": size,
            "patch_size": patch,
            "in_chans": encoder.channels,
            "embed_dim": encoder.embed_dim,
            "depth": encoder.depth,
            "num_heads": encoder.heads,
            "mlp_ratio": ratio_of(hidden_of(encoder.blocks[0]), encoder.embed_dim),
            "class_token": bool(encoder.num_prefix_tokens),
            "no_embed_class": True,
            "global_pool": "avg",
            "fc_norm": False,
            "num_classes": 0,
        },
        "pretrained_cfg": {
            "input_size": [encoder.channels, high, wide],
            "interpolation": data.interpolation,
            "crop_pct": data.eval_crop,
            "crop_mode": "center",
            "mean": [round(float(value), 6) for value in statistics.mean.flatten()],
            "std": [round(float(value), 6) for value in statistics.std.flatten()],
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
        **kept_of(loaded.config),
    }
