"""How many loader processes, how they start, and how they behave when things end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import torch

from openjepa.errors import DataError

MOST_WORKERS = 8
_TINY = 64 * 64  # pixels up to which augmenting a cached image is cheaper than a process of its own on a small machine


class Task(Protocol):
    """What a loader process sends."""

    def pin_memory(self) -> Any:
        """Itself, its tensors in pinned memory."""
        ...


T = TypeVar("T", bound=Task)


def available_cores() -> int:
    """Cores this process may use: its affinity, and its container's CPU quota where there is one."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cores = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(int(int(quota) / int(period)), 1))
    except (OSError, ValueError):
        pass  # no cgroup v2
    return cores


def auto_workers(image_size: int | tuple[int, int], *, cached: bool, cores: int | None = None, ranks: int = 1) -> int:
    """Loader processes for one rank.

    One core per rank stays with training; at most 8. On at most two cores, tiny cached images are augmented in the
    training process: a second process would only take the core that the forward pass needs.

    Args:
        cached: images come from memory (:class:`openjepa.data.cache.MemoryCache`).
        cores: cores of the machine (default: what this process may use). ranks: training processes on it.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    share = (available_cores() if cores is None else cores) // max(ranks, 1)
    if cached and height * width <= _TINY and share <= 2:
        return 0
    return max(min(MOST_WORKERS, share - 1), 0)


def start_method() -> str | None:
    """``fork`` on Linux: workers start in milliseconds and share the cache. None means the platform's own."""
    return "fork" if sys.platform == "linux" else None


def init_worker(_: int) -> None:
    """Run in each new loader process.

    One thread each. Ctrl-C and SIGTERM, which a terminal or cluster sends to the whole group, are for the training
    process, which saves and then closes its loader; when it dies, torch's watchdog ends the worker within seconds.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def keep_sigchld() -> Iterator[None]:
    """Undo the SIGCHLD handler torch installs with its first workers.

    It raises RuntimeError in whatever line the main thread is at when a worker dies; without it the loader itself
    notices, within five seconds, where the error can be caught.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)


def run_tasks(dataset: torch.utils.data.Dataset[T], order: range, workers: int, pin: bool) -> Generator[T]:
    """``dataset[i] for i in order`` from ``workers`` processes, or from this one; ``pin``: in pinned memory.

    Raises:
        DataError: a loader process died.
    """
    if workers == 0:
        for index in order:
            yield dataset[index].pin_memory() if pin else dataset[index]
        return
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=None,
        sampler=order,
        num_workers=min(workers, max(len(order), 1)),
        collate_fn=cast(Any, _identity),  # torch's types know only collation of lists
        pin_memory=pin,
        worker_init_fn=init_worker,
        multiprocessing_context=start_method(),
        generator=torch.Generator(),  # torch would draw the workers' base seed from the global one
    )
    with keep_sigchld():
        stream = iter(loader)
    try:
        while True:
            try:
                task = next(stream)
            except StopIteration:
                return
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise DataError(_death(error)) from error
            yield task
    finally:
        _end(stream)


def _identity(task: T) -> T:
    """No collation: a dataset item is a batch already."""
    return task


def _death(error: RuntimeError) -> str:
    """One line about a loader process that died."""
    reason = " ".join(str(error).split())
    hint = "little shared memory (/dev/shm)" if "us error" in reason else "out of memory, or killed from outside"
    advice = "fewer data.workers may help, 0 reads in the training process"
    return f"a data loader process died ({reason[:160]}): {hint}? {advice}"


def _end(stream: Any) -> None:
    """Ask the loader's processes to end, and kill those that hang in a read (they ignore SIGTERM)."""
    processes = list(getattr(stream, "_workers", ()))
    shutdown = getattr(stream, "_shutdown_workers", None)
    if shutdown is not None:
        shutdown()
    for process in processes:
        if process.is_alive():
            process.kill()
