"""Rotary positions of clips (V-JEPA 2 2506.09985; official.md §1.6): queries and keys turn by time, row and column.

A head of width a gives each axis e = 2·⌊⌊a/3⌋/2⌋ channels, in the order [time | row | column | rest not turned]. Channel c of
an axis turns with its neighbour in the pair (0,1), (2,3), …; with n = e/2 and position m the angles are m·10000^(−j/n).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Pairing = Literal["interleaved", "tiled"]


def axis_width(head_dim: int) -> int:
    """Channels of a head that turn with one axis."""
    return 2 * (head_dim // 3 // 2)


def rotary3d(
    head_dim: int, grid: tuple[int, int, int], pairing: Pairing = "interleaved", plane: int | None = None
) -> Tensor:
    """Tables for :func:`rotate`: cosines, and sines with the sign of the first of a pair turned, ``(2, N, head_dim)`` float32.

    ``interleaved``: both channels of a pair have the angle j = ⌊c/2⌋: a rotation. ``tiled``: channel c has the angle
    j = c mod n, as in the published V-JEPA 2 code, whose weights depend on it; the two channels of a pair then differ, and
    scores depend only nearly on relative position. Computed in float64.

    plane: rows and columns are scaled to run from 0 to plane − 1 whatever their number, time is not (V-JEPA 2.1
    2603.14482: 16, the grid of 256 px); a single row or column stays at 0. None: whole patches, never scaled.
    """
    frames, height, width = grid
    rows, columns = (_spread(count, plane) for count in (height, width))
    sides = (torch.arange(frames)[:, None, None], rows[:, None], columns)
    axes = [
        side.expand(frames, height, width).flatten() for side in sides
    ]  # no division: sizes may be symbols in export
    return rotation_at(head_dim, axes, pairing)


def _spread(count: int, plane: int | None) -> Tensor:
    """Places of ``count`` rows: 0, 1, 2, …, or from 0 to ``plane`` − 1 in float64."""
    places = torch.arange(count)
    return places if plane is None else places.double().mul((plane - 1) / torch.sym_max(count - 1, 1))


def rotation_at(head_dim: int, axes: Sequence[Tensor], pairing: Pairing = "interleaved") -> Tensor:
    """Tables as those of :func:`rotary3d` for tokens anywhere: ``axes`` are their times, rows and columns, ``(N,)`` each."""
    size = axis_width(head_dim)
    pairs = size // 2
    frequency = 10000.0 ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    frequency = frequency.repeat_interleave(2) if pairing == "interleaved" else frequency.repeat(2)
    angle = torch.cat([axis[:, None].double() * frequency for axis in axes], dim=1)  # (N, 3e)
    angle = torch.nn.functional.pad(angle, (0, head_dim - 3 * size))  # the rest keeps its place: cos 1, sin 0
    sine = angle.sin()
    sine[:, 0::2] *= -1
    return torch.stack([angle.cos(), sine]).float()


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Turn ``x (…, N, d)`` by ``rope (2, …, N, d)``: x[2i] cos − x[2i+1] sin, x[2i+1] cos + x[2i] sin.

    Tables are float32, and so is the product; :func:`openjepa.models.transformer.residual` makes both bfloat16 under autocast
    on a CPU. That rounds finished cosines, never angles: the error of a turned channel about doubles, to 2⁻⁸ of its size.
    """
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return (x * rope[0]).addcmul_(swapped, rope[1]).to(x.dtype)


def pick_rotation(table: Tensor, index: Tensor | None, prefix: int = 0) -> Tensor:
    """``rope`` for :func:`rotate` from a whole grid's ``table (2, N, d)``: ``(2, B or 1, 1, prefix + K, d)``.

    index: ``(B, K)`` token ids; None: the whole grid. prefix: tokens in front that have no position and do not turn.
    """
    rope = table[:, None] if index is None else table[:, index]  # (2, B, K, d)
    if prefix:
        still = torch.zeros(*rope.shape[:2], prefix, rope.shape[-1], dtype=rope.dtype, device=rope.device)
        still[0] = 1
        rope = torch.cat([still, rope], dim=2)
    return rope[:, :, None]
