"""Rows read and transformed off the main process: a bad file is a row with an error, and the others go on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from openjepa.data import Source, auto_workers, with_hint
from openjepa.data.workers import run_tasks
from openjepa.embedding.order import Order, Slide, Span
from openjepa.embedding.rows import Rows
from openjepa.errors import DataError, OpenJepaError


@dataclass
class Read:
    """Some rows as a loader process sends them.

    rows: all columns, without values. inputs: ``(n, C, …)`` of those that could be read, in order, None where none could;
    good: which those are. fatal: an error that ends everything (a library is missing).
    """

    start: int
    stop: int
    rows: Rows | None = None
    inputs: Tensor | None = None
    good: list[bool] = field(default_factory=list)
    fatal: OpenJepaError | None = None

    def pin_memory(self) -> Read:
        """Called by torch's pinning thread."""
        if self.inputs is not None:
            self.inputs = self.inputs.pin_memory()
        return self


@dataclass(frozen=True)
class Reader:
    """How rows are read.

    source: the data. order: its rows. transform: evaluation transform. frames: of a window's clip. slide: windows, or None.
    """

    source: Source
    order: Order
    transform: Any
    frames: int = 1
    slide: Slide | None = None

    def read(self, spans: Sequence[Span], workers: int | Literal["auto"], pin: bool, ranks: int = 1) -> Iterator[Read]:
        """The rows of each span, in order, from ``workers`` processes. Raises DataError when one of them dies."""
        source = with_hint(self.source, getattr(self.transform, "at_least", None))
        if workers == "auto":
            workers = auto_workers(getattr(self.transform, "size", (224, 224)), cached=False, ranks=ranks)
        reads = run_tasks(_Reads(self, source, spans), range(len(spans)), workers, pin)
        with contextlib.closing(reads):
            for read in reads:
                if read.fatal is not None:
                    raise read.fatal
                yield read


class _Reads(torch.utils.data.Dataset[Read]):
    """``reads[k]``: the rows of the k-th span."""

    def __init__(self, reader: Reader, source: Source, spans: Sequence[Span]) -> None:
        self.reader, self.source, self.spans = reader, source, spans

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, number: int) -> Read:
        start, stop = self.spans[number]
        inputs: list[Tensor] = []
        table = _Table(self.source)
        with contextlib.ExitStack() as held:
            videos = _Videos(self.source, held)
            for row in range(start, stop):
                item, window = self.reader.order.place(row)
                try:
                    sample, begin, end = self._sample(item, window, videos)
                    inputs.append(self.reader.transform(sample))
                    table.add(item, begin, end, "", self.reader.slide is not None)
                except DataError as error:
                    reason = " ".join(str(getattr(error, "reason", error)).split())
                    begin = self.reader.slide.hop * window if self.reader.slide is not None else np.nan
                    table.add(item, begin, np.nan, reason, self.reader.slide is not None)
                except OpenJepaError as error:  # sent as a value: torch would wrap it in a page of trace
                    return Read(start, stop, fatal=error)
        return Read(start, stop, table.rows(), _stack(inputs), [not text for text in table.errors])

    def _sample(self, item: int, window: int, videos: _Videos) -> tuple[Tensor, float, float]:
        """What the transform takes, and the seconds at which it begins and ends (NaN: it has none)."""
        slide = self.reader.slide
        if slide is None:
            timed = getattr(self.source, "read_timed", None)
            if timed is None:
                return self.source.read(item), np.nan, np.nan
            found: tuple[Tensor, float, float] = timed(item)
            return found
        video = videos.open(item)
        start = slide.start(video.duration, window)
        if start is None:
            raise DataError(f"{self.source.item_id(item)}: is shorter than it was when its windows were counted")
        offsets = np.arange(self.reader.frames, dtype=np.float64) * (slide.window / self.reader.frames)
        return video.at(start + offsets), start, min(start + slide.window, max(video.duration, start))


class _Videos:
    """The video read last stays open: windows of one video follow each other."""

    def __init__(self, source: Any, held: contextlib.ExitStack) -> None:
        self.source, self.held, self.item = source, held, -1
        self.video: Any = None

    def open(self, item: int) -> Any:
        """An opened video."""
        if item != self.item:
            self.held.close()
            self.item = -1
            self.video = self.held.enter_context(self.source.video(item))
            self.item = item
        return self.video


class _Table:
    """Columns of the rows of one batch, growing."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.ids: list[str] = []
        self.paths: list[str] = []
        self.errors: list[str] = []
        self.index: list[int] = []
        self.labels: list[int] = []
        self.times: list[tuple[float, float]] = []

    def add(self, item: int, start: float, end: float, error: str, windows: bool) -> None:
        """One more row."""
        name = self.source.item_id(item)
        path = getattr(self.source, "path", None)
        self.ids.append(f"{name}@{start:.6g}" if windows else name)
        self.paths.append("" if path is None else os.fsencode(path(item)).decode("utf-8", "backslashreplace"))
        self.errors.append(error)
        self.index.append(item)
        self.labels.append(int(self.source.label(item)))
        self.times.append((start, end))

    def rows(self) -> Rows:
        """As columns."""
        times = np.array(self.times, np.float64).reshape(-1, 2)
        numbers = {
            "index": np.array(self.index, np.int64),
            "label": np.array(self.labels, np.int64),
            "start": times[:, 0],
            "end": times[:, 1],
        }
        return Rows({"id": self.ids, "path": self.paths, "error": self.errors}, numbers)


def _stack(inputs: list[Tensor]) -> Tensor | None:
    """``(n, C, …)``; float and 8-bit samples in one batch become float."""
    if not inputs:
        return None
    if len({sample.dtype for sample in inputs}) > 1:
        inputs = [sample.float().div_(255) if sample.dtype == torch.uint8 else sample for sample in inputs]
    return torch.stack(inputs)
