"""Where an export goes: never over something else, never half."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from openjepa.errors import RunError
from openjepa.hub.atomic import staged

_MARKS = ("config.json", "model.safetensors")  # of a directory that holds a model and nothing of anybody else


def check_place(path: Path, directory: bool, overwrite: bool) -> None:
    """Raise RunError where ``path`` cannot be written: it is taken (unless ``overwrite``), or is something else.

    Only a file, an empty directory or a directory that holds one model is ever overwritten.
    """
    beside = path.with_name(f"{path.name}.data")
    taken = next((place for place in ((path,) if directory else (path, beside)) if place.exists()), None)
    if taken is None:
        return
    if not overwrite:
        raise RunError(f"'{taken}' exists already: --overwrite replaces it, or name another --out")
    if path.is_dir() != directory and path.exists():
        what, wanted = ("a directory", "one file") if path.is_dir() else ("a file", "a directory")
        raise RunError(f"'{path}' is {what} and this export is {wanted}: name another --out")
    if directory and any(path.iterdir()):
        inside = any(item.is_dir() for item in path.iterdir())
        if inside or not all((path / name).is_file() for name in _MARKS):
            raise RunError(f"'{path}' holds more than an exported model, so it is not replaced: name another --out")


@contextlib.contextmanager
def place_for(path: Path, network: nn.Module) -> Iterator[Path]:
    """Where to write what shall be at ``path``, for ``with``; it appears there at the end, and not at all after an error.

    Raises:
        RunError: the disk has less room than the weights of ``network`` need, or it cannot be written.
    """
    with staged(path) as scratch:
        need = sum(tensor.numel() * tensor.element_size() for tensor in network.parameters())
        free = shutil.disk_usage(scratch).free
        if free < 1.1 * need:
            raise RunError(
                f"'{path.parent}' has {free / 1e6:,.0f} MB free and '{path.name}' needs {need / 1e6:,.0f} MB"
            )
        yield scratch / path.name
        beside = path.with_name(f"{path.name}.data")
        if beside.is_file() and not (scratch / beside.name).exists():
            beside.unlink()  # of the file that is replaced
