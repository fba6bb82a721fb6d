"""One run, one process: a lock that the system takes back when its holder dies, however it dies."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from pathlib import Path

from openjepa.errors import RunError

try:
    import fcntl
except ImportError:  # Windows has no record locks: there the file's existence with a living process id must do
    fcntl = None  # type: ignore[assignment]

# POSIX record locks are not inherited by forked loader workers (unlike flock), so a worker that outlives a killed run
# does not keep it locked. They do not exclude the same process, hence this set.
_held: set[Path] = set()


class RunLock:
    """The lock of one run directory, held until :meth:`release` or the end of the process."""

    FILE = ".lock"

    def __init__(self, path: Path, handle: int) -> None:
        self._path, self._handle = path, handle

    @classmethod
    def take(cls, directory: Path, patience: float = 1.0) -> RunLock:
        """Lock ``directory``, trying for ``patience`` seconds.

        Raises:
            RunError: another process (or another run in this one) holds it; the line says which.
        """
        path = directory.resolve() / cls.FILE
        if path in _held:
            raise RunError(f"run '{directory}' is in use by this very process")
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunError(f"cannot write into run directory '{directory}': {error.strerror}") from error
        deadline = time.monotonic() + patience
        while not _try_lock(handle):
            if time.monotonic() > deadline:
                holder = os.pread(handle, 100, 0).decode(errors="replace").strip() or "another process"
                os.close(handle)
                raise RunError(f"run '{directory}' is in use by {holder}: wait for it, or choose another --out")
            time.sleep(0.05)
        with contextlib.suppress(OSError):  # a full disk must not keep a run from being resumed
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
        _held.add(path)
        return cls(path, handle)

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._path in _held:
            _held.discard(self._path)
            os.close(self._handle)


def in_use(directory: Path) -> bool:
    """Whether a living process holds the lock of ``directory``."""
    path = directory.resolve() / RunLock.FILE
    if path in _held:  # opening and closing our own lock file would drop the lock
        return True
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _try_lock(handle)
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
