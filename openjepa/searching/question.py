"""What may be asked with: an item of the index, a file, a picture, or a vector; and what then may not answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openjepa.errors import DataError, nearest
from openjepa.searching.exact import Floats
from openjepa.searching.hits import Asked
from openjepa.searching.index import Index
from openjepa.searching.table import Table

#: Features ``(D,)`` of a file, an image or a clip, as the index has them; the second argument is a time in seconds, or None.
Embedder = Callable[[Any, float | None], NDArray[np.floating]]

_LOOKED_AT = 5000  # names compared with a misspelt one


@dataclass(frozen=True)
class Question:
    """A query ready to be compared. vector: ``(D,)`` of length 1. itself: rows that are the query and may not answer."""

    asked: Asked
    vector: Floats
    itself: frozenset[int] = frozenset()


def understand(index: Index, query: Any, *, embed: Embedder | None = None, at: float | None = None) -> Question:
    """Turn what a user gave into a vector.

    Args:
        query: an id of the index, a path (one of the index costs no encoder), a vector ``(D,)``, or anything ``embed`` takes.
        embed: how a file that is not in the index becomes features. at: seconds into a video.

    Raises:
        DataError: nothing of that name, several windows of one video and no ``at``, or features that do not fit.
    """
    if isinstance(query, str | Path):
        row = _row_named(index.table, str(query), at)
        if row is not None:
            return _of_row(index, row)
        if not Path(query).exists():
            raise DataError(_nothing_named(index.table, str(query)))
        asked = Asked(str(query), str(query), at)
    else:
        vector = _as_vector(query)
        if vector is not None:
            return Question(Asked("a vector"), index.project(vector[None])[0])
        asked = Asked(f"a {type(query).__name__}")
    if embed is None:
        raise DataError(f"{asked.text} is not in the index, and there is no model to embed it with")
    return Question(asked, index.project(np.asarray(embed(query, at))[None])[0])


def _of_row(index: Index, row: int) -> Question:
    """A row of the index as a question; neither it nor windows that overlap it answer."""
    table = index.table
    times = table.times(row)
    itself = {row}
    if times is not None:
        for other in table.windows(row).tolist():
            theirs = table.times(other)
            if theirs is not None and theirs[0] < times[1] and times[0] < theirs[1]:
                itself.add(other)
    middle = None if times is None else sum(times) / 2
    asked = Asked(table.ids[row], table.files[row], middle)
    return Question(asked, np.array(index.unit[row]), frozenset(itself))


def _row_named(table: Table, name: str, at: float | None) -> int | None:
    """The row with this id, or of this item or file; None when there is none."""
    row = table.row_of.get(name)
    if row is not None and at is None:
        return row
    rows = _rows_named(table, name) if row is None else table.windows(row).tolist()
    if not rows:
        return None
    if at is not None:
        return _window_at(table, rows, name, at)
    if len(rows) > 1:
        windows = all(table.items[rows] == table.items[rows[0]])
        what = "windows in the index: say which by --at SECONDS, or give an id" if windows else "items: give an id"
        raise DataError(f"'{name}' has {len(rows):,} {what} such as '{table.ids[rows[0]]}'")
    return rows[0]


def _rows_named(table: Table, name: str) -> list[int]:
    """The rows of a file, or the windows of an item; their ids are the item's and ``@seconds``."""
    found = table.rows_in.get(name) or table.rows_in.get(os.path.abspath(name))
    return found or [row for row, known in enumerate(table.ids) if known.startswith(f"{name}@")]


def _window_at(table: Table, rows: Sequence[int], name: str, at: float) -> int:
    """The window of a video whose middle is nearest to ``at``, among those that hold it."""
    spans = {row: times for row in rows if (times := table.times(row)) is not None}
    if not spans:
        raise DataError(f"'{name}' has no times in the index: --at is for videos")
    holding = {row: abs((a + b) / 2 - at) for row, (a, b) in spans.items() if a <= at <= b}
    if not holding:
        last = max(b for _, b in spans.values())
        raise DataError(f"'{name}' has no window at {at:g} s: its windows end at {last:g} s")
    return min(holding, key=lambda row: (holding[row], row))


def _nothing_named(table: Table, name: str) -> str:
    """What to say of a name that is neither in the index nor a file."""
    start = os.path.basename(name)[:2].lower()
    alike = [known for known in table.ids if os.path.basename(known)[:2].lower() == start][:_LOOKED_AT]
    return f"'{name}' is neither an id of {table.path} nor a file{nearest(name, alike or table.ids[:_LOOKED_AT])}"


def _as_vector(query: Any) -> NDArray[np.floating] | None:
    """A 1-D array or tensor of numbers; None for anything else."""
    if getattr(query, "ndim", None) != 1:
        return None
    return np.asarray(query.detach().cpu() if hasattr(query, "detach") else query, dtype=np.float32)
