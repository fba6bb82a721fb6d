"""Near duplicates: rows whose features are almost the same, in groups around one of them.

Every member of a group is at least as like its first row as the threshold says; nothing is chained, so two members may be a
little less alike than that. Rows of one item (windows of a video) are never each other's duplicates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from openjepa.errors import ConfigError, DataError
from openjepa.searching.exact import Rows
from openjepa.searching.index import Index

# Of centred cosines. Of a tiny encoder trained for three minutes on photographs, copies saved anew as JPEG or at 0.7 of their
# size have 0.996 or more (95 % of them), and 8 in a million pairs of different pictures 0.99.
THRESHOLD = 0.99
_EXACT_ROWS = 50_000  # up to here every pair is compared
_BLOCK = 2048
_NEIGHBOURS = 32  # per row, where the approximate index proposes pairs
_PROBES = 8  # lists read per row: near duplicates lie in the same list, or in one beside it
_CODED = 0.02  # how far cosines of codes may be off
_MOST_PAIRS = 5_000_000
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Group:
    """Rows that show nearly the same, the first being the one to keep. similarity: cosine of each to the first."""

    rows: tuple[int, ...]
    similarity: tuple[float, ...]


@dataclass(frozen=True)
class Duplicates:
    """Near-duplicate groups of an index. searched: rows looked at. pairs: above the threshold. method: exact or not."""

    index: Index
    groups: tuple[Group, ...]
    threshold: float
    searched: int
    pairs: int
    method: str

    @property
    def extra(self) -> int:
        """Rows that could go: all but the first of each group."""
        return sum(len(group.rows) - 1 for group in self.groups)


def group_duplicates(
    index: Index,
    *,
    threshold: float = THRESHOLD,
    allowed: NDArray[np.bool_] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Duplicates:
    """Groups of rows at least ``threshold`` alike, the largest first.

    Up to 50,000 rows, or without an approximate index, every pair is compared; above, each row's 32 nearest.

    Args:
        threshold: cosine above 0, at most 1. allowed: ``(N,)`` rows that count. on_progress: (rows done, rows).

    Raises:
        ConfigError: a threshold outside 0..1. DataError: over five million pairs: the threshold means nothing here.
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"a threshold is a cosine above 0 and at most 1, not {threshold:g}")
    rows = np.arange(len(index)) if allowed is None else np.flatnonzero(allowed)
    exact = index.approximate is None or len(rows) <= _EXACT_ROWS
    proposals = _all_pairs(index, rows, threshold) if exact else _near_pairs(index, rows, allowed, threshold)
    found: list[NDArray[np.int64]] = []
    values: list[NDArray[np.float64]] = []
    total = 0
    for done, left, right in proposals:
        pairs, cosine = _settle(index, left, right, threshold)
        found.append(pairs)
        values.append(cosine)
        total += len(pairs)
        if total > _MOST_PAIRS:
            raise DataError(f"over {_MOST_PAIRS:,} pairs are {threshold:g} alike or more: raise the threshold")
        if on_progress is not None:
            on_progress(done, len(rows))
    found.append(_blank_pairs(index, rows))
    values.append(np.ones(len(found[-1])))
    pairs = np.concatenate(found) if found else np.empty((0, 2), np.int64)
    pairs, once = np.unique(pairs, axis=0, return_index=True)
    cosine = np.concatenate(values)[once]
    groups = _stars(pairs, cosine)
    method = "every pair compared" if exact else f"the {_NEIGHBOURS} nearest of each row, {index.method}"
    return Duplicates(index, groups, threshold, len(rows), len(pairs), method)


def _all_pairs(index: Index, rows: Rows, threshold: float) -> Iterator[tuple[int, Rows, Rows]]:
    """Pairs (smaller row, larger row) whose float32 cosine reaches the threshold, a block of rows at a time."""
    for start in range(0, len(rows), _BLOCK):
        here = torch.from_numpy(np.ascontiguousarray(index.unit[rows[start : start + _BLOCK]]))
        for other in range(start, len(rows), _BLOCK):
            there = torch.from_numpy(np.ascontiguousarray(index.unit[rows[other : other + _BLOCK]]))
            close = (here @ there.T >= threshold - _ROUNDING).nonzero().numpy()
            left, right = close[:, 0] + start, close[:, 1] + other
            ordered = left < right
            yield min(start + _BLOCK, len(rows)), rows[left[ordered]], rows[right[ordered]]


def _near_pairs(
    index: Index, rows: Rows, allowed: NDArray[np.bool_] | None, threshold: float
) -> Iterator[tuple[int, Rows, Rows]]:
    """Pairs of each row and its nearest, as the approximate index proposes them by its codes."""
    approximate = index.approximate
    assert approximate is not None
    probes = min(_PROBES, approximate.tuning.probes)
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK]
        queries = np.ascontiguousarray(index.unit[part])
        cosine, found = approximate.candidates(queries, _NEIGHBOURS + 1, allowed=allowed, probes=probes)
        left = np.repeat(part, found.shape[1])
        right = found.ravel()
        real = (right >= 0) & (left != right) & (cosine.ravel() >= threshold - _CODED)
        left, right = left[real], right[real]
        yield min(start + _BLOCK, len(rows)), np.minimum(left, right), np.maximum(left, right)


def _settle(index: Index, left: Rows, right: Rows, threshold: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The pairs ``(P, 2)`` that reach the threshold in float64, and their cosines; none within one item."""
    items = index.table.items
    apart = items[left] != items[right]
    left, right = left[apart], right[apart]
    cosine = np.empty(len(left))
    for part in range(0, len(left), _BLOCK):
        a, b = (index.unit[side[part : part + _BLOCK]].astype(np.float64) for side in (left, right))
        cosine[part : part + _BLOCK] = (a * b).sum(1)
    keep = cosine >= threshold - 1e-7  # unit vectors are float32: equal rows have a product of 1 up to this
    return np.stack([left[keep], right[keep]], 1), np.minimum(cosine[keep], 1.0)


def _blank_pairs(index: Index, rows: Rows) -> NDArray[np.int64]:
    """Rows equal to the mean have no direction, but they equal each other: the first of them with every other."""
    blank = rows[~np.concatenate([index.unit[rows[s : s + _BLOCK]].any(1) for s in range(0, len(rows), _BLOCK)])]
    items = index.table.items
    return np.array([(blank[0], b) for b in blank[1:] if items[b] != items[blank[0]]], np.int64).reshape(-1, 2)


def _stars(pairs: NDArray[np.int64], cosine: NDArray[np.float64]) -> tuple[Group, ...]:
    """Groups around the rows with most near duplicates (the earlier row among equals); a row is in one group."""
    near: dict[int, dict[int, float]] = {}
    for (a, b), value in zip(pairs.tolist(), cosine.tolist(), strict=True):
        near.setdefault(a, {})[b] = value
        near.setdefault(b, {})[a] = value
    taken: set[int] = set()
    groups = []
    for row in sorted(near, key=lambda row: (-len(near[row]), row)):
        members = sorted(((-value, other) for other, value in near[row].items() if other not in taken))
        if row in taken or not members:
            continue
        taken |= {row, *(other for _, other in members)}
        groups.append(Group((row, *(other for _, other in members)), (1.0, *(-value for value, _ in members))))
    return tuple(sorted(groups, key=lambda group: (-len(group.rows), group.rows[0])))
