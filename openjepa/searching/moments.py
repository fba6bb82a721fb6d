"""Moments within long videos: where in which video the windows are most like a query, neighbouring windows taken together.

A moment is a peak of similarity over the windows of one video. It reaches as far to both sides as the similarity stays above
half of the peak's height over the video's median window (full width at half maximum), through windows that touch. Windows
that overlap a peak belong to it, so that one event is one moment however finely the windows lie.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openjepa.errors import DataError
from openjepa.searching.exact import Floats, Rows
from openjepa.searching.index import Index
from openjepa.searching.table import Table

_CANDIDATES = 50  # windows looked at per moment wanted


@dataclass(frozen=True)
class Moment:
    """A stretch of one video. row: its best window. similarity: of that window. start, end: seconds of the whole stretch."""

    row: int
    similarity: float
    start: float
    end: float


def find_moments(index: Index, query: Floats, k: int, allowed: NDArray[np.bool_] | None = None) -> list[Moment]:
    """The ``k`` moments most like a unit query ``(D,)``, at most; the best first.

    Videos are found by their best windows, then every window of such a video is compared exactly.

    Raises:
        DataError: the index has no windows with times.
    """
    starts = index.table.columns.get("start", ())
    if not any(isinstance(start, float) and np.isfinite(start) for start in starts):
        raise DataError(f"{index.table.path} has no times: embed videos with --window SECONDS to find moments in them")
    _, best = index.nearest(query[None], max(_CANDIDATES * k, 200), allowed=allowed)
    candidates = set(best[0][best[0] >= 0].tolist())
    found: list[Moment] = []
    firsts = {int(index.table.items[row]): int(row) for row in best[0][::-1] if row >= 0}
    for first in firsts.values():
        rows = index.table.windows(first)
        rows = rows if allowed is None else rows[allowed[rows]]
        found += _in_video(index, query, rows, candidates, k)
    return sorted(found, key=lambda moment: (-moment.similarity, moment.row))[:k]


def spans(table: Table, rows: Rows) -> NDArray[np.float64]:
    """Beginning and end of each row ``(n, 2)`` in seconds; not-a-number where a row has none."""
    times = (table.times(int(row)) for row in rows)
    return np.array([(np.nan, np.nan) if pair is None else pair for pair in times], dtype=np.float64).reshape(-1, 2)


def _in_video(index: Index, query: Floats, rows: Rows, candidates: set[int], most: int) -> list[Moment]:
    """Peaks among the windows of one video, the highest first."""
    span = spans(index.table, rows)
    known = ~np.isnan(span).any(1)
    rows, span = rows[known], span[known]
    order = np.lexsort((rows, span[:, 0]))
    rows, span = rows[order], span[order]
    similarity = index.unit[rows].astype(np.float64) @ query.astype(np.float64)
    floor = float(np.median(similarity)) if len(rows) else 0.0
    free = np.ones(len(rows), dtype=np.bool_)
    found: list[Moment] = []
    while free.any() and len(found) < most:
        peak = int(np.argmax(np.where(free, similarity, -np.inf)))
        if int(rows[peak]) not in candidates:
            break  # the rest is less alike than what other videos have
        half = (float(similarity[peak]) + floor) / 2
        first, last = (_reach(span, (similarity >= half) & free, peak, step) for step in (-1, 1))
        start, end = float(span[first, 0]), float(span[first : last + 1, 1].max())
        found.append(Moment(int(rows[peak]), float(similarity[peak]), start, end))
        free[first : last + 1] = False
        free &= ~((span[:, 0] < span[peak, 1]) & (span[peak, 0] < span[:, 1]))
    return found


def _reach(span: NDArray[np.float64], high: NDArray[np.bool_], peak: int, step: int) -> int:
    """The last window from ``peak`` on, going by ``step``, that is high and touches the one before it."""
    here, slack = peak, 1e-3
    while 0 <= here + step < len(high) and high[here + step]:
        earlier, later = sorted((here, here + step))
        if span[later, 0] > span[earlier, 1] + slack:
            break
        here += step
    return here
