"""A process that computes cells one after another: ``python -m openjepa.experiments.ablate.worker``.

It reads task files' names from standard input, one per line. When its input closes the parent is gone (even by ``kill -9``)
and the worker ends at once, so that a new runner never meets an old worker; a run it was training goes on from its last
checkpoint. Loading torch takes longer than scoring a small encoder, hence one process for many cells; after a cell that
failed it ends, and the next cell gets a fresh one.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any

from openjepa.errors import OpenJepaError
from openjepa.experiments.ablate.store import FAILED, STOPPED
from openjepa.hub.atomic import write_file

_ORPHANED = 76


def main() -> int:
    """Do tasks until the input ends; the exit code says why it ended before."""
    tasks: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_tasks, args=(_own_input(), tasks), daemon=True).start()
    while True:
        task = json.loads(Path(tasks.get()).read_text(encoding="utf-8"))
        _log_to(task["log"])
        code = _do(task)
        if code:
            return code


def _own_input() -> int:
    """A handle of our own on standard input, which is emptied.

    A thread that waits in ``sys.stdin`` holds its lock; a forked data loader would close ``sys.stdin`` and wait forever.
    """
    handle, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return handle


def _read_tasks(handle: int, tasks: queue.SimpleQueue[str]) -> None:
    """Hand lines on; end the process with its input."""
    rest = b""
    while received := os.read(handle, 65536):
        *lines, rest = (rest + received).split(b"\n")
        for line in lines:
            tasks.put(line.decode())
    os._exit(_ORPHANED)


def _log_to(path: str) -> None:
    """Send standard output and error to the cell's log, also what C code writes."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(handle, stream.fileno())
    os.close(handle)


def _do(task: dict[str, Any]) -> int:
    """One cell: 0 finished, FAILED (the reason is on disk), STOPPED by a signal."""
    import torch

    from openjepa.experiments.ablate.judge import work

    torch.set_num_threads(task["threads"])
    try:
        result = work(task)
    except Exception as error:  # whatever it is, the other cells go on and the table says why
        text = " ".join(str(error).split()) or type(error).__name__
        reason = text if isinstance(error, OpenJepaError) else f"{type(error).__name__}: {text}"
        write_file(Path(task["failure"]), {"error": reason[:400], "label": task["label"], "seed": task["seed"]})
        if not isinstance(error, OpenJepaError):
            import traceback

            traceback.print_exc()
        return FAILED
    if result is None:
        return STOPPED
    write_file(Path(task["result"]), result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
