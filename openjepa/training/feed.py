"""Collation: loader and masker make device batches, ahead of the loop, in a thread of its own.

Masks are planned for the *global* batch and cut into this process's rows and micro-batches afterwards, so they do not
depend on either; every process can count the supervised elements of the whole step without asking the others.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from openjepa.config import Recipe
from openjepa.data import Loader, Sampler, Source, train_transform
from openjepa.masking import build_masker
from openjepa.training.sizing import Cut, cut_rows
from openjepa.types import Batch, Ids, MaskGroup

AHEAD = 2  # batches ready beyond the one in use: more only costs memory
_END = object()
_PATIENCE = 10.0  # seconds to wait for the thread at the end


@dataclass(frozen=True)
class Micro:
    """One micro-batch on the host. count: its supervised elements; last: whether it ends the step."""

    batch: Batch
    masks: list[MaskGroup]
    count: float
    last: bool


@dataclass(frozen=True)
class Work:
    """Everything one step of this process needs. count: supervised elements of the *global* batch."""

    step: int
    epoch: int
    samples: int
    micros: list[Micro]
    count: float
    stats: Mapping[str, float]


@dataclass(frozen=True)
class Share:
    """Which part of each global batch this process works on: ``rank`` of ``world``, at most ``micro`` rows at once."""

    rank: int = 0
    world: int = 1
    micro: int = 1 << 30


class Feed:
    """Yields :class:`Work` for steps ``start`` … ``total`` − 1, in order.

    Args:
        count: supervised elements of (host) mask groups for so many samples, as the method counts them.
        pin: copy to pinned memory, for asynchronous transfers to CUDA.
        ahead: prepare in a background thread. Off when the step itself draws from torch's global generator, which
            augmentation in this process uses too.
    """

    def __init__(
        self,
        recipe: Recipe,
        source: Source,
        *,
        batch: int,
        total: int,
        share: Share,
        count: Callable[[Sequence[MaskGroup], int], float],
        start: int = 0,
        pin: bool = False,
        ahead: bool = True,
    ) -> None:
        self.recipe, self.source, self.total, self.share = recipe, source, total, share
        self._count, self._pin, self._ahead = count, pin, ahead
        self.sampler = Sampler(len(source), batch, recipe.seed, rank=share.rank, world=share.world)
        self._masker = build_masker(recipe.mask, recipe.grid, recipe.seed)
        self._transform = train_transform(recipe.data)
        self._bad: dict[str, str] = {}
        self._lock = threading.Lock()
        self._open(start)

    @property
    def bad(self) -> dict[str, str]:
        """Files that could not be read so far, by name, with the reason."""
        return {**self._bad, **self._loader.bad}

    def next(self) -> Work:
        """The next step's work. Raises what the producer raised (DataError when too many files are bad)."""
        if self._thread is None:
            return next(self._items)
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        assert isinstance(item, Work), "the feed was asked for more steps than the run has"
        return item

    def seek(self, step: int) -> None:
        """Go back (or forward) to ``step``; what was prepared is thrown away."""
        self.close()
        self._open(step)

    def pause(self) -> threading.Lock:
        """Hold this (``with feed.pause():``) while other code uses torch's global generator."""
        return self._lock

    def forgive(self, bad: Mapping[str, str]) -> None:
        """Remember bad files found before a resume."""
        self._bad.update(bad)

    def close(self) -> None:
        """Stop the thread and the loader's workers."""
        self._stop.set()
        deadline = time.monotonic() + _PATIENCE
        while self._thread is not None and self._thread.is_alive() and time.monotonic() < deadline:
            self._drain()
            self._thread.join(timeout=0.02)
        self._bad.update(self._loader.bad)
        with contextlib.suppress(
            ValueError
        ):  # a read that hangs keeps the loader's generator busy; the thread is a daemon
            self._loader.close()

    def _open(self, start: int) -> None:
        data = self.recipe.data
        self._loader = Loader(
            self.source,
            self._transform,
            self.sampler,
            workers=data.workers,
            seed=self.recipe.seed,
            cache=data.cache,
            max_bad_share=data.max_bad_share,
            start_step=start,
            total_steps=self.total,
            pin=self._pin,
        )
        self._stop = threading.Event()
        self._queue: queue.Queue[object] = queue.Queue(AHEAD)
        self._items = self._assemble_all(start)
        self._thread: threading.Thread | None = None
        if self._ahead and start < self.total:
            # The first batch here and now: loader processes are then forked while no other thread computes, and data
            # that cannot be read is an error before the run begins.
            self._queue.put(next(self._items))
            self._thread = threading.Thread(target=self._produce, name="openjepa-feed", daemon=True)
            self._thread.start()

    def _produce(self) -> None:
        try:
            while not self._stop.is_set():
                with self._lock:
                    item = next(self._items, _END)
                self._put(item)
                if item is _END:
                    return
        except BaseException as error:
            self._put(error)

    def _put(self, item: object) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def _drain(self) -> None:
        while True:
            try:
                self._queue.get_nowait()
            except queue.Empty:
                return

    def _assemble_all(self, start: int) -> Iterator[Work]:
        for step, batch in enumerate(self._loader, start):
            yield self._assemble(step, batch)

    def _assemble(self, step: int, batch: Batch) -> Work:
        epoch, places, mine = self.sampler.epoch(step), self.sampler.global_places(step), self.sampler.rank_slice
        group = self._masker(places, epoch=epoch, step=step)  # masks of the global batch
        assert torch.equal(places[mine], batch.places), "loader and feed share the batch differently"
        masks = group.rows(mine.start, mine.stop)
        parts = self._cut().parts
        micros = []
        for number, (a, b) in enumerate(parts):
            own = masks.rows(a, b)
            count = self._count([own], b - a)
            micros.append(self._micro(batch.rows(a, b), own, count, number == len(parts) - 1))
        return Work(step, epoch, len(places), micros, self._count([group], len(places)), group.stats)

    def _cut(self) -> Cut:
        batch, world, mine = self.sampler.batch_size, self.share.world, self.sampler.rank_slice
        return cut_rows(mine.stop - mine.start, most=-(-batch // world), fewest=batch // world, micro=self.share.micro)

    def _micro(self, batch: Batch, masks: MaskGroup, count: float, last: bool) -> Micro:
        if not self._pin:
            return Micro(batch, [masks], count, last)
        pinned = replace(
            masks, contexts=[_pin(ids) for ids in masks.contexts], targets=[_pin(ids) for ids in masks.targets]
        )
        return Micro(batch, [pinned], count, last)


def _pin(ids: Ids) -> Ids:
    valid: torch.Tensor | None = None if ids.valid is None else ids.valid.pin_memory()
    return Ids(ids.index.pin_memory(), valid)
