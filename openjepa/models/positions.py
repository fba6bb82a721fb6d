"""Fixed 2-D sine–cosine position tables in both published channel orders, and their interpolation to other grids."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Order = Literal["column_first", "row_first"]


def sincos1d(dim: int, positions: Tensor) -> Tensor:
    """Sine–cosine features of 1-D positions: ``[sin(m ω_0..), cos(m ω_0..)]`` with ω_i = 10000^(−2i/dim), in float64.

    Args:
        dim: width, even. positions: ``(M,)``.

    Returns:
        ``(M, dim)`` float64.
    """
    assert dim % 2 == 0, dim
    omega = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) * 2 / dim)
    angle = positions.to(torch.float64)[:, None] * omega  # (M, dim/2)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def sincos2d(dim: int, grid: tuple[int, int], order: Order = "column_first") -> Tensor:
    """Position table of an ``h × w`` grid (I-JEPA 2301.08243; official.md §1.5).

    ``column_first`` (I-JEPA): the first half of the channels encodes the column, the second the row.
    ``row_first`` (V-JEPA's image mode): the other way round. ``dim`` must be a multiple of 4.

    Returns:
        ``(h·w, dim)`` float32, row-major.
    """
    assert dim % 4 == 0, dim
    height, width = grid
    rows = torch.arange(height).repeat_interleave(width)
    columns = torch.arange(width).repeat(height)
    first, second = (columns, rows) if order == "column_first" else (rows, columns)
    return torch.cat([sincos1d(dim // 2, first), sincos1d(dim // 2, second)], dim=1).float()


def resample_positions(table: Tensor, native: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Bicubic interpolation of a position table to another, possibly non-square grid.

    The published code took token 0 for a class token and allowed squares only (official.md §1.5); this does neither.

    Args:
        table: ``(h·w, D)`` for the ``native`` grid.

    Returns:
        ``(h'·w', D)`` in the dtype of ``table``.
    """
    if native == grid:
        return table
    image = table.float().reshape(1, *native, -1).permute(0, 3, 1, 2)  # (1, D, h, w)
    image = F.interpolate(image, size=grid, mode="bicubic", align_corners=False)
    return image.flatten(2).squeeze(0).T.to(table.dtype)
