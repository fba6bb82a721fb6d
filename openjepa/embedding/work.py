"""What is to be embedded and how, as one value that can be sent to other processes, and opened there."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

import openjepa
from openjepa.data import Source
from openjepa.embedding.encoding import Dtype, Encoding, Tokens, pick_device, pooler_of
from openjepa.embedding.order import Order, Slide, Span, batches_of, count_rows
from openjepa.embedding.reading import Read, Reader
from openjepa.embedding.rows import Rows
from openjepa.embedding.store import FORMAT
from openjepa.errors import ConfigError
from openjepa.features import ClipOptions, weights_hash
from openjepa.features.clips import describe_source
from openjepa.features.extraction import Layers, Precision
from openjepa.hub.imports.probes import import_probe
from openjepa.loading import load
from openjepa.model import AnyModel

IMAGES_AT_ONCE, CLIPS_AT_ONCE = 64, 4


@dataclass(frozen=True)
class Work:
    """One embedding, as :func:`openjepa.embedding.embed` was asked for it."""

    data: str
    model: str | AnyModel
    tokens: Tokens = "pooled"
    layers: Layers = "last"
    clips: ClipOptions = field(default_factory=ClipOptions)
    window: float | None = None
    hop: float | None = None
    split: Literal["train", "val"] = "train"
    batch_size: int | None = None
    workers: int | Literal["auto"] = "auto"
    device: str = "cpu"
    precision: Precision = "fp32"
    dtype: Dtype = "float32"
    probe: str | None = None

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"batch_size is at least 1, not {self.batch_size}")
        if self.clips.views != 1 or self.clips.across != "attend":
            raise ConfigError(
                "embed looks at one view of each clip, its centre: leave --views at 1 and --across at attend"
            )
        if self.hop is not None and self.window is None:
            raise ConfigError("--hop is between the beginnings of two windows: give --window too")
        if self.window is not None and self.clips.segments != 1:
            raise ConfigError("--window already takes clips of the whole video: leave --clips at 1")

    @property
    def slide(self) -> Slide | None:
        """The window that slides over videos, None: one row per item."""
        if self.window is None:
            return None
        return Slide(self.window, self.window if self.hop is None else self.hop)

    def open(self) -> Job:
        """Load the model and list the data. Raises ConfigError, DataError or CheckpointError."""
        whole = load(self.model) if isinstance(self.model, str) else self.model
        fingerprint = model_fingerprint(whole)
        model = whole.seen(self.clips)
        if self.slide is not None and model.clip is None:
            raise ConfigError(f"--window is of videos, and {model.name} takes images: give --frames to show it clips")
        probe = import_probe(self.probe) if self.probe is not None else None
        found = probe or (getattr(whole, "probe", None) if self.tokens == "attentive" else None)
        pooler = None if found is None else pooler_of(found, model)
        encoding = Encoding(model, self.tokens, self.layers, self.precision, self.dtype, self.device, pooler)
        source = model.open(self.data, self.split, self.clips.segments)
        return Job(self, model, fingerprint, source, encoding)


@dataclass
class Job:
    """A :class:`Work` with its model loaded and its data listed. fingerprint: of the model."""

    work: Work
    model: AnyModel
    fingerprint: str
    source: Source
    encoding: Encoding

    @property
    def batch_size(self) -> int:
        """Rows encoded at once."""
        return self.work.batch_size or (IMAGES_AT_ONCE if self.model.clip is None else CLIPS_AT_ONCE)

    def plan(self) -> dict[str, Any]:
        """All that decides what the rows are, JSON-ready: who resumes or replaces must have the same."""
        work, pooler, slide = self.work, self.encoding.pooler, self.work.slide
        settings = {
            "tokens": work.tokens,
            "layers": work.layers,
            "precision": work.precision,
            "dtype": work.dtype,
            "transform": repr(self.model.transform),
            "clip": describe_source(self.source) if slide is None else {"frames": self._frames},
            "window": None if slide is None else slide.window,
            "hop": None if slide is None else slide.hop,
            "probe": None if pooler is None else weights_hash(pooler),
        }
        return {
            "format": FORMAT,
            "openjepa": openjepa.__version__,
            "model": {"name": self._named(), "fingerprint": self.fingerprint, **self._origin()},
            "settings": settings,
            "data": {"name": self.source.name, "fingerprint": self.source.fingerprint()},
            "items": len(self.source),
            "classes": None if self.source.classes is None else list(self.source.classes),
        }

    @property
    def _frames(self) -> int:
        return 1 if self.model.clip is None else self.model.clip.frames

    def _named(self) -> str:
        return self.work.model if isinstance(self.work.model, str) else self.model.name

    def _origin(self) -> dict[str, str]:
        provenance = getattr(self.model, "provenance", None)
        return {} if provenance is None else {"origin": str(provenance)}

    def check(self, plan: Mapping[str, Any]) -> None:
        """Raise ConfigError where this process opened something else than the one that made the plan."""
        different = difference(self.plan(), plan)
        if different is not None:
            raise ConfigError(f"a process that was to help found {different}: do all see the same files?")

    def order(self) -> Order:
        """The rows of the data."""
        return count_rows(self.source, self.work.slide, self.work.workers)

    def encode(self, spans: Sequence[Span], order: Order, ranks: int = 1) -> Generator[tuple[int, Rows]]:
        """First row and rows of every batch of ``spans``, in order.

        A batch is handed out when the next one has been started, so that a GPU works while the CPU copies and saves.
        """
        reader = Reader(self.source, order, self.model.transform, self._frames, self.work.slide)
        batches = batches_of(iter(spans), self.batch_size)
        pin = self.encoding.device.type == "cuda"
        before: tuple[Read, Any] | None = None
        for read in reader.read(batches, self.work.workers, pin, ranks):
            now = read, None if read.inputs is None else self.encoding(read.inputs)
            if before is not None:
                yield _finished(*before)
            before = now
        if before is not None:
            yield _finished(*before)


def _finished(read: Read, values: Any) -> tuple[int, Rows]:
    """Rows with their values on the CPU, NaN where an item could not be read."""
    assert read.rows is not None
    if values is None:
        return read.start, read.rows
    found = values.cpu().numpy()
    if not all(read.good):
        full = np.full((len(read.good), *found.shape[1:]), np.nan, found.dtype)
        full[np.array(read.good)] = found
        found = full
    return read.start, replace(read.rows, values=found)


def model_fingerprint(model: AnyModel) -> str:
    """SHA-256 of an encoder and its normalisation: weights, buffers and settings. Views of a model have their own."""
    parts = [part for part in (model.encoder, model.normalise) if isinstance(part, nn.Module)]
    return hashlib.sha256(" ".join(weights_hash(part) for part in parts).encode()).hexdigest()[:32]


def iterate(data: str | Path, model: str | Path | AnyModel, **settings: Any) -> Iterator[Rows]:
    """The rows of :func:`openjepa.embedding.embed`, batch by batch, without writing anything.

    Args:
        data, model, settings: as there (tokens, layers, clips, window, hop, split, batch_size, workers, device, precision,
            dtype, probe).

    Yields:
        rows in the order of the data; ``rows.values`` is ``(n, *shape)``, NaN where ``rows.texts["error"]`` says why, and
        None when no row of the batch could be read.
    """
    settings["device"] = pick_device(settings.get("device", "auto"))
    work = Work(str(data), str(model) if isinstance(model, Path) else model, **settings)
    job = work.open()
    order = job.order()
    for _, rows in job.encode([(0, len(order))], order):
        yield rows


def difference(have: Mapping[str, Any], want: Mapping[str, Any]) -> str | None:
    """In words what two embeddings differ in; None: nothing."""
    if have.get("model", {}).get("fingerprint") != want["model"]["fingerprint"]:
        return f"another model ({have.get('model', {}).get('name')})"
    if have.get("settings") != want["settings"]:
        mine, theirs = have.get("settings") or {}, want["settings"]
        key = next(name for name in [*theirs, *mine] if mine.get(name) != theirs.get(name))
        return f"other settings ({key} {mine.get(key)}, now {theirs.get(key)})"
    if have.get("data") != want["data"]:
        return f"other data ({have.get('data', {}).get('name')}, or its files have changed since)"
    if have.get("format") != want["format"]:
        return "another version of openjepa"
    return None
