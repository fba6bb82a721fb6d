"""What tensors tell of the network they are from: width, depth, patch, MLP; and what the published sizes add (heads)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from openjepa.config.schema import NarrowPredictorConfig
from openjepa.errors import CheckpointError
from openjepa.hub.imports.contents import Contents
from openjepa.models.positions import Positions

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}  # of the published widths (official.md §1.1)
ROTARY_HEADS = {**HEADS, 1408: 22, 1664: 26}  # V-JEPA 2 and 2.1: heads of 64 channels
_TABLE_ERROR = 1e-3  # a fixed table in a file against the formula; another grid or order differs by about one


def ratio_of(hidden: int, dim: int) -> float:
    """MLP width over width such that multiplying again gives ``hidden`` exactly."""
    return next(ratio for ratio in (hidden / dim, (hidden + 0.5) / dim) if int(dim * ratio) == hidden)


def encoder_facts(contents: Contents, section: str, heads: dict[int, int]) -> dict[str, Any]:
    """Keys of ``ModelConfig`` that the tensors of one encoder tell: ``arch=None``, ``dim``, ``depth``, ``heads``, ….

    heads: of the known widths; the hint ``heads`` comes first, and is asked for where neither knows.
    """
    axes = len(contents.shapes.get(f"{section}.patch_embed.proj.weight", ()))
    stem = contents.shape(f"{section}.patch_embed.proj.weight", 5 if axes == 5 else 4)
    dim, (high, wide) = stem[0], stem[-2:]
    if high != wide:
        raise CheckpointError(f"'{contents.path}': patches of {high}×{wide} pixels; ours are square")
    count = contents.hint("heads", heads.get(dim))
    if count is None:
        raise contents.ask("heads", f"how many attention heads an encoder {dim} wide has")
    hidden = contents.shape(f"{section}.blocks.0.mlp.fc1.weight", 2)[0]
    facts = {
        "arch": None,
        "dim": dim,
        "depth": contents.count(f"{section}.blocks."),
        "heads": int(count),
        "mlp_ratio": ratio_of(hidden, dim),
        "patch_size": high,
    }
    return facts | ({"tubelet_size": stem[2]} if axes == 5 else {})


def channels_of(contents: Contents, section: str) -> int:
    """Channels of the images an encoder takes."""
    return contents.shapes[f"{section}.patch_embed.proj.weight"][1]


def predictor_facts(contents: Contents, heads: int | None, **more: Any) -> NarrowPredictorConfig:
    """The narrow predictor's part of a recipe; one of the usual size where the file has none.

    heads: where neither hint nor caller says, as many as give 32 channels each (V-JEPA 2's 12 of 384).
    """
    if not contents.has("predictor.predictor_embed.weight"):
        return NarrowPredictorConfig(**more)
    dim = contents.shape("predictor.predictor_embed.weight", 2)[0]
    tokens = contents.count("predictor.mask_tokens.")
    hidden = contents.shape("predictor.predictor_blocks.0.mlp.fc1.weight", 2)[0]
    return NarrowPredictorConfig(
        dim=dim,
        depth=contents.count("predictor.predictor_blocks."),
        heads=int(contents.hint("predictor_heads", heads or max(dim // 32, 1))),
        mlp_ratio=ratio_of(hidden, dim),
        mask_tokens=max(tokens, 1),
        **more,
    )


def find_grid(contents: Contents, key: str, spec: Positions, dim: int, tubelets: int | None) -> tuple[int, ...]:
    """The token grid ``([t,] h, w)`` of a fixed position table ``(1, N, dim)`` in the file, found by its values.

    tubelets: 1 or None for images; for clips the number that is expected, tried first. A table on the meta device has no
    values: then the first grid of the right size is taken, square in space.

    Raises:
        CheckpointError: no square grid has this table.
    """
    name = next(name for name in contents.tensors if name.replace("module.", "").replace("backbone.", "") == key)
    table = contents.tensors[name]
    count = table.shape[1]
    for grid in _grids(count, tubelets):
        if table.is_meta or _same(table, spec.native_table(dim, grid)):
            return grid
    raise CheckpointError(
        f"'{contents.path}': its table of {count} positions is none of a square grid: give hints={{'image_size': …, 'frames': …}}"
    )


def _grids(count: int, tubelets: int | None) -> list[tuple[int, ...]]:
    """Square grids of so many tokens, the expected length first."""
    if tubelets is None:
        side = math.isqrt(count)
        return [(side, side)] if side * side == count else []
    found = [(t, math.isqrt(count // t), math.isqrt(count // t)) for t in range(1, count + 1) if count % t == 0]
    found = [grid for grid in found if math.prod(grid) == count]
    return sorted(found, key=lambda grid: grid[0] != tubelets)


def _same(theirs: Tensor, ours: Tensor) -> bool:
    return theirs.shape[-1] == ours.shape[-1] and bool(torch.allclose(theirs[0].float(), ours, atol=_TABLE_ERROR))
