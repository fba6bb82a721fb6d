"""The run directory: who may use it, what lies in it, and reading it back.

``config.yaml`` (resolved, re-runnable), ``environment.json``, ``train.log``, ``metrics.jsonl``, ``tensorboard/``,
``checkpoints/``, ``model/``. A run is continued (``resume``), replaced (``overwrite``) or refused, never mixed.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from openjepa.config import Recipe, diff_recipes, dump_recipe, load_recipe
from openjepa.errors import ConfigError, RunError, nearest
from openjepa.hub.atomic import write_file
from openjepa.hub.checkpoint import list_checkpoints, read_last
from openjepa.training.environment import describe_environment
from openjepa.training.lock import RunLock, in_use
from openjepa.training.metrics import read_rows

CONFIG, ENVIRONMENT, LOG, METRICS, CHECKPOINTS, MODEL = (
    "config.yaml",
    "environment.json",
    "train.log",
    "metrics.jsonl",
    "checkpoints",
    "model",
)
# What --overwrite may delete, and nothing else: a folder may hold other things than a run.
BAD_FILES = "bad_files.json"
PADDED_FILES = "padded_videos.json"
INITIAL = "initial_weights.txt"  # which keys --init loaded, and how
STAGES = "stages"  # a run in stages: one run directory for each (openjepa.training.stages)
OURS = (
    CONFIG, ENVIRONMENT, LOG, METRICS, CHECKPOINTS, MODEL, BAD_FILES, PADDED_FILES, INITIAL, STAGES, "tensorboard",
    "scores.json", "report.html",
)  # fmt: skip

# A resumed run must be the same experiment. Under these keys it may differ: they change no number, or (machine) only in
# the last digits, or (length) say so in a sentence.
_FREE = (
    "name", "form", "log.", "checkpoint.", "health.", "probe.", "train.length", "train.micro_batch", "train.device",
    "train.precision", "train.strategy", "train.compile", "train.activation_checkpointing", "train.deterministic",
    "train.threads", "data.source", "data.workers", "data.cache", "data.max_bad_share", "data.eval_crop",
    "data.placement",
)  # fmt: skip


@dataclass(frozen=True)
class RunInfo:
    """A run as found on disk.

    status: ``running``, ``finished``, ``stopped`` (can be resumed) or ``empty`` (killed before its first step).
    step, total: finished steps by the newest row or checkpoint, and the planned length. row: the newest row of
    metrics. verdict: its health in words.
    """

    path: Path
    recipe: Recipe
    status: str
    step: int
    total: int | None
    started: datetime | None
    row: Mapping[str, Any] = field(default_factory=dict)
    verdict: str = ""
    has_model: bool = False

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name


class RunDirectory:
    """A run directory this process holds (it alone, by a lock). Make one with :meth:`claim`."""

    def __init__(self, path: Path, lock: RunLock, resumed: bool) -> None:
        self.path, self._lock, self.resumed = path, lock, resumed

    @classmethod
    def claim(cls, path: Path, *, resume: bool, init: Any = None, overwrite: bool = False) -> RunDirectory:
        """Create the directory, or take over the run in it as asked, and lock it.

        Raises:
            ConfigError: two of resume, init, overwrite that exclude each other.
            RunError: it holds a run (and neither resume nor overwrite is given), something that is no run, nothing to
                resume, or another process uses it.
        """
        if resume and (overwrite or init is not None):
            other = "--overwrite" if overwrite else "--init"
            raise ConfigError(f"--resume continues a run exactly and {other} starts a new one: give one of them")
        holds = _contents(path)
        if resume and holds in ("nothing", "other things"):
            raise RunError(f"there is no run to resume in '{path}'{_nearest_run(path)}")
        if holds == "other things":
            raise RunError(f"'{path}' is not empty and holds no run: choose another --out")
        if holds == "a run" and not resume and not overwrite:
            raise RunError(
                f"'{path}' holds a run already: --resume continues it, --overwrite replaces it, or choose another --out"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot create run directory '{path}': {error.strerror}") from error
        lock = RunLock.take(path)
        if overwrite:
            _clear(path)
        return cls(path, lock, resumed=resume)

    def close(self) -> None:
        """Give the lock back."""
        self._lock.release()

    def check_same(self, recipe: Recipe) -> list[str]:
        """:func:`check_same` of this directory."""
        return check_same(self.path, recipe)

    def describe(self, recipe: Recipe, plan: Mapping[str, Any]) -> None:
        """Write ``config.yaml`` and add this session to ``environment.json``."""
        write_file(self.path / CONFIG, dump_recipe(recipe))
        known = _read_json(self.path / ENVIRONMENT)
        sessions = known.get("sessions", []) if self.resumed else []
        write_file(self.path / ENVIRONMENT, {"plan": dict(plan), "sessions": [*sessions, describe_environment()]})


def check_same(path: Path, recipe: Recipe) -> list[str]:
    """Compare with the recipe the run at ``path`` was started with; returns sentences about what differs harmlessly.

    Raises:
        RunError: a key differs that makes it another experiment.
    """
    if not (path / CONFIG).exists():
        return []  # killed before the first file was whole
    pairs = diff_recipes(load_recipe(path / CONFIG), recipe)
    wrong = [(key, a, b) for key, a, b in pairs if not key.startswith(_FREE)]
    if wrong:
        key, a, b = wrong[0]
        more = f" and {len(wrong) - 1} more keys" if len(wrong) > 1 else ""
        raise RunError(
            f"'{path}' was started with {key}={a}, not {b}{more}: resume it as it was, or start a new run with --init"
        )
    return [f"{key} is {b} now (was {a})" for key, a, b in pairs]


def read_run(path: str | Path) -> RunInfo:
    """Read a run directory, also one that is being written.

    Raises:
        RunError: ``path`` holds no run.
    """
    path = Path(path)
    if not (path / CONFIG).is_file():
        raise RunError(f"'{path}' holds no run (no {CONFIG}){_nearest_run(path)}")
    environment = _read_json(path / ENVIRONMENT)
    rows = read_rows(path / METRICS)
    row = rows[-1] if rows else {}
    last = read_last(path / CHECKPOINTS)
    saved = int(last.name.removeprefix("step-")) if last is not None else 0
    total = environment.get("plan", {}).get("steps")
    step = max(int(row.get("step", 0)), saved)
    sessions = environment.get("sessions", [])
    started = datetime.fromisoformat(sessions[0]["started"]) if sessions else None
    has_model = (path / MODEL / "model.safetensors").exists()
    if in_use(path):
        status = "running"
    elif total is not None and (saved >= total or (has_model and step >= total)):  # checkpoints may have been cleared
        status = "finished"
    else:
        saved_some = any(
            list_checkpoints(root) for root in (path / CHECKPOINTS, *path.glob(f"{STAGES}/*/{CHECKPOINTS}"))
        )
        status = "stopped" if saved_some else "empty"
    verdict = str(row.get("health", {}).get("verdict", ""))
    return RunInfo(path, load_recipe(path / CONFIG), status, step, total, started, row, verdict, has_model)


def list_runs(root: str | Path = "runs") -> list[RunInfo]:
    """Every run directly below ``root`` (or ``root`` itself), newest first; what cannot be read is left out."""
    root = Path(root)
    candidates = [root] if (root / CONFIG).is_file() else sorted(root.iterdir()) if root.is_dir() else []
    runs = []
    for path in candidates:
        try:
            runs.append(read_run(path))
        except (RunError, ConfigError):
            continue
    return sorted(runs, key=lambda run: run.started.timestamp() if run.started else 0.0, reverse=True)


def default_out(recipe: Recipe, root: str | Path = "runs") -> Path:
    """``runs/<recipe>-<date>-<time>``: where a run goes when nobody says."""
    return Path(root) / f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _contents(path: Path) -> str:
    """``nothing`` (absent or empty), ``a run``, ``traces`` (a run killed before its first file), or ``other things``."""
    if path.exists() and not path.is_dir():
        return "other things"
    names = {item.name for item in path.iterdir()} if path.is_dir() else set()
    if not names:
        return "nothing"
    if CONFIG in names:
        return "a run"
    return "traces" if RunLock.FILE in names and names <= {RunLock.FILE, *OURS} | _hidden(names) else "other things"


def _hidden(names: set[str]) -> set[str]:
    """Scratch files of an interrupted atomic write."""
    return {name for name in names if name.startswith((".new-", ".old-", ".trash-"))}


def _clear(path: Path) -> None:
    """Remove the run's own files, and only those."""
    for name in OURS:
        target = path / name
        try:
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"cannot remove '{target}' of the old run: {error.strerror}") from error


def _nearest_run(path: Path) -> str:
    """`` (runs there: …)`` from the parent directory, or nothing."""
    parent = path.parent
    names = [item.parent.name for item in parent.glob(f"*/{CONFIG}")] if parent.is_dir() else []
    return nearest(path.name, names)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
