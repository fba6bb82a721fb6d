"""What the vision transformers of Hugging Face and timm have in common: names of blocks, and tables of positions.

Their tables lie in the file, ours follow from a formula. A table that is the formula's becomes ``sincos2d`` (and is computed,
for any size); any other becomes ``learned``. A class token's place in the table is added to the token itself: the sum is all
that the network ever sees of either.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openjepa.errors import CheckpointError
from openjepa.hub.atomic import write_directory
from openjepa.hub.keymaps import Drop, Merge, Rename, Rule
from openjepa.models.positions import Order, sincos2d
from openjepa.models.vit import VisionTransformer

TABLE = "online.pos_embed"
TABLE_REASON = "positions: computed where they are the sincos table, kept as a learned one where not"
ORDERS: tuple[Order, ...] = ("column_first", "row_first")
_OURS = ("online.", "predictor.predictor_", "predictor.mask_token")  # beginnings of names nobody else has
_ROUNDED = {torch.float16: 1e-3, torch.bfloat16: 8e-3}  # a table's largest distance from the formula, rounded as it is
_CLOSE = 1e-4  # in other precisions; another order or grid differs by about one


def vit_blocks(theirs: str, ours: str, biases: tuple[Rule, ...] = ()) -> tuple[Rule, ...]:
    """One stack of blocks in ViT's names: three projections become one, rows ordered query, key, value.

    biases: how the biases of the projections are joined, where not like their weights.
    """
    source, target = f"{theirs}.{{i:int}}", f"{ours}.{{i}}"
    parts = tuple(f"{source}.attention.attention.{name}" for name in ("query", "key", "value"))
    leaf = "weight" if biases else "{p}"
    return (
        Merge(tuple(f"{part}.{leaf}" for part in parts), f"{target}.attn.qkv.{leaf}"),
        *biases,
        Rename(f"{source}.attention.output.dense.{{p}}", f"{target}.attn.proj.{{p}}"),
        Rename(f"{source}.layernorm_before.{{p}}", f"{target}.norm1.{{p}}"),
        Rename(f"{source}.layernorm_after.{{p}}", f"{target}.norm2.{{p}}"),
        Rename(f"{source}.intermediate.dense.{{p}}", f"{target}.mlp.fc1.{{p}}"),
        Rename(f"{source}.output.dense.{{p}}", f"{target}.mlp.fc2.{{p}}"),
    )


def image_encoder(prefix: str, *, class_token: bool) -> tuple[Rule, ...]:
    """All of an image encoder, behind ``prefix`` (``"vit."``; empty for the bare model)."""
    token = (Rename(f"{prefix}embeddings.cls_token", "online.cls_token"),) if class_token else ()
    return (
        Drop(f"{prefix}embeddings.position_embeddings", TABLE_REASON, ours=TABLE),
        *token,
        Rename(f"{prefix}embeddings.patch_embeddings.projection.{{p}}", "online.patch_embed.proj.{p}"),
        *vit_blocks(f"{prefix}encoder.layer", "online.blocks"),
        Rename(f"{prefix}layernorm.{{p}}", "online.norm.{p}"),
    )


@dataclass(frozen=True)
class Placed:
    """A table of positions in our words: keys of ``ModelConfig``, tensors of the encoder, and what a user must know."""

    model: dict[str, Any]
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def place_table(table: Tensor, grid: tuple[int, int], token: Tensor | None, where: Path) -> Placed:
    """A file's table ``(1, P + h·w, D)``, P rows of it a class token's (or none), as positions of ours.

    token: the class token ``(1, 1, D)``, None where there is none.

    Raises:
        CheckpointError: the table is not of this grid.
    """
    count = grid[0] * grid[1]
    prefix = table.shape[1] - count if table.ndim == 3 else -1
    if prefix not in ((0,) if token is None else (0, 1)):
        raise CheckpointError(
            f"'{where}': a position table {tuple(table.shape)} is not that of {grid[0]}×{grid[1]} patches"
        )
    tensors: dict[str, Tensor] = {}
    if token is not None:
        tensors["cls_token"] = token if prefix == 0 or table.is_meta else token + table[:, :1].to(token.dtype)
    patches = table[:, prefix:]
    order = order_of(patches[0], grid)
    if order is not None:
        return Placed({"positions": "sincos2d", "position_order": order}, tensors)
    note = "its position table is not the sincos formula's: kept as learned positions, other sizes are interpolated"
    return Placed({"positions": "learned"}, {**tensors, "pos_embed": patches.contiguous()}, (note,))


def order_of(table: Tensor, grid: tuple[int, int]) -> Order | None:
    """Which of the two sincos tables ``(h·w, D)`` is; None for neither. On the meta device, where values are not known, the first."""
    if table.shape[1] % 4:
        return None
    if table.is_meta:
        return ORDERS[0]
    most = _ROUNDED.get(table.dtype, _CLOSE)
    found = (order for order in ORDERS if _far(table, sincos2d(table.shape[1], grid, order)) < most)
    return next(found, None)


def _far(first: Tensor, second: Tensor) -> float:
    return float((first.float() - second).abs().max()) if first.shape == second.shape else float("inf")


def their_table(encoder: VisionTransformer, prefix: int) -> Tensor:
    """The table a file holds, ``(1, prefix + N, D)``: a class token's row is zero, since ours has no position of its own."""
    assert encoder.pos_embed is not None, encoder.positions.kind
    return torch.nn.functional.pad(encoder.pos_embed.detach(), (0, 0, prefix, 0))


def check_image_encoder(encoder: VisionTransformer, kind: str, *, class_token: bool) -> None:
    """Raise CheckpointError, in one line, for what an image transformer of theirs does not have."""
    wrong = ""
    if encoder.video:
        wrong = "it takes images, and this encoder clips"
    elif encoder.positions.rotary:
        wrong = "its positions are a table, and these are rotary"
    elif bool(encoder.num_prefix_tokens) != class_token:
        wrong = "it has a class token" if class_token else "it has no class token"
    elif len(encoder.tap_blocks) > 1:
        wrong = "it has one final norm, and this encoder joins several levels"
    elif len({norm.eps for norm in _norms(encoder)}) > 1:
        wrong = "its layer norms have one epsilon"
    if wrong:
        raise CheckpointError(f"{kind} cannot hold this model: {wrong}")


def _norms(encoder: VisionTransformer) -> list[torch.nn.LayerNorm]:
    return [module for module in encoder.modules() if isinstance(module, torch.nn.LayerNorm)]


def encoder_config(encoder: VisionTransformer) -> dict[str, Any]:
    """What ViT's configuration says of an encoder."""
    high, wide = encoder.image_size
    return {
        "hidden_size": encoder.embed_dim,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": hidden_of(encoder.blocks[0]),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": encoder.norm.eps,
        "image_size": high if high == wide else [high, wide],
        "patch_size": encoder.patch_size[0],
        "num_channels": encoder.channels,
        "qkv_bias": True,
        "dtype": "float32",
    }


def hidden_of(block: torch.nn.Module) -> int:
    """Width of a block's MLP."""
    fc1 = block.get_submodule("mlp.fc1")
    assert isinstance(fc1, torch.nn.Linear)
    return fc1.out_features


def state_of(module: torch.nn.Module, part: str) -> dict[str, Tensor]:
    """A network's state by our names, ``online.…``, without learned positions (they are written as a table)."""
    state = {f"{part}.{key}": value for key, value in module.state_dict().items()}
    state.pop(TABLE, None)
    return state


@dataclass(frozen=True)
class Published:
    """A model in somebody else's words: ``config.json``, tensors by their names, and the processor's file (name, settings)."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    processor: tuple[str, dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        """Raise CheckpointError for tensors the layout has no names for: they would be lost without a word."""
        stray = [key for key in self.tensors if key.startswith(_OURS)]
        if stray:
            kind = self.config.get("model_type", "timm")
            raise CheckpointError(
                f"{kind} has no place for {len(stray)} tensors of this model ({', '.join(stray[:3])})"
            )


def write_published(folder: str | Path, published: Published) -> Path:
    """Write configuration, weights and processor, atomically; an older directory is replaced.

    Raises:
        RunError: it cannot be written; what was there is untouched.
    """
    tensors = {key: value.detach().contiguous() for key, value in published.tensors.items()}
    files: dict[str, Any] = {"config.json": published.config, "model.safetensors": tensors}
    if published.processor is not None:
        files[published.processor[0]] = published.processor[1]
    return write_directory(folder, files, replace=True)
