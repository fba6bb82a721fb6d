"""Geometry of rectangular blocks on a patch grid, and the way from cells to ids. Shared by every block masker.

Positions count from the top left; a grid cell ``(row, column)`` has id ``row · width + column``.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from openjepa.masking.draws import Floats, Integers, UInts, integers, ranks
from openjepa.types import Ids

Borders = Literal["full", "clip", "release"]
Cells = npt.NDArray[np.bool_]
Pair = tuple[float, float]
LONG = 4096  # cells from which rows are faster one by one: numpy counts and finds bools of a row many at a time
CHUNK = 128  # rows drawn at a time: a word per cell then stays in the cache, 1.6 times faster for a batch of 2,048


def block_size(
    scale_draw: float, aspect_draw: float, scale: Pair, aspect: Pair, grid: tuple[int, int], borders: Borders = "full"
) -> tuple[int, int]:
    """Height and width of a block from two uniforms in [0, 1) (2301.08243 §3; numbers as the published code rounds them).

    ``s`` and ``r`` are the draws mapped linearly into ``scale`` (share of the grid) and ``aspect`` (height over width);
    ``k = int(h·w·s)``, height ``round(√(k·r))``, width ``round(√(k/r))``, halves to even; at least one cell. The
    published size draw passes one uniform twice.

    ``borders='release'`` allows at most grid−1 a side and simply cuts what is longer, as I-JEPA's code does; 'clip' cuts
    at the grid, as V-JEPA's does. 'full' allows the whole side too; what does not fit in one direction goes to the other,
    so that long grids get the area that was asked for.
    """
    height, width = grid
    share = scale[0] + scale_draw * (scale[1] - scale[0])
    ratio = aspect[0] + aspect_draw * (aspect[1] - aspect[0])
    area = max(1, int(height * width * share))
    rows, columns = max(1, round((area * ratio) ** 0.5)), max(1, round((area / ratio) ** 0.5))
    if borders == "release":
        return min(rows, height - 1), min(columns, width - 1)
    if borders == "clip":
        return min(rows, height), min(columns, width)
    if rows > height:
        return height, min(width, max(columns, round(area / height)))
    if columns > width:
        return min(height, max(rows, round(area / width))), width
    return rows, columns


def corner_counts(size: tuple[int, int], grid: tuple[int, int], borders: Borders = "full") -> tuple[int, int]:
    """How many rows and columns the top left corner may take: inclusive, or exclusive of the last as published."""
    more = 0 if borders == "release" else 1
    return grid[0] - size[0] + more, grid[1] - size[1] + more


def corners(uniform: Floats, counts: tuple[int, int] | Integers) -> Integers:
    """Top left corners ``(…, 2)`` from uniforms ``(…, 2)``; ``counts`` from :func:`corner_counts`, or one pair per block."""
    return integers(uniform, np.asarray(counts, dtype=np.int64))


def block_ids(corner: Integers, size: tuple[int, int], width: int) -> Integers:
    """Ids of equal-sized blocks, ascending: corners ``(…, 2)`` → ``(…, rows·columns)``."""
    inside = (np.arange(size[0])[:, None] * width + np.arange(size[1])).reshape(-1)
    start = np.ascontiguousarray(corner[..., 0] * width + corner[..., 1])  # C order, and so the result
    return start[..., None] + inside


def block_cells(corner: Integers, size: tuple[int, int] | tuple[Integers, Integers], grid: tuple[int, int]) -> Cells:
    """Cells covered by blocks: corners ``(…, 2)`` and one size (or one per block) → ``(…, h, w)`` bool."""
    top, left = corner[..., 0, None], corner[..., 1, None]
    rows, columns = (np.asarray(side)[..., None] for side in size)
    row, column = np.arange(grid[0]), np.arange(grid[1])
    in_rows = (row >= top) & (row < top + rows)  # (…, h)
    in_columns = (column >= left) & (column < left + columns)  # (…, w)
    return in_rows[..., :, None] & in_columns[..., None, :]


def covered(corner: Integers, size: tuple[int, int], grid: tuple[int, int]) -> Cells:
    """Union of each sample's equal-sized blocks: corners ``(B, T, 2)`` → ``(B, h, w)`` bool; T = 0 covers nothing.

    A block has few places to be: on small grids each is drawn once and looked up, four times faster than drawing all.
    """
    union = np.zeros((len(corner), *grid), dtype=np.bool_)
    rows, columns = corner_counts(size, grid)
    places = np.indices((rows, columns)).transpose(1, 2, 0).reshape(-1, 2)
    if len(places) > len(corner):
        for block in range(corner.shape[1]):  # over the few blocks of a sample, never over samples
            union |= block_cells(corner[:, block], size, grid)
        return union
    table = block_cells(places, size, grid)
    place = corner[..., 0] * columns + corner[..., 1]
    for block in range(corner.shape[1]):
        union |= table[place[:, block]]
    return union


def row_counts(cells: Cells) -> Integers:
    """True cells of each row of ``(B, N)``."""
    if cells.shape[1] < LONG:
        return np.count_nonzero(cells, axis=1)
    return np.fromiter((np.count_nonzero(row) for row in cells), np.int64, len(cells))


def cells_to_ids(cells: Cells, *, padded: bool | None) -> Ids:
    """Ascending ids of the true cells of each row of ``(B, N)``.

    padded: pad to the longest row with the row's own first id, marked in ``valid``; else rows must be equally long. None:
    pad when they are not. Every row needs at least one true cell.
    """
    counts = row_counts(cells)
    longest = int(counts.max())
    assert counts.min() > 0, "a sample without tokens"
    if padded is None:
        padded = bool(counts.min() < longest)
    assert padded or counts.min() == longest, "rows of unequal length need padding"
    if cells.shape[1] >= LONG:
        return _long_rows_to_ids(cells, counts, longest, padded)
    flat = np.flatnonzero(cells)  # row-major: rows in order, ids ascending inside
    flat -= np.repeat(np.arange(len(cells)) * cells.shape[1], counts)
    if not padded:
        return Ids(torch.from_numpy(flat.reshape(len(cells), longest)))
    valid = np.arange(longest) < counts[:, None]
    index = np.empty(valid.shape, dtype=np.int64)
    index[:] = flat[np.cumsum(counts) - counts][:, None]  # padding takes the first of its row
    index[valid] = flat
    return Ids(torch.from_numpy(index), torch.from_numpy(valid))


def _long_rows_to_ids(cells: Cells, counts: Integers, longest: int, padded: bool) -> Ids:
    index = np.empty((len(cells), longest), dtype=np.int64)
    for row, ids in enumerate(map(np.flatnonzero, cells)):
        index[row, : len(ids)] = ids
        index[row, len(ids) :] = ids[0]
    valid = np.arange(longest) < counts[:, None] if padded else None
    return Ids(torch.from_numpy(index), None if valid is None else torch.from_numpy(valid))


def first_cells(cells: Cells, count: int | Integers) -> Cells:
    """Only the first ``count`` (one number, or ``(B, 1)``) true cells of each row of ``(B, N)``."""
    return cells & (np.cumsum(cells, axis=1, dtype=np.int32) <= count)


def lowest_cells(cells: Cells, count: int, words: Integers) -> Cells:
    """Only ``count`` true cells of each row of ``(B, N)``, those of the lowest of distinct ``words`` (B, N).

    Every row must have at least ``count`` true cells.
    """
    masked = np.where(cells, words, np.iinfo(np.int64).max)
    lowest = np.partition(masked, count - 1, axis=1)
    return masked <= lowest[:, count - 1 : count]


def random_cells(cells: Cells, count: int, keys: UInts) -> Cells:
    """Only ``count`` true cells of each row of ``(B, N)``, drawn at random from the row's own key ``(B,)``."""
    kept = np.empty_like(cells)
    for start in range(0, len(cells), CHUNK):
        rows = slice(start, start + CHUNK)
        kept[rows] = lowest_cells(cells[rows], count, ranks(keys[rows], cells.shape[1]))
    return kept
