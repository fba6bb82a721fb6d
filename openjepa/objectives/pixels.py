"""Pixels as targets: cutting images into patches, and the per-patch normalisation of MAE (2111.06377 §3)."""

from __future__ import annotations

import torch
from torch import Tensor

PIXEL_EPS = 1e-6


def patchify(images: Tensor, patch: int, tubelet: int | None = None) -> Tensor:
    """``(B, C, H, W)`` → ``(B, h·w, p·p·C)``: patches row-major, in each the pixels row-major with channels last.

    With ``tubelet`` frames per token ``(B, C, T, H, W)`` → ``(B, t·h·w, tubelet·p·p·C)``, frames of a token one after the
    other. Leftover pixels and frames are dropped, as the encoder's stem drops them.
    """
    if tubelet is None:
        images, tubelet = images[:, :, None], 1
    batch, channels, frames, height, width = images.shape
    t, h, w = frames // tubelet, height // patch, width // patch
    cut = images[:, :, : t * tubelet, : h * patch, : w * patch]
    cells = cut.reshape(batch, channels, t, tubelet, h, patch, w, patch)
    return cells.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(batch, t * h * w, tubelet * patch * patch * channels)


def unpatchify(patches: Tensor, grid: tuple[int, ...], patch: int, tubelet: int | None = None) -> Tensor:
    """Inverse of :func:`patchify`: ``(B, N, …)`` → ``(B, C, h·p, w·p)``, or ``(B, C, t·tubelet, h·p, w·p)``."""
    t, h, w = grid if len(grid) == 3 else (1, *grid)
    cells = patches.reshape(len(patches), t, h, w, tubelet or 1, patch, patch, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
    clip = cells.reshape(len(patches), cells.shape[1], t * (tubelet or 1), h * patch, w * patch)
    return clip[:, :, 0] if tubelet is None else clip


def pixel_target(patches: Tensor, *, normalised: bool, channels: int | None = None) -> Tensor:
    """``(B, N, V)`` in float32, as they are or each patch as (x − mean) / √(var + 1e-6) with the unbiased variance.

    channels: normalise each of so many channels of a token by itself, (x − mean) / (√var + 1e-6), as VideoMAE's code does.
    """
    patches = patches.float()
    if not normalised:
        return patches
    if channels is not None:
        split = patches.unflatten(-1, (-1, channels))  # (B, N, tubelet·p·p, C)
        mean, spread = split.mean(dim=-2, keepdim=True), split.var(dim=-2, keepdim=True)
        return ((split - mean) / (spread.sqrt() + PIXEL_EPS)).flatten(-2)
    mean, spread = patches.mean(dim=-1, keepdim=True), patches.var(dim=-1, keepdim=True)
    return (patches - mean) / torch.sqrt(spread + PIXEL_EPS)
