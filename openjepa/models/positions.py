"""Fixed sine–cosine position tables of images and clips in the published channel orders, for any grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from openjepa.errors import ConfigError
from openjepa.models.rotary import Pairing, axis_width, rotary3d

Order = Literal["column_first", "row_first"]
Kind = Literal["sincos2d", "sincos3d", "sinusoid", "rope3d", "learned", "coordinates"]
Grid = tuple[int, ...]


@dataclass(frozen=True)
class Positions:
    """Which positions a network has. kind: table added to tokens, or rotary (``rope3d``) inside every attention.

    order: of sincos2d's halves. uniform_power: of sincos3d's thirds. pairing: of rope3d's angles. plane: rows and columns
    that rope3d scales every grid to (V-JEPA 2.1: 16).
    """

    kind: Kind = "sincos2d"
    order: Order = "column_first"
    uniform_power: bool = True
    pairing: Pairing = "interleaved"
    plane: int | None = None

    @property
    def rotary(self) -> bool:
        """Whether positions turn queries and keys instead of being added to tokens."""
        return self.kind == "rope3d"

    def check(self, dim: int, heads: int, what: str) -> None:
        """Raise ConfigError where ``dim`` channels in ``heads`` heads cannot hold these positions."""
        if dim % heads:
            raise ConfigError(
                f"{what} {dim} is not a multiple of its {heads} heads: set {what.rpartition('.')[0]}.heads"
            )
        if self.rotary and (dim // heads % 2 or axis_width(dim // heads) < 2):
            raise ConfigError(
                f"{what} {dim} in {heads} heads gives {dim // heads} channels a head: rope3d needs an even number from 6"
            )
        need = {"sincos2d": 4, "sinusoid": 2, "sincos3d": 2 if self.uniform_power else 8}.get(self.kind, 1)
        if dim % need:
            raise ConfigError(f"{what} {dim} is not a multiple of {need}, which {self.kind} positions need")

    def native_table(self, dim: int, grid: Grid) -> Tensor:
        """The table ``(N, dim)`` of the grid a network is built for."""
        if self.kind == "sincos3d":
            return sincos3d(dim, _three(grid), self.uniform_power)
        if self.kind == "sinusoid":
            return sinusoid(dim, _three(grid))
        return sincos2d(dim, (grid[-2], grid[-1]), self.order)

    def table_for(self, table: Tensor, native: Grid, grid: Grid) -> Tensor:
        """What is added on another ``grid``: ``(N', dim)`` from the native table ``(N, dim)``.

        sincos2d and learned: bicubic interpolation. sincos3d: rows and columns stretched over the native ones, time going
        on frame by frame (a longer clip lasts longer, it is not slower), straight from the formula. sinusoid: time likewise,
        and bicubic interpolation within every frame, since its formula knows no rows.
        """
        if same_grid(native, grid):
            return table
        if self.kind == "sincos3d":
            size = native[-2], native[-1]
            return sincos3d(table.shape[-1], _three(grid), self.uniform_power, native=size).to(table)
        if self.kind == "sinusoid":
            return self._sinusoid_for(table, native, grid)
        return resample_positions(table, (native[-2], native[-1]), (grid[-2], grid[-1]))

    def _sinusoid_for(self, table: Tensor, native: Grid, grid: Grid) -> Tensor:
        """As many tubelets as ``grid`` has, each resampled to its rows and columns.

        Resampling is linear, and frame t is the first one turned by the angle of its first token, sin(a + b) = sin a cos b +
        cos a sin b: one frame is resampled, whatever the length of the clip.
        """
        frames, dim, plane = _three(grid)[0], table.shape[-1], (native[-2], native[-1])
        first = resample_positions(sinusoid(dim, (1, *plane)).to(table), plane, (grid[-2], grid[-1]))  # (h'·w', D)
        sine, cosine = first.unflatten(1, (dim // 2, 2)).unbind(-1)
        start = sincos1d(dim, torch.arange(frames) * plane[0] * plane[1]).to(table)[:, None]  # (t, 1, D)
        turn_sine, turn_cosine = start.chunk(2, dim=-1)
        turned = (turn_sine * cosine + turn_cosine * sine, turn_cosine * cosine - turn_sine * sine)
        return torch.stack(turned, dim=-1).flatten(2).flatten(0, 1)

    def rotation(self, head_dim: int, grid: Grid) -> Tensor:
        """Cosines and sines ``(2, N, head_dim)`` of every token of ``grid``, in whole patches or scaled to ``plane``."""
        return rotary3d(head_dim, _three(grid), self.pairing, self.plane)


def same_grid(native: Grid, grid: Grid) -> bool:
    """Whether ``grid`` is the native one. While a network is exported for any size, sizes are symbols: then it never is.

    (A comparison of symbols would bind the exported graph to one answer; the general formulas give the native table too.)
    """
    if torch.compiler.is_exporting() and any(isinstance(side, torch.SymInt) for side in grid):
        return False
    return native == grid


def _three(grid: Grid) -> tuple[int, int, int]:
    """An image's grid is that of a clip of one tubelet."""
    return (1, *grid) if len(grid) == 2 else (grid[0], grid[1], grid[2])


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


def sincos3d(
    dim: int, grid: tuple[int, int, int], uniform_power: bool = True, native: tuple[int, int] | None = None
) -> Tensor:
    """Position table of a ``t × h × w`` grid, channels [time | row | column] (V-JEPA 2404.08471; official.md §1.5).

    uniform_power: each axis has 2·⌈dim/6⌉ channels and the whole is cut to ``dim`` from the right (all published
    weights); else dim/2 for time and dim/4 for row and column. native: rows and columns of the grid the network was built
    for: patch centres are then placed over it, at fractions of its patches.

    Returns:
        ``(t·h·w, dim)`` float32, time-major.
    """
    frames, height, width = grid
    high, wide = native or (height, width)
    time = torch.arange(frames, dtype=torch.float64)
    rows = (torch.arange(height, dtype=torch.float64) + 0.5) * (high / height) - 0.5
    columns = (torch.arange(width, dtype=torch.float64) + 0.5) * (wide / width) - 0.5
    third = 2 * -(-dim // 6)
    widths = (third, third, third) if uniform_power else (dim // 2, dim // 4, dim // 4)
    parts = [sincos1d(size, axis) for size, axis in zip(widths, (time, rows, columns), strict=True)]
    table = torch.cat(
        [
            parts[0][:, None, None].expand(frames, height, width, -1),
            parts[1][None, :, None].expand(frames, height, width, -1),
            parts[2][None, None, :].expand(frames, height, width, -1),
        ],
        dim=-1,
    )
    return table[..., :dim].reshape(frames * height * width, dim).float()


def sinusoid(dim: int, grid: tuple[int, int, int]) -> Tensor:
    """Position table of a ``t × h × w`` grid whose tokens are counted through, as in a text (VideoMAE 2203.12602, its code).

    Token m has sin(m ω_i) in channel 2i and cos(m ω_i) in channel 2i + 1, ω_i = 10000^(−2i/dim) (1706.03762 §3.5).

    Returns:
        ``(t·h·w, dim)`` float32, time-major.
    """
    half = sincos1d(dim, torch.arange(math.prod(grid)))  # all sines, then all cosines
    return half.unflatten(1, (2, dim // 2)).transpose(1, 2).flatten(1).float()


def resample_positions(table: Tensor, native: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Bicubic interpolation of a position table to another, possibly non-square grid.

    The published code took token 0 for a class token and allowed squares only (official.md §1.5); this does neither.

    Args:
        table: ``(h·w, D)`` for the ``native`` grid, or ``(t·h·w, D)``, as many times over: each is resampled by itself.

    Returns:
        ``(h'·w', D)``, or ``(t·h'·w', D)``, in the dtype of ``table``.
    """
    if same_grid(native, grid):
        return table
    image = table.float().reshape(-1, *native, table.shape[-1]).permute(0, 3, 1, 2)  # (t, D, h, w)
    image = F.interpolate(image, size=grid, mode="bicubic", align_corners=False)
    return image.permute(0, 2, 3, 1).flatten(0, 2).to(table.dtype)
