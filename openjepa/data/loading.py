"""Batches for training (shuffled, augmented, endless files replaced) and for evaluation (in order, bad files left out).

A step is one task for one loader process; what it holds depends on (seed, step) alone, so batches are the same for any
number of workers, for any split into ranks, and when a run starts in the middle. Where a random clip of a video begins
is drawn like an augmentation: from torch's generator, seeded by (seed, epoch, place) before the video is read.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Protocol

import torch
from torch import Tensor

from openjepa.data.cache import MemoryCache, innermost, with_cache
from openjepa.data.sampling import Selection
from openjepa.data.seeds import mix
from openjepa.data.sources import Source, with_hint
from openjepa.data.workers import auto_workers, run_tasks, start_method
from openjepa.errors import DataError, OpenJepaError
from openjepa.types import Batch

#: One image to one, or to several (:class:`openjepa.data.views.Views`, which names them); or a video's frames to clips.
ImageTransform = Callable[[Tensor], Tensor | tuple[Tensor, ...]]
_READING = (
    1  # tells the draws of reading from those of augmentation: else a clip's start and its crop would be one draw
)


class StepSampler(Protocol):
    """What a loader needs of :class:`openjepa.data.sampling.Sampler`."""

    world: int

    def batch(self, step: int) -> Selection:
        """Samples of a step on this rank."""
        ...


@dataclass
class _Part:
    """What a loader process sends: a batch as plain tensors, bad files and videos padded on the way, or the error that
    ends it.
    """

    tensors: tuple[dict[str, Tensor], Tensor, Tensor, Tensor | None] | None
    bad: dict[str, str]
    error: OpenJepaError | None = None
    padded: dict[str, int] = field(default_factory=dict)

    def pin_memory(self) -> _Part:
        """Called by torch's pinning thread."""
        if self.tensors is not None:
            inputs, ids, places, labels = self.tensors
            inputs = {name: images.pin_memory() for name, images in inputs.items()}
            labels = None if labels is None else labels.pin_memory()
            self.tensors = inputs, ids.pin_memory(), places.pin_memory(), labels
        return self

    def batch(self) -> Batch:
        """As a batch."""
        assert self.tensors is not None
        return Batch(*self.tensors)


def too_many_bad(bad: dict[str, str], count: int, share: float) -> DataError | None:
    """The error when more than ``share`` of ``count`` files are bad, naming the first."""
    if len(bad) <= share * count:
        return None
    name, reason = next(iter(bad.items()))
    return DataError(
        f"{len(bad)} of {count} files cannot be read, more than data.max_bad_share {share:g} allows; "
        f"the first: {name}: {reason}"
    )


class _Reader:
    """Reads and augments single samples, remembering which are bad.

    ``fetch`` is seeded by what the sample is, through torch's CPU generator, whose state is the caller's to restore.
    """

    def __init__(self, source: Source, transform: ImageTransform, seed: int, max_bad_share: float = 1.0) -> None:
        self.source, self.transform, self.seed, self.max_bad_share = source, transform, seed, max_bad_share
        self.names: tuple[str, ...] = getattr(transform, "names", ("image",))
        self.bad: dict[int, str] = {}
        self._told = 0  # padded videos that were sent already

    def try_read(self, index: int, epoch: int, place: int) -> Tensor | None:
        """The decoded sample, or None when it cannot be read (noted in ``bad``).

        Seeded anew for every file: a random clip does not depend on which bad files were met before.
        """
        if index in self.bad:
            return None
        torch.default_generator.manual_seed(mix(self.seed, epoch, place, _READING))
        try:
            return self.source.read(index)
        except DataError as error:
            self.bad[index] = str(getattr(error, "reason", error))
            return None

    def read_next(self, index: int, epoch: int, place: int) -> tuple[int, Tensor]:
        """The first readable sample from ``index`` on, round the end; raises DataError when bad files are too many."""
        count = len(self.source)
        for k in range(count):
            image = self.try_read((index + k) % count, epoch, place)
            if image is not None:
                return (index + k) % count, image
            if error := too_many_bad(self.named(self.bad), count, self.max_bad_share):
                raise error
        name, reason = next(iter(self.named(self.bad).items()))
        raise DataError(f"none of the {count} files of {self.source.name} can be read; the first: {name}: {reason}")

    def new_padded(self) -> dict[str, int]:
        """Item id → padded frames of the videos found shorter than their clip since the last call."""
        padded: Mapping[str, int] = getattr(innermost(self.source), "padded", {})
        fresh = dict(itertools.islice(padded.items(), self._told, None))
        self._told += len(fresh)
        return fresh

    def named(self, indices: Iterable[int]) -> dict[str, str]:
        """Item id → reason of bad samples."""
        return {self.source.item_id(i): self.bad[i] for i in indices}

    def augment(self, image: Tensor, epoch: int, place: int) -> Tensor | tuple[Tensor, ...]:
        """Transform with torch's CPU generator seeded by (seed, epoch, place)."""
        torch.default_generator.manual_seed(mix(self.seed, epoch, place))
        return self.transform(image)

    def pack(
        self, images: Sequence[Tensor | tuple[Tensor, ...]], ids: list[int], places: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor | None]:
        """Stack samples, view by view."""
        columns = zip(*(image if isinstance(image, tuple) else (image,) for image in images), strict=True)
        inputs = {name: _stack(column) for name, column in zip(self.names, columns, strict=True)}
        labels = torch.tensor([self.source.label(i) for i in ids]) if self.source.classes else None
        return inputs, torch.tensor(ids), places, labels


def _stack(images: Sequence[Tensor]) -> Tensor:
    """``(C, H, W)`` each to ``(B, C, H, W)``, clips alike; float and 8-bit samples in one batch become float."""
    if len({image.dtype for image in images}) > 1:
        images = [i.to(torch.float32).div_(255) if i.dtype == torch.uint8 else i for i in images]
    return torch.stack(tuple(images))


class _TrainSteps(torch.utils.data.Dataset[_Part]):
    """``steps[s]``: the augmented batch of step ``s``."""

    def __init__(self, reader: _Reader, sampler: StepSampler) -> None:
        self.reader, self.sampler = reader, sampler

    def __getitem__(self, step: int) -> _Part:
        epoch, places, indices = self.sampler.batch(step)
        images, ids = [], []
        known = set(self.reader.bad)
        state = torch.get_rng_state()
        try:
            for place, index in zip(places.tolist(), indices.tolist(), strict=True):
                index, image = self.reader.read_next(index, epoch, place)
                images.append(self.reader.augment(image, epoch, place))
                ids.append(index)
            tensors = self.reader.pack(images, ids, places)
            bad = self.reader.named(i for i in self.reader.bad if i not in known)
            return _Part(tensors, bad, padded=self.reader.new_padded())
        except OpenJepaError as error:  # sent as a value: torch would wrap it in a page of trace
            return _Part(None, self.reader.named(self.reader.bad), error)
        finally:
            torch.set_rng_state(state)


class _EvalChunks(torch.utils.data.Dataset[_Part]):
    """``chunks[k]``: the readable samples of the k-th run of ``batch_size`` indices, in order."""

    def __init__(self, reader: _Reader, batch_size: int) -> None:
        self.reader, self.batch_size = reader, batch_size

    def __len__(self) -> int:
        return -(-len(self.reader.source) // self.batch_size)

    def __getitem__(self, chunk: int) -> _Part:
        indices = range(chunk * self.batch_size, min((chunk + 1) * self.batch_size, len(self.reader.source)))
        images, ids = [], []
        state = torch.get_rng_state()
        try:
            for index in indices:
                image = self.reader.try_read(index, 0, index)
                if image is not None:
                    images.append(self.reader.augment(image, 0, index))
                    ids.append(index)
            bad = self.reader.named(i for i in indices if i in self.reader.bad)
            return _Part(self.reader.pack(images, ids, torch.tensor(ids)) if ids else None, bad)
        except OpenJepaError as error:
            return _Part(None, {}, error)
        finally:
            torch.set_rng_state(state)


class Loader:
    """Training batches of one rank from ``start_step`` on.

    A bad file is replaced by the next readable one and listed in ``bad`` (item id → reason); a video shorter than its clip
    is listed in ``padded`` (item id → frames that repeat others). Reading and augmentation are seeded per (seed, epoch,
    place). Iterate once, then ``close`` (or use ``with``).

    Args:
        source: samples. transform: one image to one image of a fixed size (or to several, of which it has ``names``),
            drawing from torch's global RNG.
        sampler: which samples a step has. workers: loader processes; 0 reads in this process, ``auto`` decides.
        cache: ``auto``, ``memory`` or ``none``; see :func:`openjepa.data.cache.with_cache`.
        max_bad_share: share of bad files beyond which iteration stops. start_step, total_steps: 0-based range of steps.
        pin: pin memory for copies to a GPU; by default when there is one.

    Raises:
        DataError: while iterating: too many bad files, none readable, or a loader process died.
    """

    def __init__(
        self,
        source: Source,
        transform: ImageTransform,
        sampler: StepSampler,
        *,
        workers: int | Literal["auto"],
        seed: int,
        cache: str = "auto",
        max_bad_share: float = 0.05,
        start_step: int = 0,
        total_steps: int,
        pin: bool | None = None,
    ) -> None:
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", sampler.world))
        hinted = with_hint(source, getattr(transform, "at_least", None))
        batch = getattr(sampler, "batch_size", 1)
        forked = workers == 0 or start_method() == "fork"
        reads = (total_steps - start_step) * batch // sampler.world
        self.source = with_cache(hinted, cache, reads=reads, ranks=ranks, forked=forked)
        self.cached = isinstance(self.source, MemoryCache)
        if workers == "auto":
            size = getattr(transform, "size", (224, 224))
            images = "video" not in getattr(transform, "names", ())  # cached clips are many images each
            workers = auto_workers(size, cached=self.cached and images, ranks=ranks)
        self.workers = workers
        self.sampler, self.start_step, self.total_steps = sampler, start_step, total_steps
        self.max_bad_share = max_bad_share
        self.pin = torch.cuda.is_available() if pin is None else pin
        self.bad: dict[str, str] = {}
        self.padded: dict[str, int] = {}
        self.steps = _TrainSteps(_Reader(self.source, transform, seed, max_bad_share), sampler)
        self._running: Generator[list[Batch]] | None = None

    def __len__(self) -> int:
        """Steps left from ``start_step``."""
        return max(self.total_steps - self.start_step, 0)

    def __iter__(self) -> Iterator[Batch]:
        self.close()
        self._running = running = _together([self])
        try:
            for (batch,) in running:
                yield batch
        finally:
            running.close()

    def take(self, part: _Part) -> Batch:
        """The batch of a step; notes what was bad. Raises DataError when that is too much."""
        self.bad.update(part.bad)
        self.padded.update(part.padded)
        if part.error is not None:
            raise part.error
        if error := too_many_bad(self.bad, len(self.source), self.max_bad_share):
            raise error
        return part.batch()

    def close(self) -> None:
        """End the loader's processes; harmless when there are none."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class JointLoader:
    """Several loaders whose steps are read together by one pool of processes: one batch of each per step.

    One pool keeps all processes busy however unequal the samples are (images beside clips), and is forked at one moment.

    Args:
        loaders: with the same range of steps; the largest number of workers any of them asks for is started.
    """

    def __init__(self, loaders: Sequence[Loader]) -> None:
        assert len({(loader.start_step, loader.total_steps) for loader in loaders}) == 1
        self.loaders = tuple(loaders)
        self._running: Generator[list[Batch]] | None = None

    def __iter__(self) -> Iterator[list[Batch]]:
        self.close()
        self._running = _together(self.loaders)
        yield from self._running

    @property
    def bad(self) -> dict[str, str]:
        """Files that could not be read, of all loaders: item id → reason."""
        return {name: reason for loader in self.loaders for name, reason in loader.bad.items()}

    @property
    def padded(self) -> dict[str, int]:
        """Videos shorter than their clip, of all loaders: item id → frames that repeat others."""
        return {name: count for loader in self.loaders for name, count in loader.padded.items()}

    def close(self) -> None:
        """End the processes; harmless when there are none."""
        if self._running is not None:
            self._running.close()
            self._running = None


@dataclass
class _Bundle:
    """One step of several loaders."""

    parts: list[_Part]

    def pin_memory(self) -> _Bundle:
        """Called by torch's pinning thread."""
        self.parts = [part.pin_memory() for part in self.parts]
        return self


class _Bundles(torch.utils.data.Dataset[_Bundle]):
    """``bundles[s]``: step ``s`` of several loaders."""

    def __init__(self, loaders: Sequence[Loader]) -> None:
        self.steps = [loader.steps for loader in loaders]

    def __getitem__(self, step: int) -> _Bundle:
        return _Bundle([steps[step] for steps in self.steps])


def _together(loaders: Sequence[Loader]) -> Generator[list[Batch]]:
    """The batches of every loader, step by step."""
    order = range(loaders[0].start_step, loaders[0].total_steps)
    bundles = run_tasks(_Bundles(loaders), order, max(loader.workers for loader in loaders), loaders[0].pin)
    try:
        for bundle in bundles:
            yield [loader.take(part) for loader, part in zip(loaders, bundle.parts, strict=True)]
    finally:
        bundles.close()


def read_batches(
    source: Source,
    transform: ImageTransform,
    *,
    batch_size: int,
    workers: int | Literal["auto"] = 0,
    bad: dict[str, str] | None = None,
    pin: bool = False,
) -> Iterator[Batch]:
    """All samples once, in order, for evaluation. Bad files are left out; ``ids`` and ``places`` say which are there.

    Args:
        bad: filled with item id → reason of the files left out.

    Raises:
        DataError: not one sample can be read, or a loader process died.
    """
    hinted = with_hint(source, getattr(transform, "at_least", None))
    chunks = _EvalChunks(_Reader(hinted, transform, 0), batch_size)
    if workers == "auto":
        workers = auto_workers(getattr(transform, "size", (224, 224)), cached=False)
    found, missed = 0, {} if bad is None else bad
    for part in run_tasks(chunks, range(len(chunks)), workers, pin):
        missed.update(part.bad)
        if part.error is not None:
            raise part.error
        if part.tensors is not None:
            found += 1
            yield part.batch()
    if not found:
        name, reason = next(iter(missed.items()), ("it", "is empty"))
        raise DataError(f"none of the {len(source)} files of {source.name} can be read; the first: {name}: {reason}")
