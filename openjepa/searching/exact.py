"""The rows most like a query by brute force: one pass over the unit vectors, a block at a time.

Blocks are multiplied in float32 and their best rows kept; the cosines of the rows that remain are computed again in float64,
so that equal rows have equal cosines and a tie goes to the smaller row number.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

_BLOCK_BYTES = 64 * 2**20  # of vectors multiplied at once
_MARGIN = 16  # rows kept beyond k, so that float32 rounding of the product loses none (a near-tie of more is a tie)


def exact_topk(unit: Floats, queries: Floats, k: int, *, rows: Rows | None = None) -> tuple[NDArray[np.float64], Rows]:
    """The ``k`` rows with the largest product with each query.

    Args:
        unit: ``(N, D)`` float32, rows of length 1 (or 0); may be memory-mapped, and is read once, in order.
        queries: ``(Q, D)`` float32 of length 1. k: at most the number of rows searched.
        rows: the row numbers to search, ascending; None searches all.

    Returns:
        ``(cosine (Q, k) float64, row (Q, k) int64)``, the most alike first.
    """
    count = len(unit) if rows is None else len(rows)
    assert 1 <= k <= count, "the caller limits k"
    asked = torch.from_numpy(np.ascontiguousarray(queries, dtype=np.float32))
    wide = min(k + _MARGIN, count)
    best = torch.full((len(asked), 0), -torch.inf)
    places = torch.empty((len(asked), 0), dtype=torch.int64)
    for start, block in _blocks(unit, rows):
        product = asked @ block.T  # (Q, block)
        values, where = product.topk(min(wide, product.shape[1]), dim=1)
        best, places = torch.cat([best, values], 1), torch.cat([places, where + start], 1)
        if best.shape[1] > wide:
            best, order = best.topk(wide, dim=1)
            places = places.gather(1, order)
    found = places.numpy() if rows is None else rows[places.numpy()]
    return rescore(unit, queries, found, k)


def rescore(unit: Floats, queries: Floats, found: Rows, k: int) -> tuple[NDArray[np.float64], Rows]:
    """Order candidate rows by their float64 cosine: the best ``k`` of ``found (Q, M)``; row −1 means no candidate."""
    cosine = np.full(found.shape, -np.inf)
    ordered = np.sort(found, axis=1)  # ascending rows, kept among equals by the stable sort below
    for q, candidates in enumerate(ordered):
        real = candidates >= 0
        vectors = np.asarray(unit[candidates[real]], dtype=np.float64)
        cosine[q, real] = (vectors * queries[q].astype(np.float64)).sum(1)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosine, order, 1), np.take_along_axis(ordered, order, 1)


def _blocks(unit: Floats, rows: Rows | None) -> Iterator[tuple[int, torch.Tensor]]:
    """Blocks of the searched vectors and where each begins."""
    step = max(1, _BLOCK_BYTES // (4 * unit.shape[1]))
    for start in range(0, len(unit) if rows is None else len(rows), step):
        part = unit[start : start + step] if rows is None else unit[rows[start : start + step]]
        yield start, torch.from_numpy(part)
