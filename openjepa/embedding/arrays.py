"""npz, safetensors and Zarr: plain arrays, one entry per column.

npz holds text as NumPy strings; safetensors and Zarr, which have numbers only, as UTF-8 bytes (``id``) and where each
entry ends (``id_ends``). Features of npz and safetensors are stored uncompressed and can be memory-mapped.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from openjepa.embedding.rows import (
    ABOUT,
    FEATURE,
    NUMBERS,
    TEXTS,
    Layout,
    Parts,
    Rows,
    Table,
    first_line,
    join_text,
    slices,
    split_text,
)
from openjepa.errors import DataError, require

_CODES = {"float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64", "uint8": "U8"}
_KINDS = {code: name for name, code in _CODES.items()}
_CHUNK_BYTES = 8 << 20  # of a Zarr chunk of features


def write_npz(path: Path, layout: Layout, parts: Parts) -> None:
    """Entry after entry, each streamed: one pass over the parts per column."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:

        def put(name: str, dtype: Any, shape: tuple[int, ...], pick: Callable[[Rows], NDArray[Any]]) -> None:
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_2_0(file, header)
                for rows in parts():
                    file.write(np.ascontiguousarray(pick(rows), dtype).tobytes())

        n = layout.rows
        put(FEATURE, layout.dtype, (n, *layout.shape), lambda rows: rows.filled(layout.shape, layout.dtype))
        for name, kind in NUMBERS.items():
            put(name, kind, (n,), lambda rows, name=name: rows.numbers[name])  # type: ignore[misc]
        for name in TEXTS:
            put(name, f"<U{layout.characters[name]}", (n,), lambda rows, name=name: np.array(rows.texts[name]))  # type: ignore[misc]
        with archive.open(f"{ABOUT}.npy", "w") as file:
            np.lib.format.write_array(file, np.array(layout.record()))


def read_npz(path: Path) -> Table:
    """Features as a memory map; the columns in memory."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if ABOUT not in file:
                raise DataError(f"'{path}' was not written by openjepa embed: it has no record of model and settings")
            about = json.loads(str(file[ABOUT]))
            numbers = {name: file[name] for name in NUMBERS}
            texts = {name: file[name].tolist() for name in TEXTS}
        mapped = _map_npy(path, f"{FEATURE}.npy")
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"'{path}' is damaged or no npz file ({first_line(error)})") from error
    return Table(about, texts, numbers, lambda rows: slices(mapped, rows), mapped)


def _map_npy(path: Path, name: str) -> NDArray[Any]:
    """An uncompressed array inside a zip file, as a memory map."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise DataError(f"'{path}' has compressed features, which cannot be mapped: write it with openjepa embed")
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)  # lengths of name and extra field in the local header
        file.seek(info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4))))
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        return _map(path, dtype, file.tell(), shape)


def write_safetensors_rows(path: Path, layout: Layout, parts: Parts) -> None:
    """Header first (all sizes are known), then column after column, each streamed."""
    n = layout.rows
    table: list[tuple[str, str, tuple[int, ...], Callable[[Rows], NDArray[Any]]]] = [
        (name, np.dtype(kind).name, (n,), lambda rows, name=name: rows.numbers[name])  # type: ignore[misc]
        for name, kind in NUMBERS.items()
    ]
    ends = {name: 0 for name in TEXTS}

    def ends_of(rows: Rows, name: str) -> NDArray[np.int64]:
        found = join_text(rows.texts[name])[1] + ends[name]
        ends[name] = int(found[-1]) if len(found) else ends[name]
        return found

    table += [(f"{name}_ends", "int64", (n,), lambda rows, name=name: ends_of(rows, name)) for name in TEXTS]  # type: ignore[misc]
    table.append((FEATURE, layout.dtype, (n, *layout.shape), lambda rows: rows.filled(layout.shape, layout.dtype)))
    for name in TEXTS:  # narrow types last: every array then starts at a multiple of its item size
        size = layout.text_bytes[name]
        table.append((name, "uint8", (size,), lambda rows, name=name: join_text(rows.texts[name])[0]))  # type: ignore[misc]
    header: dict[str, Any] = {"__metadata__": {"format": "pt", ABOUT: layout.record()}}
    offset = 0
    for name, dtype, shape, _ in table:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, dtype, _, pick in table:
            for rows in parts():
                file.write(np.ascontiguousarray(pick(rows), dtype).tobytes())


def read_safetensors_rows(path: Path) -> Table:
    """Features as a memory map; the columns in memory."""
    try:
        with path.open("rb") as file:
            header, start = _header(file)
    except (OSError, ValueError, struct.error) as error:
        raise DataError(f"'{path}' is damaged or no safetensors file ({first_line(error)})") from error
    text = header.get("__metadata__", {}).get(ABOUT)
    if text is None:
        raise DataError(f"'{path}' was not written by openjepa embed: it has no record of model and settings")

    def column(name: str) -> NDArray[Any]:
        entry = header[name]
        first, end = entry["data_offsets"]
        if start + end > path.stat().st_size:
            raise DataError(f"'{path}' is truncated: '{name}' should end at byte {start + end}")
        return _map(path, np.dtype(_KINDS[entry["dtype"]]), start + first, tuple(entry["shape"]))

    mapped = column(FEATURE)
    texts = {name: split_text(column(name), np.array(column(f"{name}_ends"))) for name in TEXTS}
    numbers = {name: np.array(column(name)) for name in NUMBERS}
    return Table(json.loads(text), texts, numbers, lambda rows: slices(mapped, rows), mapped)


def _header(file: IO[bytes]) -> tuple[dict[str, Any], int]:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > 100 << 20:
        raise ValueError("its header is longer than any")
    return json.loads(file.read(length)), 8 + length


def _map(path: Path, dtype: Any, offset: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """A read-only memory map; an empty array where there is nothing to map."""
    if not int(np.prod(shape)):
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape)


def write_zarr(path: Path, layout: Layout, parts: Parts) -> None:
    """A Zarr 3 group; whole chunks are written, so that none is compressed twice."""
    zarr = require("zarr", "tables")
    group = zarr.create_group(store=str(path), attributes={ABOUT: dict(layout.about)})
    n = layout.rows
    row_bytes = max(int(np.prod(layout.shape)) * np.dtype(layout.dtype).itemsize, 1)
    chunk = min(max(_CHUNK_BYTES // row_bytes, 1), max(n, 1))

    def make(name: str, dtype: str, shape: tuple[int, ...], size: int) -> Any:
        # A chunk that is lost reads as NaN, not as zeros that look like features.
        fill = {"fill_value": float("nan")} if dtype.startswith("float") else {}
        return group.create_array(name, shape=shape, dtype=dtype, chunks=(size, *shape[1:]), **fill)

    def put(name: str, dtype: str, shape: tuple[int, ...], size: int, pick: Callable[[Rows], NDArray[Any]]) -> None:
        array, place = make(name, dtype, shape, size), 0
        for block in _rechunk((pick(rows) for rows in parts()), size):
            array[place : place + len(block)] = block
            place += len(block)

    put(FEATURE, layout.dtype, (n, *layout.shape), chunk, lambda rows: rows.filled(layout.shape, layout.dtype))
    for name, kind in NUMBERS.items():
        put(name, np.dtype(kind).name, (n,), max(n, 1), lambda rows, name=name: rows.numbers[name])  # type: ignore[misc]
    for name in TEXTS:
        size = layout.text_bytes[name]
        put(name, "uint8", (size,), _CHUNK_BYTES, lambda rows, name=name: join_text(rows.texts[name])[0])  # type: ignore[misc]
        lengths = (join_text(rows.texts[name])[1] for rows in parts())
        ends, total = [], 0
        for found in lengths:
            ends.append(found + total)
            total += int(found[-1]) if len(found) else 0
        make(f"{name}_ends", "int64", (n,), max(n, 1))[:] = np.concatenate(ends)


def _rechunk(blocks: Iterator[NDArray[Any]], size: int) -> Iterator[NDArray[Any]]:
    """The same rows in blocks of ``size``; the last may be shorter."""
    held: list[NDArray[Any]] = []
    count = 0
    for block in blocks:
        while len(block):
            take = block[: size - count]
            held.append(take)
            count += len(take)
            block = block[len(take) :]
            if count == size:
                yield np.concatenate(held)
                held, count = [], 0
    if held:
        yield np.concatenate(held)


def read_zarr(path: Path) -> Table:
    """Columns in memory; features chunk by chunk."""
    zarr = require("zarr", "tables")
    try:
        group = zarr.open_group(str(path), mode="r")
        about = group.attrs.get(ABOUT)
        if about is None:
            raise DataError(f"'{path}' was not written by openjepa embed: it has no record of model and settings")
        numbers = {name: group[name][:] for name in NUMBERS}
        texts = {name: split_text(group[name][:], group[f"{name}_ends"][:]) for name in TEXTS}
        features = group[FEATURE]
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"'{path}' is damaged or no Zarr group ({first_line(error)})") from error

    def chunks(rows: int) -> Iterator[NDArray[Any]]:
        step = max(rows // features.chunks[0], 1) * features.chunks[0]  # each stored chunk is read once
        for start in range(0, features.shape[0], step):
            yield from slices(features[start : start + step], rows)

    return Table(dict(about), texts, numbers, chunks)
