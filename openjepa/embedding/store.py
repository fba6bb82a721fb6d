"""Features on disk as ``openjepa embed`` wrote them, opened again: names in memory, vectors mapped or in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openjepa.embedding.formats import format_of
from openjepa.embedding.rows import first_line
from openjepa.errors import DataError

FORMAT = 1  # of the record inside every file


class Store:
    """A file of features, or a folder of them (.lance, .zarr).

    Attributes:
        path, format: where it lies, and how (``"parquet"``, …). ids: ``(N,)`` unique names. paths: of the files, ``""``
            where an item has none. meta: the other columns, each ``(N,)``: ``index`` of the item in the data, ``label``
            (-1: none), ``start`` and ``end`` in seconds (NaN for images), ``error`` (``""``: none).
        ok: ``(N,)`` bool: rows that have features. shape: of one row's features: ``(D,)``, or ``(T, D)`` for tokens.
        model: fingerprint of the encoder, its weights and preprocessing. settings: what was computed, and how.
        classes: names the labels index, or None. stamp: differs when the content does. about: the whole record.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        found = format_of(self.path)
        if not self.path.exists():
            raise DataError(f"no features at '{path}': 'openjepa embed DATA --model M --out {path}' writes them")
        self.format, self._table = found.name, found.read(self.path)
        self.about: Mapping[str, Any] = self._table.about
        if self.about.get("format") != FORMAT:
            raise DataError(f"'{path}' has a record of format {self.about.get('format')}, this openjepa reads {FORMAT}")
        self.ids, self.paths = self._table.texts["id"], self._table.texts["path"]
        self.meta: dict[str, NDArray[Any]] = {
            **self._table.numbers,
            "error": np.array(self._table.texts["error"], dtype=object),
        }
        self.ok: NDArray[np.bool_] = self.meta["error"] == ""
        self.shape: tuple[int, ...] = tuple(self.about["shape"])
        self.model: str = self.about["model"]["fingerprint"]
        self.settings: Mapping[str, Any] = self.about["settings"]
        self.classes: tuple[str, ...] | None = None if self.about["classes"] is None else tuple(self.about["classes"])
        self.stamp: str = self.about["stamp"]

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.shape))
        return f"Store({self.path}, {len(self):,} rows of {shape}, {self.about['settings']['tokens']}, {self.format})"

    def chunks(self, rows: int = 4096) -> Iterator[NDArray[np.float32]]:
        """Features ``(n, *shape)`` float32 of at most ``rows`` rows at a time, in order; NaN in rows with an error."""
        blocks = self._table.chunks(rows)
        while True:
            try:
                block = next(blocks, None)
            except (OSError, ValueError, RuntimeError) as error:  # what pyarrow, Lance and Zarr raise on lost bytes
                raise DataError(f"'{self.path}' is damaged ({first_line(error)})") from error
            if block is None:
                return
            yield np.asarray(block, np.float32)

    def vectors(self) -> NDArray[np.float32]:
        """All features ``(N, *shape)`` float32, NaN in rows with an error.

        A read-only memory map for ``.npz`` and ``.safetensors`` in float32; other files are read into memory:
        :meth:`chunks` never holds more than it is asked for.
        """
        mapped = self._table.mapped
        if mapped is not None:
            return mapped if mapped.dtype == np.float32 else np.asarray(mapped, np.float32)
        values, place = np.empty((len(self), *self.shape), np.float32), 0
        for block in self.chunks():
            values[place : place + len(block)] = block
            place += len(block)
        if place != len(self):
            raise DataError(f"'{self.path}' is damaged: {place} rows of features for {len(self)} names")
        return values


def open_store(path: str | Path) -> Store:
    """Open features that :func:`openjepa.embedding.embed` wrote.

    Raises:
        ConfigError: the name's ending is no format. DataError: not there, damaged, or written by something else.
        MissingExtra: a library for this format is not installed.
    """
    return Store(path)
