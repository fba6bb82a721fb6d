"""Collation: loaders and maskers make device batches, ahead of the loop, in a thread of its own.

Masks are planned for the *global* batch and cut into this process's rows and micro-batches afterwards, so they do not
depend on either; every process can count the supervised elements of the whole step without asking the others. With
several lanes (:mod:`openjepa.training.lanes`) each has its own loader, order and masks, and micro-batches of its own.
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
from openjepa.data import JointLoader, Loader, Sampler, Source
from openjepa.errors import ConfigError, DataError
from openjepa.training.lanes import Lane, deal, weigh
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
    """Which part of each global batch this process works on: ``rank`` of ``world``, at most ``micro`` rows at once.

    With several lanes ``micro`` is for the dearest; cheaper samples go more at once (:attr:`Lane.relief`).
    """

    rank: int = 0
    world: int = 1
    micro: int = 1 << 30


@dataclass(frozen=True)
class Seat:
    """Which part of a lane's rows a process works on; on none where ``world`` is 0 (it works for another lane)."""

    rank: int
    world: int


def seats(lanes: Sequence[Lane], share: Share, placement: str) -> list[Seat]:
    """The seat of a process in every lane.

    ``mix``: its part of every lane. ``ranks``: processes are dealt to lanes by their weights, each works for one only.

    Raises:
        ConfigError: fewer processes than lanes, or fewer samples of a lane than processes that share them.
    """
    if placement == "mix" or len(lanes) == 1:
        found = [Seat(share.rank, share.world) for _ in lanes]
        crews = [share.world] * len(lanes)
    else:
        if share.world < len(lanes):
            raise ConfigError(
                f"data.placement=ranks needs a process for each of {len(lanes)} data.streams, and there are "
                f"{share.world}: start more, or set data.placement=mix"
            )
        crews = deal(share.world, [lane.share for lane in lanes])
        places = [share.rank - sum(crews[:k]) for k in range(len(crews))]
        found = [Seat(p, crew) if 0 <= p < crew else Seat(0, 0) for p, crew in zip(places, crews, strict=True)]
    for lane, crew in zip(lanes, crews, strict=True):
        if lane.rows < crew and len(lanes) > 1:
            raise ConfigError(
                f"{lane.key} has {lane.rows} samples of every step, too few for {crew} processes: raise its weight or "
                "train.batch_size" + (", or set data.placement=ranks" if placement == "mix" else "")
            )
    return found


def lane_cut(lane: Lane, seat: Seat, micro: int, *, fullest: bool = False) -> Cut:
    """Micro-batches of a process's rows of a lane, or of those of the process that has most."""
    rows, world, rank = lane.rows, seat.world, seat.rank
    most = -(-rows // world)
    mine = most if fullest else rows * (rank + 1) // world - rows * rank // world
    return cut_rows(mine, most=most, fewest=rows // world, micro=micro * lane.relief)


class _Line:
    """A lane with its order and masks, which every process knows, and its loader where this process works for it."""

    def __init__(self, recipe: Recipe, lane: Lane, source: Source, seat: Seat, micro: int) -> None:
        self.lane, self.seat, self.micro = lane, seat, micro
        if len(source) < lane.rows and lane.key != "data":
            raise DataError(
                f"{lane.key}: {source.name} has {len(source)} {lane.unit} and every step takes {lane.rows}: lower its "
                "weight or train.batch_size"
            )
        self.source, self.transform = lane.training(source)
        rank, world = (seat.rank, seat.world) if seat.world else (0, 1)
        self.sampler = Sampler(len(source), lane.rows, lane.seed, rank=rank, world=world)
        self.masks = lane.masker(recipe)

    def cut(self) -> Cut:
        """Micro-batches of this process's rows."""
        return lane_cut(self.lane, self.seat, self.micro)

    def draw(self, step: int) -> tuple[torch.Tensor, MaskGroup]:
        """Places in the epoch, and masks, of the lane's whole part of the global batch."""
        places = self.sampler.global_places(step)
        return places, self.masks(places, self.sampler.epoch(step), step)


class Feed:
    """Yields :class:`Work` for steps ``start`` … ``total`` − 1, in order.

    Args:
        lanes, sources: what every global batch is made of, and the data of each lane.
        count: supervised elements of (host) mask groups for so many samples, as the method counts them.
        pin: copy to pinned memory, for asynchronous transfers to CUDA.
        ahead: prepare in a background thread. Off when the step itself draws from torch's global generator, which
            augmentation in this process uses too.

    Raises:
        ConfigError, DataError: lanes that do not fit the data, the masks or the number of processes.
    """

    def __init__(
        self,
        recipe: Recipe,
        lanes: Sequence[Lane],
        sources: Sequence[Source],
        *,
        total: int,
        share: Share,
        count: Callable[[Sequence[MaskGroup], int], float],
        start: int = 0,
        pin: bool = False,
        ahead: bool = True,
    ) -> None:
        self.recipe, self.total, self.share = recipe, total, share
        self._count, self._pin, self._ahead = count, pin, ahead
        places = seats(lanes, share, recipe.data.placement)
        self._lines = [
            _Line(recipe, lane, source, seat, share.micro)
            for lane, source, seat in zip(lanes, sources, places, strict=True)
        ]
        self._mine = [line for line in self._lines if line.seat.world]
        self._bad: dict[str, str] = {}
        self._padded: dict[str, int] = {}
        self._lock = threading.Lock()
        self._open(start)

    @property
    def bad(self) -> dict[str, str]:
        """Files that could not be read so far, by name, with the reason."""
        return {**self._bad, **self._loader.bad}

    @property
    def padded(self) -> dict[str, int]:
        """Videos shorter than their clip so far, by name, with the frames that had to repeat others."""
        return {**self._padded, **self._loader.padded}

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

    def forgive(self, bad: Mapping[str, str], padded: Mapping[str, int] | None = None) -> None:
        """Remember bad files and padded videos found before a resume."""
        self._bad.update(bad)
        self._padded.update(padded or {})

    def close(self) -> None:
        """Stop the thread and the loader's workers."""
        self._stop.set()
        deadline = time.monotonic() + _PATIENCE
        while self._thread is not None and self._thread.is_alive() and time.monotonic() < deadline:
            self._drain()
            self._thread.join(timeout=0.02)
        self._bad.update(self._loader.bad)
        self._padded.update(self._loader.padded)
        with contextlib.suppress(
            ValueError
        ):  # a read that hangs keeps the loader's generator busy; the thread is a daemon
            self._loader.close()

    def _open(self, start: int) -> None:
        self._loader = JointLoader([self._loader_of(line, start) for line in self._mine])
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

    def _loader_of(self, line: _Line, start: int) -> Loader:
        data = self.recipe.data
        return Loader(
            line.source,
            line.transform,
            line.sampler,
            workers=data.workers,
            seed=line.lane.seed,
            cache=data.cache,
            max_bad_share=data.max_bad_share,
            start_step=start,
            total_steps=self.total,
            pin=self._pin,
        )

    def _assemble_all(self, start: int) -> Iterator[Work]:
        for step, batches in enumerate(self._loader, start):
            yield self._assemble(step, batches)

    def _assemble(self, step: int, batches: Sequence[Batch]) -> Work:
        drawn = [line.draw(step) for line in self._lines]  # masks of the global batch
        groups = [group for _, group in drawn]
        if self.recipe.objective.reduction == "pair":
            groups = weigh(groups, self._count)
        rows = [len(places) for places, _ in drawn]
        parts: list[tuple[Batch, MaskGroup]] = []
        mine = [number for number, line in enumerate(self._lines) if line.seat.world]
        for number, batch in zip(mine, batches, strict=True):
            line = self._lines[number]
            own = line.sampler.rank_slice
            assert torch.equal(drawn[number][0][own], batch.places), "loader and feed share the batch differently"
            masks = groups[number].rows(own.start, own.stop)
            parts += [(batch.rows(a, b), masks.rows(a, b)) for a, b in line.cut().parts]
        micros = [
            self._micro(batch, masks, self._count([masks], len(batch)), number == len(parts) - 1)
            for number, (batch, masks) in enumerate(parts)
        ]
        count = sum(self._count([group], size) for group, size in zip(groups, rows, strict=True))
        epoch = self._lines[0].sampler.epoch(step)
        return Work(step, epoch, sum(rows), micros, count, _mean_stats(groups, rows))

    def _micro(self, batch: Batch, masks: MaskGroup, count: float, last: bool) -> Micro:
        if not self._pin:
            return Micro(batch, [masks], count, last)
        pinned = replace(
            masks, contexts=[_pin(ids) for ids in masks.contexts], targets=[_pin(ids) for ids in masks.targets]
        )
        return Micro(batch, [pinned], count, last)


def _mean_stats(groups: Sequence[MaskGroup], rows: Sequence[int]) -> Mapping[str, float]:
    """What the groups say of themselves, averaged over samples."""
    if len(groups) == 1:
        return groups[0].stats
    names = {name: None for group in groups for name in group.stats}
    found = {}
    for name in names:
        told = [(group.stats[name], size) for group, size in zip(groups, rows, strict=True) if name in group.stats]
        found[name] = sum(value * size for value, size in told) / sum(size for _, size in told)
    return found


def _pin(ids: Ids) -> Ids:
    valid: torch.Tensor | None = None if ids.valid is None else ids.valid.pin_memory()
    return Ids(ids.index.pin_memory(), valid)
