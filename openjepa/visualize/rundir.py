"""Opening a run directory for the report. Every part is optional: what is missing becomes a sentence, not an error."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from openjepa.config import diff_recipes, load_recipe
from openjepa.config.schema import Recipe
from openjepa.errors import OpenJepaError, RunError
from openjepa.visualize.metrics import Metrics, read_metrics
from openjepa.visualize.scores import Entry, read_scores

log = logging.getLogger(__name__)
T = TypeVar("T")
LOG_LINES = 60  # of train.log: the decisions stand at its beginning


@dataclass
class RunFacts:
    """What a run directory holds. ``missing`` has one sentence for each part that could not be read."""

    path: Path
    recipe: Recipe | None = None
    config_text: str = ""
    changes: list[tuple[str, Any, Any]] = field(default_factory=list)
    base: str = ""
    metrics: Metrics = field(default_factory=Metrics)
    scores: list[Entry] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    log_lines: list[str] = field(default_factory=list)
    bad_files: dict[str, str] | None = None
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def model(self) -> Path | None:
        """Directory of the exported encoder, None when there is none yet."""
        path = self.path / "model"
        return path if (path / "config.json").is_file() or (path / "model.safetensors").is_file() else None

    def attempt(self, part: str, work: Callable[[], T], default: Any) -> T:
        """Do ``work``; when it fails, note why under ``part`` and go on with ``default``.

        A report is written after hours of training: one part that cannot be drawn must not cost the others, so this
        catches everything, says so in the page, and logs what was not expected with its trace.
        """
        try:
            return work()
        except (OpenJepaError, OSError) as error:
            self.missing[part] = str(error)
        except Exception as error:
            log.warning("the report's part '%s' failed", part, exc_info=True)
            self.missing[part] = f"{type(error).__name__}: {error}"
        fallback: T = default
        return fallback


def open_run(path: str | Path) -> RunFacts:
    """Read everything a report needs from a run directory.

    Raises:
        RunError: ``path`` is not a directory, or holds neither a config nor metrics nor a model.
    """
    path = Path(path)
    if not path.is_dir():
        raise RunError(f"{path} is not a run directory: give the folder that 'openjepa pretrain' wrote")
    facts = RunFacts(path)
    if not any((path / name).exists() for name in ("config.yaml", "metrics.jsonl", "model")):
        raise RunError(f"{path} holds no run: config.yaml, metrics.jsonl and model/ are all missing")
    facts.recipe = facts.attempt("recipe", lambda: load_recipe(path / "config.yaml"), None)
    facts.config_text = facts.attempt("config", lambda: _text(path / "config.yaml"), "")
    facts.metrics = facts.attempt("metrics", lambda: read_metrics(path), Metrics())
    facts.scores = facts.attempt("scores", lambda: read_scores(path / "scores.json"), [])
    facts.environment = facts.attempt("environment", lambda: _mapping(path / "environment.json"), {})
    facts.bad_files = facts.attempt("bad_files", lambda: _bad_files(path / "bad_files.json"), None)
    facts.log_lines = _text(path / "train.log").splitlines()[:LOG_LINES]
    if facts.recipe is not None:
        recipe = facts.recipe
        facts.base, facts.changes = facts.attempt("changes", lambda: _changes(recipe), ("", []))
    return facts


def _text(path: Path) -> str:
    """A text file's content, empty when it is not there."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _mapping(path: Path) -> dict[str, Any]:
    """A JSON object, empty when the file is not there."""
    raw = json.loads(_text(path) or "{}")
    if not isinstance(raw, dict):
        raise RunError(f"{path} should hold one object")
    return raw


def _bad_files(path: Path) -> dict[str, str] | None:
    """Unreadable files with reasons, from a mapping or a list; None when training wrote no such file."""
    text = _text(path)
    if not text:
        return None
    raw = json.loads(text)
    if isinstance(raw, Mapping):
        return {str(name): str(reason) for name, reason in raw.items()}
    if not isinstance(raw, list):
        raise RunError(f"{path} should hold names with reasons")
    pairs = [(r.get("path", "?"), r.get("reason", "")) if isinstance(r, dict) else (r, "") for r in raw]
    return {str(name): str(reason) for name, reason in pairs}


def _changes(recipe: Recipe) -> tuple[str, list[tuple[str, Any, Any]]]:
    """Name of the shipped recipe the run started from and ``(key, shipped value, run's value)`` for what differs."""
    base = load_recipe(recipe.name)
    return recipe.name, [change for change in diff_recipes(base, recipe) if change[0] != "data.source"]


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested dictionaries as ``(dotted key, text)`` rows; lists on one line."""
    rows: list[tuple[str, str]] = []
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            rows += flatten(value, f"{name}.")
        else:
            rows.append((name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return rows
