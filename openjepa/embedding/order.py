"""Which rows there are: items of the data in order, or every window of every video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openjepa.data import Source
from openjepa.data.workers import auto_workers, run_tasks
from openjepa.errors import ConfigError, DataError, OpenJepaError
from openjepa.features.sliding import window_starts

Span = tuple[int, int]  # first row and the one after the last


@dataclass(frozen=True)
class Slide:
    """A window that slides over videos. window, hop: seconds of it, and between the beginnings of two."""

    window: float
    hop: float

    def __post_init__(self) -> None:
        if not (self.window > 0 and self.hop > 0):
            raise ConfigError(f"--window and --hop are seconds above 0, not {self.window:g} and {self.hop:g}")

    def start(self, duration: float, number: int) -> float | None:
        """Where a window of a video begins, in seconds; None: the video has fewer."""
        return next(islice(window_starts(duration, self.window, self.hop), number, None), None)

    def count(self, duration: float) -> int:
        """Windows of a video."""
        return sum(1 for _ in window_starts(duration, self.window, self.hop))


@dataclass(frozen=True)
class Order:
    """Rows by number. items: samples of the data. counts: ``(items,)`` windows of each, at least one; None: one row each."""

    items: int
    counts: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        ends = None if self.counts is None else np.cumsum(self.counts)
        object.__setattr__(self, "_ends", ends)

    def __len__(self) -> int:
        ends: NDArray[np.int64] | None = self.__dict__["_ends"]
        return self.items if ends is None else int(ends[-1]) if len(ends) else 0

    def place(self, row: int) -> tuple[int, int]:
        """Item of a row, and the number of its window."""
        ends: NDArray[np.int64] | None = self.__dict__["_ends"]
        if ends is None or self.counts is None:
            return row, 0
        item = int(np.searchsorted(ends, row, side="right"))
        return item, row - int(ends[item] - self.counts[item])


@dataclass
class _Count:
    """What a loader process sends: the windows of some videos, or the error that ends it."""

    counts: list[int]
    error: OpenJepaError | None = None

    def pin_memory(self) -> _Count:
        """Nothing to pin."""
        return self


class _Durations(torch.utils.data.Dataset[_Count]):
    """Windows of so many videos at a time; one of those that cannot be opened, which will be a row with an error."""

    def __init__(self, source: Any, slide: Slide, size: int = 16) -> None:
        self.source, self.slide, self.size = source, slide, size

    def __len__(self) -> int:
        return -(-len(self.source) // self.size)

    def __getitem__(self, number: int) -> _Count:
        counts = []
        for index in range(number * self.size, min((number + 1) * self.size, len(self.source))):
            try:
                with self.source.video(index) as video:
                    counts.append(self.slide.count(video.duration))
            except DataError:
                counts.append(1)
            except OpenJepaError as error:
                return _Count([], error)
        return _Count(counts)


def count_rows(source: Source, slide: Slide | None, workers: int | str = 0) -> Order:
    """The rows of a source; with ``slide`` every video is opened once to learn how long it is.

    Raises:
        ConfigError: windows of a source that has no videos.
    """
    if slide is None:
        return Order(len(source))
    if not hasattr(source, "video"):
        raise ConfigError(f"--window slides over videos, and {source.name} holds images")
    tasks = _Durations(source, slide)
    processes = auto_workers((224, 224), cached=False) if workers == "auto" else int(workers)
    counts: list[int] = []
    for found in run_tasks(tasks, range(len(tasks)), processes, False):
        if found.error is not None:
            raise found.error
        counts += found.counts
    return Order(len(source), np.array(counts, np.int64))


def missing_spans(total: int, done: list[Span]) -> Iterator[Span]:
    """The rows of ``0..total`` that no span covers, in order."""
    at = 0
    for start, stop in sorted(done):
        if start > at:
            yield at, min(start, total)
        at = max(at, stop)
    if at < total:
        yield at, total


def share_of(spans: Iterator[Span], rank: int, world: int, block: int) -> Iterator[Span]:
    """What one of ``world`` processes computes: every world-th block of so many rows, cut to what is missing."""
    for start, stop in spans:
        while start < stop:
            number = start // block
            end = min((number + 1) * block, stop)
            if world == 1:
                end = stop
            if number % world == rank % world or world == 1:
                yield start, end
            start = end


def batches_of(spans: Iterator[Span], size: int) -> list[Span]:
    """Spans of at most ``size`` rows."""
    return [(at, min(at + size, stop)) for start, stop in spans for at in range(start, stop, size)]
