"""One row per item: what stands in it, in memory, and how text is laid out where a format has only numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

TEXTS = ("id", "path", "error")
NUMBERS: dict[str, type[np.generic]] = {"index": np.int64, "label": np.int64, "start": np.float64, "end": np.float64}
COLUMNS = ("id", "path", "index", "label", "start", "end", "error")
FEATURE, ABOUT = "feature", "openjepa"


@dataclass(frozen=True)
class Rows:
    """Some rows, in the order of the data.

    texts: ``id`` (unique; a window of a video has ``@seconds`` behind its item's name), ``path`` (``""``: the item has no
    file) and ``error`` (``""``: none). numbers: ``index`` of the item in the data, ``label`` (-1: none), ``start`` and
    ``end`` of the clip in seconds (NaN for images). values: ``(n, *shape)`` float16 or float32, NaN in rows with an
    error; None where every row has one.
    """

    texts: Mapping[str, Sequence[str]]
    numbers: Mapping[str, NDArray[Any]]
    values: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.texts["id"])

    def filled(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """The values, NaN where there are none: ``(n, *shape)``."""
        return np.full((len(self), *shape), np.nan, dtype) if self.values is None else self.values


@dataclass(frozen=True)
class Layout:
    """What a file will hold. rows: N. shape: of one row's features. dtype: of them. about: the record, JSON-ready.

    characters, text_bytes: of every text column, the longest entry and all entries together in UTF-8.
    """

    rows: int
    shape: tuple[int, ...]
    dtype: str
    about: Mapping[str, Any]
    characters: Mapping[str, int] = field(default_factory=dict)
    text_bytes: Mapping[str, int] = field(default_factory=dict)

    def record(self) -> str:
        """``about`` as text, the same for the same content."""
        return json.dumps(dict(self.about), sort_keys=True, ensure_ascii=False)

    @classmethod
    def of(cls, parts: Iterator[Rows], shape: tuple[int, ...], dtype: str, about: Mapping[str, Any]) -> Layout:
        """Measure the text of all parts, one part in memory at a time."""
        rows, longest, total = 0, dict.fromkeys(TEXTS, 1), dict.fromkeys(TEXTS, 0)
        for part in parts:
            rows += len(part)
            for name in TEXTS:
                longest[name] = max(longest[name], max(map(len, part.texts[name]), default=0))
                total[name] += sum(len(text.encode()) for text in part.texts[name])
        return cls(rows, shape, dtype, {**about, "rows": rows}, longest, total)


#: Gives the parts from the beginning, as often as it is called.
Parts = Callable[[], Iterator[Rows]]


@dataclass(frozen=True)
class Table:
    """A written file, opened: the columns in memory, the features where they are.

    about: the record. chunks: features ``(n, *shape)`` of so many rows at a time, in order, as stored. mapped: all of them as
    one memory map, where the format has that.
    """

    about: Mapping[str, Any]
    texts: Mapping[str, list[str]]
    numbers: Mapping[str, NDArray[Any]]
    chunks: Callable[[int], Iterator[NDArray[Any]]]
    mapped: NDArray[Any] | None = None


def join_text(texts: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All texts as UTF-8 bytes one after another, and where each ends (``(n,)``)."""
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([len(item) for item in encoded], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8), ends


def split_text(data: NDArray[np.uint8], ends: NDArray[np.int64]) -> list[str]:
    """The inverse of :func:`join_text`."""
    raw, start, found = data.tobytes(), 0, []
    for end in ends.tolist():
        found.append(raw[start:end].decode())
        start = end
    return found


def slices(values: NDArray[Any], rows: int) -> Iterator[NDArray[Any]]:
    """An array so many rows at a time."""
    for start in range(0, len(values), rows):
        yield values[start : start + rows]


def first_line(error: Exception) -> str:
    """What a library's error says, short enough for ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
