"""A fine-tuned network of timm or transformers on disk: its name says what to build, its weights are ours to keep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from openjepa.errors import CheckpointError
from openjepa.hub.adapters import open_encoder
from openjepa.hub.adapters_base import Foreign
from openjepa.hub.atomic import MANIFEST, verify_directory, write_directory
from openjepa.hub.classifier import CLASSIFIER, ENTRY, pack_classifier, read_classifier
from openjepa.hub.provenance import PublishedProbe
from openjepa.hub.strict import load_strict
from openjepa.hub.tensorfile import read_safetensors

FORMAT, VERSION = "openjepa-foreign", 1
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


def save_foreign(
    path: Path, foreign: Foreign, encoder: nn.Module, probe: PublishedProbe, about: Mapping[str, Any]
) -> Path:
    """Write the tuned ``encoder`` (a copy of the foreign one's) and its classifier, atomically and with checksums.

    Raises:
        RunError: it cannot be written.
    """
    head, entry = pack_classifier(probe)
    config = {"format": FORMAT, "version": VERSION, "name": foreign.name, "licence": foreign.licence, **about}
    files = {
        _WEIGHTS: {name: value.detach() for name, value in encoder.state_dict().items()},
        CLASSIFIER: head,
        _CONFIG: {**config, ENTRY: entry},
    }
    return write_directory(path, files, replace=True, about={"format": FORMAT, "version": VERSION})


def foreign_directory(path: Path) -> Path | None:
    """The directory :func:`save_foreign` wrote, where ``path`` is it or holds it as ``model``."""
    for folder in (path, path / "model"):
        try:
            found = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and found.get("format") == FORMAT:
            return folder
    return None


def open_foreign_directory(folder: Path) -> Foreign:
    """The network by its name, with the weights and the classifier of ``folder``.

    Raises:
        CheckpointError: damaged, or its weights do not match. Others as :func:`open_encoder`.
    """
    if (folder / MANIFEST).is_file():
        verify_directory(folder)
    info = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    name = str(info.get("name", ""))
    drawn = open_encoder(name if "@random" in name else f"{name}@random")
    assert isinstance(drawn.encoder, nn.Module)
    try:
        load_strict(drawn.encoder, read_safetensors(folder / _WEIGHTS, copy=True)[0])
    except CheckpointError as error:
        raise CheckpointError(f"'{folder}' does not match the network {name}: {error}") from error
    protocol = {**drawn.protocol, "weights": f"fine-tuned, {folder}"}
    probe = read_classifier(folder, info)
    return replace(drawn, name=name, protocol=protocol, licence=info.get("licence"), probe=probe)
