"""Reading ``metrics.jsonl``: rows in, named series out. Tolerates what a killed or resumed run leaves behind."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openjepa.errors import RunError

Row = dict[str, Any]


@dataclass(frozen=True)
class Metrics:
    """The rows of one run by ascending step, each step once (the newest row wins: a resumed run repeats some).

    damaged: lines that were not a JSON object with a step (a run killed while writing leaves one).
    """

    rows: tuple[Row, ...] = ()
    damaged: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of a dotted key (``"health.cheats.mean_target"``), rows without it left out."""
        steps, values = [], []
        for row in self.rows:
            value = dig(row, key)
            if isinstance(value, int | float) and not isinstance(value, bool):
                steps.append(int(row["step"]))
                values.append(float(value))
        return steps, values

    def last(self, key: str) -> Any:
        """The newest value of a dotted key that is not None; None when no row has it."""
        return next((v for row in reversed(self.rows) if (v := dig(row, key)) is not None), None)

    def first(self, key: str) -> Any:
        """The oldest value of a dotted key that is not None; None when no row has it."""
        return next((v for row in self.rows if (v := dig(row, key)) is not None), None)


def dig(row: Any, key: str) -> Any:
    """Follow a dotted key through nested dictionaries and lists (``layers.rankme.0``); None where it ends early."""
    for part in key.split("."):
        if isinstance(row, list) and part.isdecimal() and int(part) < len(row):
            row = row[int(part)]
        elif isinstance(row, dict) and part in row:
            row = row[part]
        else:
            return None
    return row


def finite(value: Any) -> float | None:
    """``value`` as a float, or None when it is no finite number."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def read_metrics(run: str | Path) -> Metrics:
    """Read a run's metrics; ``run`` is the run directory or the ``metrics.jsonl`` itself.

    Raises:
        RunError: there is no such file.
    """
    path = Path(run)
    path = path / "metrics.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise RunError(f"{path}: no metrics here; give a run directory that holds metrics.jsonl")
    rows: dict[int, Row] = {}
    damaged = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            rows[int(row["step"])] = row
        except (ValueError, TypeError, KeyError):
            damaged += 1
    return Metrics(tuple(rows[step] for step in sorted(rows)), damaged)
