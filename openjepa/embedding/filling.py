"""Rows computed and kept as parts: by this process, by several on this machine, or by those a launcher started."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from openjepa.data.workers import available_cores
from openjepa.embedding.order import Order, Span, missing_spans, share_of
from openjepa.embedding.parts import PartsFolder, joined
from openjepa.embedding.rows import Rows
from openjepa.embedding.work import Job, Work
from openjepa.errors import OpenJepaError, RunError

#: A part is written when it has so many bytes, or after so many seconds: what a kill costs at most.
PART_BYTES, PART_SECONDS, PART_ROWS = 32 << 20, 15.0, 65_536
_BLOCK = 8  # batches in a row that one of several processes takes
_STALLED = 1800.0  # seconds without a new row after which a rank stops waiting for the others
OnProgress = Callable[[int, int], None]  # rows done, of all


def fill(
    job: Job,
    order: Order,
    folder: PartsFolder,
    *,
    rank: int = 0,
    world: int = 1,
    block: int | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> int:
    """Compute this process's share of the rows that are missing; returns how many those were.

    on_rows: called after each batch with its rows.
    """
    block = block or job.batch_size * _BLOCK
    spans = list(share_of(missing_spans(len(order), folder.spans()), rank, world, block))
    part, count = _Part(folder), 0
    rows_of = job.encode(spans, order, ranks=world)
    with contextlib.closing(rows_of):
        for start, rows in rows_of:
            part.add(start, rows)
            count += len(rows)
            if on_rows is not None:
                on_rows(len(rows))
    part.flush()
    return count


class _Part:
    """Rows that follow each other, until there are enough of them to be written."""

    def __init__(self, folder: PartsFolder) -> None:
        self.folder = folder
        self.held: list[Rows] = []
        self.start = self.stop = self.bytes = 0
        self.since = time.monotonic()

    def add(self, start: int, rows: Rows) -> None:
        """Take one more batch, and write what is complete."""
        if self.held and start != self.stop:
            self.flush()
        if not self.held:
            self.start = start
        self.held.append(rows)
        self.stop = start + len(rows)
        self.bytes += 0 if rows.values is None else rows.values.nbytes
        late = time.monotonic() - self.since > PART_SECONDS
        if late or self.bytes >= PART_BYTES or self.stop - self.start >= PART_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        if self.held:
            self.folder.add(self.start, joined(self.held))
        self.held, self.bytes, self.since = [], 0, time.monotonic()


def fill_with(
    jobs: int, work: Work, folder: PartsFolder, block: int, total: int, on_progress: OnProgress | None
) -> int:
    """The same by ``jobs`` processes of this machine; GPUs are taken in turn.

    Raises:
        RunError: one of them died. OpenJepaError: what one of them raised. What was computed stays.
    """
    context = multiprocessing.get_context("spawn")  # CUDA and threads do not survive a fork
    before = _covered(folder.spans())
    children: list[tuple[Any, Connection]] = []
    try:
        for rank in range(jobs):
            mine, theirs = context.Pipe(duplex=False)
            arguments = (_on_device(work, rank), str(folder.path), rank, jobs, block, theirs, os.getpid())
            process = context.Process(target=_child, args=arguments, daemon=False)
            process.start()
            theirs.close()
            children.append((process, mine))
        while any(process.is_alive() for process, _ in children):
            _raise_from(children)
            if on_progress is not None:
                on_progress(_covered(folder.spans()), total)
            time.sleep(0.1)
        _raise_from(children)
    finally:
        for process, mine in children:
            if process.is_alive():
                process.terminate()
            process.join()
            mine.close()
    return _covered(folder.spans()) - before


def _raise_from(children: list[tuple[Any, Connection]]) -> None:
    """Raise what a child sent, or that it died."""
    for number, (process, mine) in enumerate(children):
        if mine.poll():
            with contextlib.suppress(EOFError):
                raise mine.recv()
        if process.exitcode not in (None, 0):
            raise RunError(
                f"job {number} died (exit code {process.exitcode}: out of memory, or killed from outside?): the same "
                "command again goes on with what is missing"
            )


def _child(work: Work, folder: str, rank: int, world: int, block: int, back: Connection, parent: int) -> None:
    """One of several processes. Ends when its parent does."""
    torch.set_num_threads(max(available_cores() // world, 1))

    def alive(_: int) -> None:
        if os.getppid() != parent:
            os._exit(1)

    try:
        parts = PartsFolder(Path(folder))
        plan = parts.plan()
        assert plan is not None
        job = work.open()
        job.check(plan)
        fill(job, parts.order(plan), parts, rank=rank, world=world, block=block, on_rows=alive)
    except OpenJepaError as error:
        back.send(error)
    finally:
        back.close()


def _on_device(work: Work, rank: int) -> Work:
    """The work on this process's GPU where no particular one was named."""
    if work.device != "cuda" or torch.cuda.device_count() < 2:
        return work
    return replace(work, device=f"cuda:{rank % torch.cuda.device_count()}")


def wait_for_ranks(folder: PartsFolder, total: int, on_progress: OnProgress | None) -> None:
    """Wait until other ranks have done their share. Raises RunError when no row comes for half an hour."""
    covered, since = -1, time.monotonic()
    while (now := _covered(folder.spans())) < total:
        if now != covered:
            covered, since = now, time.monotonic()
        if on_progress is not None:
            on_progress(now, total)
        if time.monotonic() - since > _STALLED:
            raise RunError(f"other ranks did not deliver {total - now} rows: the same command again computes them")
        time.sleep(0.2)


def _covered(spans: list[Span]) -> int:
    """Rows in any of the spans."""
    at = count = 0
    for start, stop in sorted(spans):
        count += max(stop - max(start, at), 0)
        at = max(at, stop)
    return count


def covered(folder: PartsFolder) -> int:
    """Rows that are done."""
    return _covered(folder.spans())
