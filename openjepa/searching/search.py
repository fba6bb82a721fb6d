"""Questions to an index: the rows, or the moments within videos, that are most like something."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openjepa.errors import ConfigError
from openjepa.searching.duplicates import THRESHOLD, Duplicates, group_duplicates
from openjepa.searching.filters import allowed
from openjepa.searching.hits import Hits, hit_of
from openjepa.searching.index import Index, open_table
from openjepa.searching.moments import find_moments
from openjepa.searching.question import Embedder, Question, understand
from openjepa.searching.table import Store, table_of


def open_index(
    store: Store,
    *,
    approximate: bool = True,
    centre: bool = True,
    keep: str | Path | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Index:
    """Open a store for questions. From 20,000 rows on a working folder is kept beside it, made again when it changes.

    Args:
        store: opened features. approximate: allow approximate answers. centre: subtract the mean from all vectors.
        keep: the working folder; by default ``<store>.search``. say: hears what takes long.

    Raises:
        DataError: no row has a vector. RunError: the folder cannot be written. MissingExtra: faiss is not installed.
    """
    return open_table(table_of(store), approximate=approximate, centre=centre, keep=keep, say=say)


def search(
    index: Index,
    query: Any,
    *,
    k: int = 10,
    where: Sequence[str] = (),
    at: float | None = None,
    moments: bool = False,
    embed: Embedder | None = None,
) -> Hits:
    """The ``k`` rows most like the query, the best first; fewer where fewer meet the conditions.

    Args:
        query: id of the index, path, vector ``(D,)``, or what ``embed`` takes. k: how many. where: conditions
            (:mod:`openjepa.searching.filters`). at: seconds into a video. moments: join neighbouring windows of a video.
        embed: features of what is not in the index.

    Raises:
        DataError, ConfigError: one line each, see :func:`understand`, :func:`allowed` and :func:`find_moments`.
    """
    if k < 1:
        raise ConfigError(f"k={k}: ask for at least one answer")
    mask = allowed(where, index.table.columns, len(index)) if where else None
    question = understand(index, query, embed=embed, at=at)
    start = time.perf_counter()
    found = _moments(index, question, k, mask) if moments else _rows(index, question, k, mask)
    seconds = time.perf_counter() - start
    hits = tuple(hit_of(index, rank, *entry) for rank, entry in enumerate(found, 1))
    return Hits(question.asked, hits, index.method, seconds)


def find_duplicates(
    index: Index,
    *,
    threshold: float = THRESHOLD,
    where: Sequence[str] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> Duplicates:
    """Near duplicates among the rows that meet the conditions. See :func:`group_duplicates`."""
    mask = allowed(where, index.table.columns, len(index)) if where else None
    return group_duplicates(index, threshold=threshold, allowed=mask, on_progress=on_progress)


_Entry = tuple[int, float, tuple[float, float] | None]


def _rows(index: Index, question: Question, k: int, mask: NDArray[np.bool_] | None) -> list[_Entry]:
    """Row, cosine and no times."""
    cosine, rows = index.nearest(question.vector[None], k + len(question.itself), allowed=mask)
    found: list[_Entry] = []
    for row, value in zip(rows[0].tolist(), cosine[0].tolist(), strict=True):
        if row >= 0 and row not in question.itself:
            found.append((row, value, None))
    return found[:k]


def _moments(index: Index, question: Question, k: int, mask: NDArray[np.bool_] | None) -> list[_Entry]:
    """Best row, its cosine, and where the moment begins and ends."""
    if question.itself:
        mask = np.ones(len(index), dtype=np.bool_) if mask is None else mask.copy()
        mask[list(question.itself)] = False
    found = find_moments(index, question.vector, k, mask)
    return [(moment.row, moment.similarity, (moment.start, moment.end)) for moment in found]
