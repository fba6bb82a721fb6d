"""Whatever names a model, opened: a run, a file, a Hugging Face directory, ``timm:``, ``hf:``, a URL, a published name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from openjepa.errors import ConfigError
from openjepa.hub.adapters import Foreign, is_foreign, open_encoder
from openjepa.hub.foreign_directory import foreign_directory, open_foreign_directory
from openjepa.hub.imports import import_probe, import_weights
from openjepa.hub.model_directory import DEPLOYED, LoadedModel, Which, load_model

NATIVE = ("ijepa", "vjepa2", "vit_mae", "videomae")  # Hugging Face's model types that become models of ours


def open_any(
    what: str | Path,
    *,
    which: Which = "deployed",
    hints: Mapping[str, Any] | None = None,
    probe: str | Path | None = None,
) -> LoadedModel | Foreign:
    """Open what ``what`` names; see :func:`openjepa.load`.

    Raises:
        CheckpointError: there is no such thing, it is damaged, or its weights do not match. ConfigError: ambiguous, or no
            such encoder in it. MissingExtra: a library it needs is not installed.
    """
    opened = _open(str(what), which, hints)
    if probe is None or isinstance(opened, Foreign):
        return opened
    return replace(opened, probe=import_probe(probe))


def _open(what: str, which: Which, hints: Mapping[str, Any] | None) -> LoadedModel | Foreign:
    path = Path(what)
    if path.exists():
        return _local(path, which, hints)
    if is_foreign(what):
        return open_encoder(what)
    return load_model(path, which)


def _local(
    path: Path, which: Which, hints: Mapping[str, Any] | None, licence: str | None = None, name: str | None = None
) -> LoadedModel | Foreign:
    """What lies on the disk. licence, name: where a catalogue has them."""
    if path.is_file() and path.name != DEPLOYED:
        return import_weights(path, which=which, hints=hints, licence=licence, name=name)
    tuned = foreign_directory(path)
    if tuned is not None:
        return open_foreign_directory(tuned)
    kind = _model_type(path)
    if kind in NATIVE:
        return import_weights(path, which=which, hints=hints, licence=licence, name=name)
    if kind is not None:
        return open_encoder(path)
    if path.is_dir() and (path / "checkpoint.pt").is_file():
        return import_weights(path, which=which, hints=hints, licence=licence, name=name)
    return load_model(path, which)


def _model_type(path: Path) -> str | None:
    """What Hugging Face's ``config.json`` says the model is; None for a directory of ours or of nobody."""
    try:
        found = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return (
        str(found["model_type"])
        if isinstance(found, dict) and "model_type" in found and "format" not in found
        else None
    )


def open_own(what: str | Path, which: Which = "deployed") -> LoadedModel:
    """Open a model of ours, however it is named: with its recipe, and with its predictor where the source has one.

    Raises:
        ConfigError: an encoder of timm or transformers that is none of our systems. Others as in :func:`open_any`.
    """
    opened = open_any(what, which=which)
    if isinstance(opened, Foreign):
        raise ConfigError(f"'{what}' is an encoder alone, of another library: this needs a model with its recipe")
    return opened
