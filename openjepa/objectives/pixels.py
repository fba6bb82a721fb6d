"""Pixels as targets: cutting images into patches, and the per-patch normalisation of MAE (2111.06377 §3)."""

from __future__ import annotations

import torch
from torch import Tensor

PIXEL_EPS = 1e-6


def patchify(images: Tensor, patch: int) -> Tensor:
    """``(B, C, H, W)`` → ``(B, h·w, p·p·C)``: patches row-major, in each the pixels row-major with channels last.

    Leftover pixels are dropped, as the encoder's stem drops them.
    """
    batch, channels, height, width = images.shape
    h, w = height // patch, width // patch
    cells = images[..., : h * patch, : w * patch].reshape(batch, channels, h, patch, w, patch)
    return cells.permute(0, 2, 4, 3, 5, 1).reshape(batch, h * w, patch * patch * channels)


def unpatchify(patches: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """Inverse of :func:`patchify`: ``(B, h·w, p·p·C)`` → ``(B, C, h·p, w·p)``."""
    batch, (h, w) = len(patches), grid
    cells = patches.reshape(batch, h, w, patch, patch, -1)
    return cells.permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, h * patch, w * patch)


def pixel_target(patches: Tensor, *, normalised: bool) -> Tensor:
    """``(B, N, p·p·C)`` in float32, as they are or each patch as (x − mean) / √(var + 1e-6) with the unbiased variance."""
    patches = patches.float()
    if not normalised:
        return patches
    mean, spread = patches.mean(dim=-1, keepdim=True), patches.var(dim=-1, keepdim=True)
    return (patches - mean) / torch.sqrt(spread + PIXEL_EPS)
