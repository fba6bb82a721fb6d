"""Parquet and Lance: tables of Arrow columns, one feature vector per row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openjepa.embedding.rows import ABOUT, COLUMNS, FEATURE, NUMBERS, TEXTS, Layout, Parts, Rows, Table, first_line
from openjepa.errors import DataError, require

_EXTRA = "tables"


def write_parquet(path: Path, layout: Layout, parts: Parts) -> None:
    """One row group per part."""
    parquet = require("pyarrow.parquet", _EXTRA)
    schema = _schema(layout)
    # Features are noise to a general compressor: it would cost time and save two per cent.
    with parquet.ParquetWriter(path, schema, compression={name: "zstd" for name in COLUMNS}) as writer:
        for rows in parts():
            writer.write_batch(_batch(rows, layout, schema))


def read_parquet(path: Path) -> Table:
    """Columns in memory; features row group by row group."""
    parquet = require("pyarrow.parquet", _EXTRA)
    try:
        file = parquet.ParquetFile(path)
        about = _about(file.schema_arrow.metadata, path)
        found = file.read(columns=list(COLUMNS))
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these
        if isinstance(error, DataError):
            raise
        raise DataError(f"'{path}' is damaged or no Parquet file ({first_line(error)})") from error

    def chunks(rows: int) -> Iterator[NDArray[Any]]:
        with parquet.ParquetFile(path) as again:
            for batch in again.iter_batches(batch_size=rows, columns=[FEATURE]):
                yield _features(batch.column(0), about)

    return Table(about, *_columns(found), chunks)


def write_lance(path: Path, layout: Layout, parts: Parts) -> None:
    """A Lance data set, streamed."""
    lance, arrow = require("lance", _EXTRA), require("pyarrow", _EXTRA)
    schema = _schema(layout)
    stream = (_batch(rows, layout, schema) for rows in parts())
    lance.write_dataset(arrow.RecordBatchReader.from_batches(schema, stream), str(path), mode="create")


def read_lance(path: Path) -> Table:
    """Columns in memory; features in batches."""
    lance = require("lance", _EXTRA)
    try:
        data = lance.dataset(str(path))
        about = _about(data.schema.metadata, path)
        found = data.to_table(columns=list(COLUMNS))
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"'{path}' is damaged or no Lance data set ({first_line(error)})") from error

    def chunks(rows: int) -> Iterator[NDArray[Any]]:
        for batch in lance.dataset(str(path)).to_batches(columns=[FEATURE], batch_size=rows):
            yield _features(batch.column(0), about)

    return Table(about, *_columns(found), chunks)


def _schema(layout: Layout) -> Any:
    arrow = require("pyarrow", _EXTRA)
    kinds = {name: arrow.string() for name in TEXTS} | {
        name: arrow.from_numpy_dtype(np.dtype(kind)) for name, kind in NUMBERS.items()
    }
    size = int(np.prod(layout.shape))
    feature = arrow.list_(arrow.from_numpy_dtype(np.dtype(layout.dtype)), size)
    fields = [arrow.field(name, kinds[name]) for name in COLUMNS] + [arrow.field(FEATURE, feature)]
    return arrow.schema(fields, metadata={ABOUT: layout.record()})


def _batch(rows: Rows, layout: Layout, schema: Any) -> Any:
    """Rows in Arrow: what is not there is null."""
    arrow = require("pyarrow", _EXTRA)
    failed = np.array([bool(text) for text in rows.texts["error"]])
    columns: dict[str, Any] = {
        "id": arrow.array(rows.texts["id"], arrow.string()),
        "path": arrow.array([text or None for text in rows.texts["path"]], arrow.string()),
        "error": arrow.array([text or None for text in rows.texts["error"]], arrow.string()),
        "index": arrow.array(rows.numbers["index"]),
        "label": arrow.array(rows.numbers["label"], mask=rows.numbers["label"] < 0),
    }
    for name in ("start", "end"):
        columns[name] = arrow.array(rows.numbers[name], mask=np.isnan(rows.numbers[name]))
    flat = np.ascontiguousarray(rows.filled(layout.shape, layout.dtype)).reshape(-1)
    columns[FEATURE] = arrow.FixedSizeListArray.from_arrays(
        arrow.array(flat), type=schema.field(FEATURE).type, mask=arrow.array(failed)
    )
    return arrow.record_batch([columns[name] for name in schema.names], schema=schema)


def _columns(table: Any) -> tuple[dict[str, list[str]], dict[str, NDArray[Any]]]:
    texts = {name: [text or "" for text in table.column(name).to_pylist()] for name in TEXTS}
    missing = {"label": -1, "index": -1, "start": np.nan, "end": np.nan}
    numbers = {}
    for name, kind in NUMBERS.items():
        numbers[name] = np.asarray(table.column(name).fill_null(missing[name]).to_numpy(), kind)
    return texts, numbers


def _features(column: Any, about: dict[str, Any]) -> NDArray[Any]:
    """``(n, *shape)``, NaN where the row is null."""
    shape = tuple(about["shape"])
    size = int(np.prod(shape))
    inner = column.values.slice(column.offset * size, len(column) * size)
    values = np.array(inner.to_numpy(zero_copy_only=False), about["dtype"]).reshape(len(column), *shape)
    if column.null_count:
        values[~np.asarray(column.is_valid())] = np.nan
    return values


def _about(metadata: Any, path: Path) -> dict[str, Any]:
    text = (metadata or {}).get(ABOUT.encode())
    if text is None:
        raise DataError(f"'{path}' was not written by openjepa embed: it has no record of model and settings")
    found: dict[str, Any] = json.loads(text)
    return found
