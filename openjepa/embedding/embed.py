"""``openjepa embed``: features of a whole data set in one file, resumable after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from openjepa.embedding.encoding import Dtype, Tokens, pick_device
from openjepa.embedding.filling import OnProgress, covered, fill, fill_with, wait_for_ranks
from openjepa.embedding.formats import Format, format_of
from openjepa.embedding.order import Order
from openjepa.embedding.parts import JOINED, PartsFolder
from openjepa.embedding.rows import Layout
from openjepa.embedding.store import Store, open_store
from openjepa.embedding.work import Job, Work, difference
from openjepa.errors import ConfigError, DataError, RunError, nearest
from openjepa.features import ClipOptions
from openjepa.features.extraction import Layers, Precision
from openjepa.hub.atomic import remove_directory, sync_directory, write_error
from openjepa.model import AnyModel

Engine = Literal["local", "ray"]
_SHOWN = 1000  # bad files named in the result; all of them are in the file
_WAIT = 600.0  # seconds that other ranks wait for the first one to write down the plan


@dataclass(frozen=True)
class Embedded:
    """What :func:`embed` made.

    path: the file. rows: in it. failed: of them without features; bad: id → reason of the first thousand. shape: of one
    row's features. computed: rows of this call; others were there already. seconds: it took.
    finished: False on all but the first of several ranks.
    """

    path: Path
    rows: int
    failed: int
    shape: tuple[int, ...]
    computed: int
    seconds: float
    bad: Mapping[str, str] = field(default_factory=dict)
    finished: bool = True


def embed(
    data: str | Path,
    model: str | Path | AnyModel,
    out: str | Path,
    *,
    tokens: Tokens = "pooled",
    layers: Layers = "last",
    clips: ClipOptions | None = None,
    window: float | None = None,
    hop: float | None = None,
    split: Literal["train", "val"] = "train",
    batch_size: int | None = None,
    workers: int | Literal["auto"] = "auto",
    device: str = "auto",
    precision: Precision = "fp32",
    dtype: Dtype = "float32",
    probe: str | Path | None = None,
    jobs: int = 1,
    engine: Engine = "local",
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> Embedded:
    """Features of every item of ``data`` in one file: a row each, in order; a file that cannot be read is a row with an error.

    Killed at any moment, the same command again computes what is missing and no row twice.

    Args:
        data: folder, list file, shards, or ``scenes``. model: what ``openjepa.load`` takes, or a loaded model.
        out: ``.parquet``, ``.npz``, ``.safetensors``, ``.lance`` or ``.zarr``.
        tokens: ``pooled``, ``patch``, ``frame`` or ``attentive``; layers, precision, dtype: see
            :class:`openjepa.embedding.encoding.Encoding`. probe: file of a published attentive probe.
        clips: how videos are looked at. window, hop: a row for each place of a window of so many seconds instead of one per
            video. split: which part of a folder that has ``train`` and ``val``.
        batch_size: rows encoded at once (64 images or 4 clips). workers: processes that read files.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``. jobs: processes that encode, each with a model of its own;
            under ``torchrun`` every rank takes its share instead. engine: ``ray`` spreads the work over a Ray cluster.
        overwrite: replace a file of another model, of other settings or data.
        on_progress: called with rows done and their number.

    Raises:
        ConfigError, DataError, CheckpointError, RunError: one line each.
    """
    started, target = time.monotonic(), Path(out)
    kind = format_of(target)
    kind.check()
    name = str(model) if isinstance(model, Path) else model
    work = Work(
        str(data), name, tokens, layers, clips or ClipOptions(), window, hop, split, batch_size, workers,
        pick_device(device), precision, dtype, None if probe is None else str(probe),
    )  # fmt: skip
    _check_engine(work, jobs, engine)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and (jobs > 1 or engine != "local" or overwrite):
        raise ConfigError("under a launcher every rank is a job: leave out --jobs, --engine and --overwrite")
    job = work.open()
    task = _Task(job, job.plan(), target, kind, PartsFolder.beside(target), on_progress)
    if rank > 0:
        return task.follow(rank, world, started)
    with task.folder.locked():
        found = task.finished(overwrite)
        if found is not None:
            task.folder.remove()
            return _result(found, 0, started)
        order = task.begin(overwrite)
        computed = task.compute(order, jobs, engine, world)
        return _result(task.join(order), computed, started)


@dataclass
class _Task:
    """One output on its way."""

    job: Job
    plan: dict[str, Any]
    out: Path
    kind: Format
    folder: PartsFolder
    on_progress: OnProgress | None

    def finished(self, overwrite: bool) -> Store | None:
        """The output when it is there already and the same. Raises RunError when it is another."""
        if not self.out.exists():
            return None
        try:
            store = open_store(self.out)
        except DataError as error:
            if overwrite:
                return None
            raise RunError(f"'{self.out}' exists and is not replaced without --overwrite ({error})") from error
        different = difference(store.about, self.plan)
        if different is None:
            return store
        if not overwrite:
            raise RunError(
                f"'{self.out}' holds features of {different}: name another --out, or replace it with --overwrite"
            )
        return None

    def begin(self, overwrite: bool) -> Order:
        """The rows, as written down by an earlier call or now. Raises RunError when another embedding was begun here."""
        begun = self.folder.plan()
        different = None if begun is None else difference(begun, self.plan)
        if different is not None and not overwrite:
            raise RunError(
                f"'{self.folder.path}' was begun with {different}: finish that with its own command, or start over with "
                "--overwrite"
            )
        if begun is not None and different is None:
            self.folder.check()
            return self.folder.order(begun)
        self.folder.remove(keep_lock=True)
        order = self.job.order()
        self.folder.begin(self.plan, order)
        return order

    def compute(self, order: Order, jobs: int, engine: Engine, world: int) -> int:
        """Compute what is missing; returns how many rows of it this call computed."""
        total, done = len(order), covered(self.folder)

        def on_rows(count: int) -> None:
            nonlocal done
            done += count
            if self.on_progress is not None:
                self.on_progress(done, total)

        if self.on_progress is not None:
            self.on_progress(done, total)
        if done == total:
            return 0
        if engine == "ray":
            from openjepa.embedding.cluster import fill_on_ray

            return fill_on_ray(jobs, self.job, order, self.folder, on_rows)
        if jobs > 1:
            block = min(self.job.batch_size * 8, -(-total // jobs))
            return fill_with(jobs, self.job.work, self.folder, block, total, self.on_progress)
        computed = fill(self.job, order, self.folder, world=world, on_rows=on_rows)
        if world > 1:
            wait_for_ranks(self.folder, total, self.on_progress)
        return computed

    def follow(self, rank: int, world: int, started: float) -> Embedded:
        """What ranks other than the first do: their share."""
        until = time.monotonic() + _WAIT
        while (begun := self.folder.plan()) is None or difference(begun, self.plan) is not None:
            if self.out.exists() and begun is None:
                break
            if time.monotonic() > until:
                raise RunError(f"rank 0 wrote no plan to '{self.folder.path}': do all ranks see the same file system?")
            time.sleep(0.2)
        computed = 0
        if begun is not None:
            computed = fill(self.job, self.folder.order(begun), self.folder, rank=rank, world=world)
        return Embedded(self.out, 0, 0, (), computed, time.monotonic() - started, finished=False)

    def join(self, order: Order) -> Store:
        """Put the parts together as the output, atomically; they are removed when it is there."""
        total, about = len(order), {key: value for key, value in self.plan.items() if key != "items"}
        shape, dtype = self._shape(total)
        depends = [self.plan["model"]["fingerprint"], self.plan["settings"], self.plan["data"]]
        digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode())
        for rows in self.folder.in_order(total):
            digest.update("".join(f"{text}\n" for text in rows.texts["error"]).encode())
            digest.update(np.ascontiguousarray(rows.filled(shape, dtype)).data)
        about |= {"shape": list(shape), "dtype": dtype, "stamp": digest.hexdigest()[:32]}
        layout = Layout.of(self.folder.in_order(total), shape, dtype, about)
        scratch = self.folder.path / JOINED / self.out.name
        try:
            shutil.rmtree(scratch.parent, ignore_errors=True)
            scratch.parent.mkdir()
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.kind.write(scratch, layout, lambda: self.folder.in_order(total))
            assert len(open_store(scratch)) == total
            _flush(scratch)
            if self.out.is_dir():
                remove_directory(self.out)
            os.replace(scratch, self.out)
            sync_directory(self.out.parent)
        except OSError as error:
            shutil.rmtree(scratch.parent, ignore_errors=True)
            raise write_error(self.out, error) from error
        self.folder.remove()
        return open_store(self.out)

    def _shape(self, total: int) -> tuple[tuple[int, ...], str]:
        """Of one row's features. Raises DataError: no row has any, or they differ."""
        known: tuple[tuple[int, ...], str] | None = None
        reason = "it is empty"
        for rows in self.folder.in_order(total):
            if rows.values is None:
                reason = f"the first: {rows.texts['id'][0]}: {rows.texts['error'][0]}" if known is None else reason
                continue
            here = tuple(rows.values.shape[1:]), rows.values.dtype.name
            if known is not None and here != known:
                raise DataError(
                    f"features changed their shape from {known[0]} to {here[0]}: show all items at one size"
                )
            known = here
        if known is None:
            self.folder.remove()
            raise DataError(f"none of the {total} items of {self.job.source.name} can be read; {reason}")
        return known


def _result(store: Store, computed: int, started: float) -> Embedded:
    failed = (~store.ok).nonzero()[0].tolist()
    bad = {store.ids[row]: str(store.meta["error"][row]) for row in failed[:_SHOWN]}
    return Embedded(store.path, len(store), len(failed), store.shape, computed, time.monotonic() - started, bad)


def _check_engine(work: Work, jobs: int, engine: str) -> None:
    if engine not in ("local", "ray"):
        raise ConfigError(f"engine='{engine}' is not one of local, ray{nearest(engine, ('local', 'ray'))}")
    if jobs < 1:
        raise ConfigError(f"jobs is at least 1, not {jobs}")
    if (jobs > 1 or engine == "ray") and not isinstance(work.model, str):
        raise ConfigError("several processes each load the model: name it (a path or 'hf:…') instead of passing it")


def _flush(path: Path) -> None:
    """Every file of the output to disk."""
    for item in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if item.is_file():
            with item.open("rb+") as file:
                os.fsync(file.fileno())
