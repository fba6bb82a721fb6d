"""Decoded images kept in memory, filled as they are first read and shared by forked loader processes.

Clips are kept too where a video always gives the same one, never where its start is drawn anew at every reading.
"""

from __future__ import annotations

import math
import mmap
import multiprocessing
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openjepa.data.sources import Source
from openjepa.data.workers import start_method
from openjepa.errors import ConfigError, DataError

#: ``cache: auto`` keeps the decoded images when they need at most this many bytes on the machine.
AUTO_BYTES = 1 << 30
_DTYPES = (np.dtype(np.uint8), np.dtype(np.float32))
_PROBES = 16  # images read to estimate the size of all


def innermost(source: Any) -> Any:
    """The source below subsets and caches."""
    while hasattr(source, "source"):
        source = source.source
    return source


def random_clips(source: Source) -> bool:
    """Whether a sample is another clip of its video at every reading."""
    clips = getattr(innermost(source), "clips", None)
    return clips is not None and clips.where == "random"


def estimate_bytes(source: Source) -> int | None:
    """Bytes of all decoded images, from a few spread over the source; None when none of those can be read."""
    count = len(source)
    sizes = []
    for k in range(min(_PROBES, count)):
        try:
            image = source.read(k * count // min(_PROBES, count))
        except DataError:
            continue
        sizes.append(image.numel() * image.element_size())
    return int(sum(sizes) / len(sizes) * count) if sizes else None


class MemoryCache:
    """A source that decodes each image once.

    The pixels live in anonymous shared memory, which forked loader processes fill together (not in /dev/shm, which
    containers keep small). Pages take memory only once written. When it is full, further images are decoded each time.

    Args:
        source: what to read from.
        capacity: bytes of pixels kept at most.
    """

    def __init__(self, source: Source, capacity: int) -> None:
        self.source = source
        self.capacity = max(capacity, mmap.PAGESIZE)
        self.name, self.classes = source.name, source.classes
        self.note: str = getattr(source, "note", "")
        self._allocate()

    def _allocate(self) -> None:
        count = len(self.source)
        self._lock = multiprocessing.get_context(start_method()).Lock()
        self._pixels = np.frombuffer(mmap.mmap(-1, self.capacity), np.uint8)
        # used bytes, then (offset, dtype number + 1 or 0 when absent, T or 0 for an image, C, H, W) per sample
        self._table = np.frombuffer(mmap.mmap(-1, 8 * (1 + 6 * count)), np.int64)
        self._rows = self._table[1:].reshape(count, 6)

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source, "capacity": self.capacity}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A process that was not forked starts with an empty cache of its own."""
        self.__init__(state["source"], state["capacity"])  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.source)

    def label(self, index: int) -> int:
        """Class of a sample."""
        return self.source.label(index)

    def item_id(self, index: int) -> str:
        """Name of a sample."""
        return self.source.item_id(index)

    def fingerprint(self) -> str:
        """That of what is cached."""
        return self.source.fingerprint()

    @property
    def held(self) -> int:
        """Bytes of pixels held."""
        return int(self._table[0])

    def read(self, index: int) -> Tensor:
        """``(C, H, W)`` or ``(T, C, H, W)``, a view of the cache after the first time: do not write to it."""
        with self._lock:  # orders the table's entry after its pixels on machines that reorder memory
            offset, kind, *shape = self._rows[index].tolist()
        if kind:
            dtype = _DTYPES[kind - 1]
            shape = shape if shape[0] else shape[1:]
            count = math.prod(shape)
            return torch.from_numpy(np.frombuffer(self._pixels, dtype, count, offset).reshape(shape))
        image = self.source.read(index)
        self._keep(index, image)
        return image

    def _keep(self, index: int, image: Tensor) -> None:
        """Store an image if it fits; two processes that read the same one store it twice at worst."""
        values = image.numpy()
        if values.dtype not in _DTYPES or not values.size:
            return
        size = -(-values.nbytes // 8) * 8  # offsets stay aligned for float32
        with self._lock:
            offset = int(self._table[0])
            if offset + size > self.capacity:
                return
            self._table[0] = offset + size
        self._pixels[offset : offset + values.nbytes] = values.reshape(-1).view(np.uint8)
        with self._lock:
            length = (0,) if values.ndim == 3 else ()
            self._rows[index] = (offset, _DTYPES.index(values.dtype) + 1, *length, *values.shape)


def with_cache(source: Source, cache: str, *, reads: int, ranks: int = 1, forked: bool = True) -> Source:
    """Wrap ``source`` in a :class:`MemoryCache` when that pays.

    Args:
        cache: ``memory`` always, ``none`` never, ``auto`` when the decoded images of all ranks fit in AUTO_BYTES and
            each is read at least twice.
        reads: samples that will be read. ranks: processes on this machine that hold a cache each.
        forked: readers share memory with this process (or are this process).

    Raises:
        ConfigError: ``memory`` for random clips, of which it would keep one for ever.
    """
    if cache == "none" or isinstance(source, MemoryCache):
        return source
    if random_clips(source):
        if cache == "memory":
            raise ConfigError(
                "data.cache=memory would keep one clip of each video and never show another: "
                "set data.cache=none, or data.clip.sampling=centre"
            )
        return source
    if cache == "auto" and (reads < 2 * len(source) or not forked):
        return source
    size = estimate_bytes(source)
    if size is None or (cache == "auto" and size * ranks > AUTO_BYTES):
        return source
    room = 2 * size + 8 * len(source)  # the estimate comes from a few images, and two processes may store one image
    return MemoryCache(source, min(room, AUTO_BYTES // ranks) if cache == "auto" else room)
