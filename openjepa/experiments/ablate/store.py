"""Where an ablation keeps things, so that a kill at any moment loses at most the steps since the last checkpoint.

``cells/<key>/``: run directories. ``scores/<key>.json``: finished cells. ``failed/<key>.json``: cells that failed, with the
reason. ``logs/<key>.txt``: what a worker said. ``todo/``: its task. ``<grid>/``: results.json, table.md, plot.png, compute.png.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openjepa.errors import RunError
from openjepa.experiments.ablate.cells import Cell
from openjepa.hub.atomic import clean_stale, write_file
from openjepa.training.lock import RunLock

FAILED, STOPPED = 1, 75  # exit codes of a worker: the reason is on disk; a signal ended a training early


@dataclass(frozen=True)
class Store:
    """An ablation's directory."""

    root: Path

    def open(self) -> RunLock:
        """Create the directory and lock it for this process. Raises RunError when another runner holds it."""
        try:
            for name in ("cells", "scores", "failed", "logs", "todo"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot create '{self.root}': {error.strerror}") from error
        lock = RunLock.take(self.root)
        for name in ("scores", "failed", "todo"):
            clean_stale(self.root / name)
        return lock

    def run_directory(self, cell: Cell) -> Path:
        """Where a trained cell's run lives; cells that differ in the evaluation only share it."""
        return self.root / "cells" / cell.run_key

    def finished(self, cell: Cell) -> dict[str, Any] | None:
        """The result of a finished cell."""
        return read_json(self.score_file(cell))

    def failure(self, cell: Cell) -> str | None:
        """Why a cell failed."""
        found = read_json(self.failure_file(cell))
        return None if found is None else str(found.get("error", "no reason is known"))

    def score_file(self, cell: Cell) -> Path:
        """Holds a finished cell's result."""
        return self.root / "scores" / f"{cell.key}.json"

    def failure_file(self, cell: Cell) -> Path:
        """Holds the reason a cell failed."""
        return self.root / "failed" / f"{cell.key}.json"

    def log_file(self, cell: Cell) -> Path:
        """What the cell's worker wrote to its standard output and error."""
        return self.root / "logs" / f"{cell.key}.txt"

    def put_task(self, cell: Cell, *, fresh: bool, threads: int) -> Path:
        """Write what a worker is to do; ``fresh`` throws an older run away."""
        task = {
            **cell.to_json(),
            "fresh": fresh,
            "threads": threads,
            "run_dir": str(self.run_directory(cell)),
            "result": str(self.score_file(cell)),
            "log": str(self.log_file(cell)),
            "failure": str(self.failure_file(cell)),
        }
        return write_file(self.root / "todo" / f"{cell.key}.json", task)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None when the file is not there or was cut short."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
