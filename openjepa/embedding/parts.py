"""Rows that are done, kept beside the output until all are: what a kill leaves behind, and how it is put together.

``OUT.parts/`` holds ``plan.json`` (what is computed), ``windows.npy`` (windows of each video, where they slide) and a
directory ``rows-<first>-<stop>`` per part, written atomically with checksums. Parts may overlap, after a killed process that
had children: rows are equal then, and counted once.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openjepa.embedding.order import Order, Span
from openjepa.embedding.rows import NUMBERS, TEXTS, Rows
from openjepa.errors import CheckpointError, RunError
from openjepa.hub.atomic import clean_stale, verify_directory, write_directory, write_error, write_file
from openjepa.hub.tensorfile import read_safetensors

try:
    import fcntl
except ImportError:  # not on Windows: there two commands at once are not told apart
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

PLAN, WINDOWS, LOCK, JOINED = "plan.json", "windows.npy", "lock", "joined"
LOCK_SECONDS = 12.0  # twice what orphaned loader processes take to notice
_VALUES, _TEXTS = "values.safetensors", "texts.json"
_NAME = re.compile(r"^rows-(\d+)-(\d+)$")


@dataclass(frozen=True)
class PartsFolder:
    """The parts of one output. path: the folder."""

    path: Path

    @classmethod
    def beside(cls, out: Path) -> PartsFolder:
        """``features.parquet.parts``."""
        return cls(out.with_name(f"{out.name}.parts"))

    def plan(self) -> dict[str, Any] | None:
        """What was begun here; None: nothing. Raises RunError when it cannot be read."""
        try:
            found: dict[str, Any] = json.loads((self.path / PLAN).read_bytes())
            return found
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunError(
                f"'{self.path / PLAN}' cannot be read ({error}): remove '{self.path}' to start over"
            ) from error

    def begin(self, plan: Mapping[str, Any], order: Order) -> None:
        """Write down what is computed, last of all the plan itself."""
        if order.counts is not None:
            _save_array(self.path / WINDOWS, order.counts)
        write_file(self.path / PLAN, dict(plan))

    def order(self, plan: Mapping[str, Any]) -> Order:
        """The rows of the plan."""
        counts = None if plan["settings"]["window"] is None else np.load(self.path / WINDOWS, allow_pickle=False)
        return Order(int(plan["items"]), counts)

    def spans(self) -> list[Span]:
        """Rows that are done, one span per part, in order."""
        names = os.listdir(self.path) if self.path.is_dir() else []
        matches = (match for match in map(_NAME.match, names) if match)
        return sorted((int(match[1]), int(match[2])) for match in matches)

    def check(self) -> None:
        """Remove what killed writers left, and parts that are not what was written: they are computed again."""
        clean_stale(self.path)
        shutil.rmtree(self.path / JOINED, ignore_errors=True)
        for span in self.spans():
            try:
                verify_directory(self._place(span))
            except (CheckpointError, OSError) as error:
                log.warning("%s: these rows are computed again", error)
                shutil.rmtree(self._place(span), ignore_errors=True)

    def add(self, start: int, rows: Rows) -> None:
        """Keep ``rows``, the first of which is row ``start``, atomically. Raises RunError (disk full)."""
        place = self._place((start, start + len(rows)))
        if place.exists():  # by a process that outlived its parent
            return
        tensors = {name: torch.from_numpy(np.ascontiguousarray(rows.numbers[name])) for name in NUMBERS}
        if rows.values is not None:
            tensors["values"] = torch.from_numpy(np.ascontiguousarray(rows.values))
        texts = {name: list(rows.texts[name]) for name in TEXTS}
        try:
            write_directory(place, {_VALUES: tensors, _TEXTS: texts})
        except RunError:
            if not place.exists():
                raise

    def rows(self, span: Span) -> Rows:
        """One part. Values are read when they are used."""
        place = self._place(span)
        tensors, _ = read_safetensors(place / _VALUES)
        texts = json.loads((place / _TEXTS).read_bytes())
        values = tensors.get("values")
        return Rows(texts, {n: tensors[n].numpy() for n in NUMBERS}, None if values is None else values.numpy())

    def in_order(self, total: int) -> Iterator[Rows]:
        """All rows ``0..total``, each once, part by part."""
        at = 0
        for start, stop in self.spans():
            if stop <= at:
                continue
            assert start <= at, f"rows {at} to {start} are missing"
            yield _cut(self.rows((start, stop)), at - start)
            at = stop
        assert at == total, f"{at} of {total} rows are there"

    def remove(self, keep_lock: bool = False) -> None:
        """Remove everything; ``keep_lock``: to begin again under the lock that is held."""
        (self.path / PLAN).unlink(missing_ok=True)  # first: parts without a plan are never taken for those of another
        for item in self.path.iterdir() if self.path.is_dir() else ():
            if item.is_dir():
                shutil.rmtree(item, ignore_errors=True)
            elif item.name != LOCK:
                item.unlink(missing_ok=True)
        if not keep_lock:
            shutil.rmtree(self.path, ignore_errors=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, so that the same command twice at a time is an error.

        Loader processes of a killed command hold its lock for some seconds more: they are waited for. Raises RunError.
        """
        until = time.monotonic() + LOCK_SECONDS
        try:
            while (handle := self._lock()) is None:
                if time.monotonic() > until:
                    raise RunError(f"another process is filling '{self.path}': wait for it, or name another --out")
                time.sleep(0.1)
        except OSError as error:
            raise write_error(self.path, error) from error
        try:
            yield
        finally:
            os.close(handle)

    def _lock(self) -> int | None:
        """A handle that holds the lock; None: somebody else does."""
        self.path.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_ino == (self.path / LOCK).stat().st_ino:
                return handle
        except (BlockingIOError, FileNotFoundError):  # held; or its holder finished and removed the folder just now
            pass
        except OSError as error:
            if error.errno in (errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):  # a file system without locks
                return handle
            raise
        os.close(handle)
        return None

    def _place(self, span: Span) -> Path:
        return self.path / f"rows-{span[0]:010d}-{span[1]:010d}"


def _cut(rows: Rows, first: int) -> Rows:
    """Without the first rows."""
    if not first:
        return rows
    texts = {name: list(column)[first:] for name, column in rows.texts.items()}
    numbers = {name: column[first:] for name, column in rows.numbers.items()}
    return Rows(texts, numbers, None if rows.values is None else rows.values[first:])


def joined(batches: list[Rows]) -> Rows:
    """Rows of several batches as one table; those with an error have NaN where others have values."""
    texts = {name: [text for rows in batches for text in rows.texts[name]] for name in TEXTS}
    numbers = {name: np.concatenate([rows.numbers[name] for rows in batches]) for name in NUMBERS}
    known = [rows.values for rows in batches if rows.values is not None]
    if not known:
        return Rows(texts, numbers)
    filled = [rows.filled(known[0].shape[1:], known[0].dtype.name) for rows in batches]
    return Rows(texts, numbers, np.concatenate(filled))


def _save_array(path: Path, values: np.ndarray[Any, Any]) -> None:
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=False)
    write_file(path, stream.getvalue())
