"""What search needs of a store of features: its rows that have one, their columns, and the vectors in a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from openjepa.errors import DataError
from openjepa.searching.exact import Floats

_BLOCK_BYTES = 32 * 2**20  # of features read at once


class Store(Protocol):
    """A store of features as :func:`openjepa.embedding.open_store` opens it; this room does not import that one.

    stamp differs when the content does.
    """

    @property
    def path(self) -> Path:
        """Where it lies."""
        ...

    @property
    def ids(self) -> Sequence[str]:
        """Unique names of the rows."""
        ...

    @property
    def paths(self) -> Sequence[str]:
        """Files of the rows, ``""`` where an item has none."""
        ...

    @property
    def meta(self) -> Mapping[str, NDArray[Any]]:
        """Further columns: ``index`` of the item, ``label`` (-1: none), ``start``, ``end`` in seconds (NaN: none), …"""
        ...

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Rows that have features."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row's features."""
        ...

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the labels."""
        ...

    @property
    def stamp(self) -> str:
        """Of the content."""
        ...

    def __len__(self) -> int:
        """All rows."""
        ...

    def chunks(self, rows: int = ...) -> Iterator[NDArray[np.float32]]:
        """Features ``(n, *shape)`` of so many rows at a time, in order."""
        ...


@dataclass(frozen=True)
class Table:
    """The rows of a store that hold a feature; rows whose file could not be read are left out.

    Attributes:
        path: of the store. ids, files: per row; a file may hold several items (a shard), ``""`` is none.
        items: ``(N,)`` number of the item of each row; windows of one video share it.
        columns: of the conditions, per row, ``id`` and ``path`` among them; None or not-a-number where a row has no value.
        width: of a vector. stream: gives the vectors again and again, in order, as ``(n, width)`` float32 blocks.
        signature: changes whenever the store does. store: what all this comes from.
    """

    path: Path
    ids: Sequence[str]
    files: Sequence[str]
    items: NDArray[np.int64]
    columns: Mapping[str, Sequence[object] | NDArray[Any]]
    width: int
    stream: Callable[[], Iterator[Floats]]
    signature: str
    store: object = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def row_of(self) -> dict[str, int]:
        """The row of each id."""
        return {name: row for row, name in enumerate(self.ids)}

    @cached_property
    def rows_in(self) -> dict[str, list[int]]:
        """The rows of each file."""
        found: dict[str, list[int]] = {}
        for row, name in enumerate(self.files):
            found.setdefault(name, []).append(row)
        return found

    def windows(self, row: int) -> NDArray[np.int64]:
        """All rows of the item that ``row`` belongs to, itself among them."""
        return np.flatnonzero(self.items == self.items[row])

    def times(self, row: int) -> tuple[float, float] | None:
        """Where the clip of a row begins and ends, in seconds; None for images."""
        if "start" not in self.columns or "end" not in self.columns:
            return None
        start, end = (self.columns[name][row] for name in ("start", "end"))
        known = isinstance(start, float) and isinstance(end, float) and start == start and end == end
        return (float(start), float(end)) if known else None  # type: ignore[arg-type]

    def label(self, row: int) -> str:
        """The class of a row in words; empty where it has none."""
        found = self.columns["label"][row] if "label" in self.columns else None
        return "" if found is None else str(found)


def table_of(store: Store) -> Table:
    """The rows of a store that have a feature, with their labels in words where the store names the classes.

    Raises:
        DataError: the rows hold tokens, not one vector each.
    """
    if len(store.shape) != 1:
        shape = "×".join(map(str, store.shape))
        raise DataError(
            f"{store.path} holds {shape} numbers a row: search wants one vector, embed with --tokens pooled"
        )
    rows = np.flatnonzero(store.ok)
    kept = rows.tolist()
    ids, files = ([names[row] for row in kept] for names in (store.ids, store.paths))
    columns: dict[str, Sequence[object] | NDArray[Any]] = {"id": ids, "path": files}
    for name, values in store.meta.items():
        if name not in ("label", "error"):
            columns[name] = values[rows]
    labels = store.meta["label"][rows].tolist() if "label" in store.meta else []
    if any(label >= 0 for label in labels):
        names = store.classes or ()
        columns["label"] = [None if n < 0 else names[n] if n < len(names) else n for n in labels]
    width = store.shape[0]
    items = np.asarray(store.meta["index"][rows], np.int64) if "index" in store.meta else np.arange(len(rows))

    def stream() -> Iterator[Floats]:
        start = 0
        for block in store.chunks(max(1, _BLOCK_BYTES // (4 * width))):
            good = store.ok[start : start + len(block)]
            start += len(block)
            yield block if good.all() else block[good]

    return Table(store.path, ids, files, items, columns, width, stream, store.stamp, store)


def mean_of(table: Table) -> NDArray[np.float64]:
    """The mean vector ``(width,)`` of all rows, in one pass."""
    total = np.zeros(table.width)
    for block in table.stream():
        total += block.sum(axis=0, dtype=np.float64)
    return total / max(len(table), 1)


def unit_rows(block: NDArray[np.floating], mean: NDArray[np.float64] | None) -> Floats:
    """Rows minus ``mean``, at length 1, float32; a row that equals the mean is 0."""
    moved = block.astype(np.float64) if mean is None else block - mean
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    scale = np.linalg.norm(block.astype(np.float64), axis=1, keepdims=True)
    length[length <= 1e-6 * scale] = np.inf  # nothing but rounding is left of it
    length[length == 0] = np.inf
    unit: Floats = (moved / length).astype(np.float32)
    return unit
