"""``--engine ray``: the same rows from the processes of a Ray cluster, streamed back to the one that writes them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from openjepa.embedding.order import Order, Span, batches_of, missing_spans
from openjepa.embedding.parts import PartsFolder, joined
from openjepa.embedding.rows import NUMBERS, Rows
from openjepa.embedding.work import Job, Work
from openjepa.errors import DataError, OpenJepaError, require

_BATCHES = 4  # per task: what is computed again when a node is lost


class _Encoder:
    """Lives in a process of the cluster: opens model and data once, then encodes stretches of rows.

    The data must be at the same place on every node (a shared file system), and the model by the same name.
    """

    def __init__(self, work: Work, order: Order, plan: dict[str, Any]) -> None:
        self.work, self.order, self.plan = work, order, plan
        self.job: Job | None = None

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        """Rows ``start:stop`` of the plan, as bytes; or the error a user can mend, which Ray would wrap in a page of trace."""
        start, stop = int(task["start"]), int(task["stop"])
        try:
            if self.job is None:
                self.job = self.work.open()
                self.job.check(self.plan)
            rows = joined([rows for _, rows in self.job.encode([(start, stop)], self.order)])
        except OpenJepaError as error:
            return {"start": start, "rows": b"", "error": str(error)}
        return {"start": start, "rows": _packed(rows), "error": ""}


def fill_on_ray(
    jobs: int, job: Job, order: Order, folder: PartsFolder, on_rows: Callable[[int], None] | None = None
) -> int:
    """Compute the missing rows on a Ray cluster, ``jobs`` encoders at a time, and keep them here as they come.

    Uses the cluster this process is connected to, or ``RAY_ADDRESS``; without either a local one is started and ended.
    Each encoder takes one GPU where the work is for one, else one CPU. Rows stream through: memory does not grow.

    Raises:
        MissingExtra: Ray is not installed. DataError: what an encoder said.
    """
    ray = require("ray", "cluster")
    data = require("ray.data", "cluster")
    spans = batches_of(missing_spans(len(order), folder.spans()), job.batch_size * _BATCHES)
    own = not ray.is_initialized()
    if own:
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        return _stream(data, job, order, folder, spans, jobs, on_rows)
    finally:
        if own:
            ray.shutdown()


def _stream(
    data: Any,
    job: Job,
    order: Order,
    folder: PartsFolder,
    spans: list[Span],
    jobs: int,
    on_rows: Callable[[int], None] | None,
) -> int:
    """Run the tasks and keep what they return."""
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    tasks = data.from_items([{"start": start, "stop": stop} for start, stop in spans], override_num_blocks=len(spans))
    gpu = job.encoding.device.type == "cuda"
    work = job.work
    found = tasks.map(
        _Encoder,
        fn_constructor_args=(work, order, job.plan()),
        concurrency=jobs,
        **({"num_gpus": 1} if gpu else {"num_cpus": 1}),
    )
    count = 0
    for result in found.iter_rows():
        if result["error"]:
            raise DataError(result["error"])
        rows = _unpacked(result["rows"])
        folder.add(int(result["start"]), rows)
        count += len(rows)
        if on_rows is not None:
            on_rows(len(rows))
    return count


def _packed(rows: Rows) -> bytes:
    """Rows as npz."""
    stream = io.BytesIO()
    arrays = {name: rows.numbers[name] for name in NUMBERS}
    arrays["texts"] = np.frombuffer(json.dumps(dict(rows.texts)).encode(), np.uint8)
    if rows.values is not None:
        arrays["values"] = rows.values
    np.savez(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def _unpacked(data: bytes) -> Rows:
    """The inverse of :func:`_packed`; nothing in it can run code."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        numbers = {name: file[name] for name in NUMBERS}
        return Rows(json.loads(file["texts"].tobytes()), numbers, file.get("values"))
