"""``metrics.jsonl`` and TensorBoard events: one row per measurement, none twice, also after a kill and a resume."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from openjepa.errors import RunError, require
from openjepa.hub.atomic import write_error, write_file


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a ``metrics.jsonl``, oldest first; a last line that a kill cut short is left out."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


class Metrics:
    """Appends rows to ``metrics.jsonl`` (and TensorBoard) and keeps the run's history for the verdict.

    Args:
        directory: the run directory.
        after: rows of later steps are dropped: the run goes on from this step. None: start empty.
    """

    def __init__(self, directory: Path, *, after: int | None, tensorboard: bool | Literal["auto"]) -> None:
        self.path = directory / "metrics.jsonl"
        self._directory = directory
        self._tensorboard = _wants_tensorboard(tensorboard)
        self._events: Any = None
        self.rows: list[dict[str, Any]] = []
        self.rewind(after)

    def rewind(self, after: int | None) -> None:
        """Forget every row of a later step than ``after`` (None: all), on disk too."""
        kept = [] if after is None else [row for row in read_rows(self.path) if row.get("step", 0) <= after]
        self.close()
        self.rows = kept
        write_file(self.path, "".join(_line(row) for row in kept).encode())
        if self._tensorboard:
            self._events = _open_events(self._directory / "tensorboard", None if after is None else after + 1)

    def write(self, row: dict[str, Any]) -> None:
        """Append one row.

        Raises:
            RunError: the disk is full.
        """
        row = finite(row)
        self.rows.append(row)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(row))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_error(self.path, error) from error
        if self._events is not None:
            for name, value in _scalars(row):
                self._events.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Flush and close the events."""
        if self._events is not None:
            with contextlib.suppress(OSError):  # events are a convenience; a full disk shows in metrics.jsonl
                self._events.close()
            self._events = None


def finite(value: Any) -> Any:
    """JSON knows no NaN: what is not finite becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _scalars(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of a row under names like ``health/rankme``."""
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{key}/")
        elif isinstance(value, list):
            yield from _scalars({str(i): item for i, item in enumerate(value)}, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and key not in ("step", "time"):
            yield f"{prefix}{key}", float(value)


def _wants_tensorboard(wish: bool | Literal["auto"]) -> bool:
    if wish == "auto":
        return importlib.util.find_spec("tensorboard") is not None
    if wish:
        require("tensorboard", "loggers")
    return wish


def _open_events(directory: Path, purge: int | None) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    try:
        return SummaryWriter(str(directory), purge_step=purge)
    except OSError as error:
        raise RunError(f"cannot write TensorBoard events to '{directory}': {error.strerror}") from error
