"""Where pictures go: files written whole or not at all, and the names they may have."""

from __future__ import annotations

import os
import time
from pathlib import Path

from openjepa.errors import ConfigError, RunError


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file whole or not at all, making its folder.

    Raises:
        RunError: the disk is full, the folder is not writable, …
    """
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(content)
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise RunError(f"'{path}' cannot be written: {error.strerror or error}") from error
    return path


def png_path(out: str | Path) -> Path:
    """``out``, which has to end in ``.png``."""
    path = Path(out)
    if path.suffix.lower() != ".png":
        raise ConfigError(f"pictures are written as PNG, so '{path}' should be '{path.with_suffix('.png')}'")
    return path
